#!/usr/bin/env python3
"""Runs the programs of `tests.formats` on a real mount behind a line of 50 ms and 100 Mbit/s, and writes down what
arrives at our read operation; for `tests.replay`. Prints bytes and times besides, for docs/architecture.md.

    python -m tests.record_traces [--rtt-ms 50] [--mbit 100] [--only NAME …] [--save] [--repeat N]

`--save` writes tests/data/traces/. Times are those of the program's own work, without starting Python.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests import formats
from tests.formats import Program
from tests.mounts import Mounted, login_options, source_of
from tests.relay import Relay
from tests.replay import TRACES, Trace

STORED = "artifacts/model/net/v1/files"


class TracedMount(Mounted):
    program = "tests.traced_mount"


def make_store(folder: Path, names: set[str]) -> Path:
    """A store with these files, one version of one model."""
    made = folder / "made"
    made.mkdir()
    for name in names:
        formats.FILES[name](made / name)
    writer = StoreWriter(folder / "server" / "runicorn")
    writer.add_version("model", "net", {name: (made / name).read_bytes() for name in sorted(names)})
    return writer.root


def cat_seconds(sshd: PrivateSshd, line: Relay, path: Path) -> float:
    """What `ssh cat` of the file takes on a connection that stands already."""
    with tempfile.TemporaryDirectory() as folder:
        ssh = ["ssh", "-F", "/dev/null", "-p", str(line.port), "-i", str(sshd.identity)]
        ssh += ["-o", f"UserKnownHostsFile={sshd.known_hosts}", "-o", f"ControlPath={folder}/s", "127.0.0.1"]
        subprocess.run([*ssh, "-n", "-o", "ControlMaster=yes", "-o", "ControlPersist=60", "true"], check=True)
        began = time.monotonic()
        subprocess.run([*ssh, "-n", f"cat {path}"], check=True, stdout=subprocess.DEVNULL)
        took = time.monotonic() - began
        subprocess.run([*ssh, "-O", "exit"], check=True, stderr=subprocess.DEVNULL)
        return took


@contextmanager
def fresh_mount(sshd: PrivateSshd, root: Path, line: Relay, trace: Path) -> Iterator[Mounted]:
    """A mount with nothing in its cache; it has connected and measured the line's delay."""
    with tempfile.TemporaryDirectory(prefix="traced-") as folder:
        os.environ["TRACE_FILE"] = str(trace)
        with closing(TracedMount(Path(folder), source_of(sshd, root, line.port), *login_options(sshd))) as mounted:
            mounted.wait()
            yield mounted


def run(program: Program, mounted: Mounted) -> float:
    """Seconds of the program's own work."""
    path = mounted.mountpoint / STORED / program.file
    code = f"import time\n{program.imports}\npath = {str(path)!r}\nbegan = time.monotonic()\n{program.code}\n"
    code += "print(time.monotonic() - began)\nimport os; os._exit(0)"
    done = subprocess.run([sys.executable, "-u", "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rtt-ms", type=float, default=50)
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    chosen = [program for program in formats.PROGRAMS if not options.only or program.name in options.only]
    with tempfile.TemporaryDirectory(prefix="traces-") as name, PrivateSshd() as sshd:
        folder = Path(name)
        root = make_store(folder, {program.file for program in chosen})
        with Relay(sshd.port, rtt_ms=options.rtt_ms, mbit=options.mbit) as line:
            sshd.trust(line.port)
            print("| program | file MiB | needed MiB | fetched MiB | reads | s | `ssh cat` s | ratio |")
            print("|---|---|---|---|---|---|---|---|")
            for program in chosen:
                report(program, options.repeat, sshd, root, line, folder / "trace", options.save)


def report(program: Program, repeat: int, sshd: PrivateSshd, root: Path, line: Relay, file: Path, save: bool) -> None:
    """One row: medians of `repeat` runs, each with a cold cache."""
    stored = root / STORED / program.file
    size = stored.stat().st_size
    cats = [cat_seconds(sshd, line, stored) for _ in range(repeat if program.needs is None else 0)]
    times, fetched, reads = [], [], []
    for _ in range(repeat):
        file.unlink(missing_ok=True)
        with fresh_mount(sshd, root, line, file) as mounted:
            times.append(run(program, mounted))
            time.sleep(0.5)  # what is still read ahead counts
            status = json.loads(mounted.run("cache", "status", "--json").stdout)
            fetched.append(status["bytes_fetched"])
        trace = Trace.recorded(size, program.needs, file.read_text())
        reads.append(len(trace.reads))
    if save:
        TRACES.mkdir(exist_ok=True)
        (TRACES / f"{program.name}.txt").write_text(trace.text())
    took, came = statistics.median(times), statistics.median(fetched)
    needed = size if program.needs is None else program.needs
    beside = f"{statistics.median(cats):.2f} | {took / statistics.median(cats):.2f}" if cats else "|"
    mib = 1 << 20
    print(
        f"| {program.name} | {size / mib:.1f} | {needed / mib:.2f} | {came / mib:.2f} | {statistics.median(reads):.0f} "
        f"| {took:.2f} ({min(times):.2f}-{max(times):.2f}) | {beside} |",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""Reads of a file that is cached as a whole, with and without the pages that the kernel has of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.benchmark import machine, peers
from scripts.benchmark.bench import MIB, Bench, Workload, alternate
from scripts.benchmark.measuring import Outcome, Series
from scripts.benchmark.workloads import large

FIO_TIMEOUT_S = 300.0
JOBS = 4
NEEDS_ROOT = "not root: the kernel's pages could not be dropped, so this is what is read from memory"


@contextmanager
def _warm(bench: Bench) -> Iterator[dict[str, Path]]:
    """The same file in all ways to it; what caches has it in its cache."""
    root, file = large.root(bench), large.path("large")
    with ExitStack() as stack:
        files = {
            "runicornfs": stack.enter_context(peers.runicornfs(bench, bench.loopback(), root)) / file,
            "rclone": stack.enter_context(peers.rclone(bench, bench.loopback(), root)) / file,
            "bare mfusepy": stack.enter_context(peers.bare_mfusepy(bench, root)) / file,
        }
        if machine.is_installed("bindfs"):
            files["bindfs (C)"] = stack.enter_context(peers.bindfs(bench, root)) / file
        files["plain file"] = root / file
        for path in files.values():
            peers.read_seconds(path)
        yield files


def _passes(
    rounds: int, files: dict[str, Path], read: Callable[[Path], float]
) -> tuple[dict[str, Series], dict[str, Series]]:
    """Each file with dropped pages, then at once a second time: what the first read left is there."""
    again: dict[str, list[float]] = {who: [] for who in files}

    def both(who: str, path: Path) -> Callable[[], float]:
        def measure() -> float:
            if machine.can_drop_caches():
                machine.drop_caches()
            first = read(path)
            again[who].append(read(path))
            return first

        return measure

    dropped = alternate(rounds, {who: both(who, path) for who, path in files.items()})
    return dropped, {who: Series(tuple(values)) for who, values in again.items()}


def _sequential(bench: Bench) -> Outcome:
    outcome, size = Outcome(), large.sizes(bench)["large"]
    with _warm(bench) as files:
        dropped, kept = _passes(bench.pick(5, 2), files, lambda path: size / peers.read_seconds(path) / 1e6)
    _add(outcome, dropped, kept, "MB/s")
    outcome.at_least(1.5, "× rclone, pages dropped", dropped["runicornfs"].over(dropped["rclone"]))
    outcome.at_least(70, "% of the plain file, pages kept", kept["runicornfs"].over(kept["plain file"]).scaled(100))
    outcome.note(f"{size // MIB} MiB")
    return outcome


def _random(bench: Bench) -> Outcome:
    outcome, per_job = Outcome(), bench.pick(32, 8) * MIB
    with _warm(bench) as files:
        dropped, kept = _passes(bench.pick(3, 1), files, lambda path: _fio_iops(path, per_job) / 1000)
    _add(outcome, dropped, kept, "1,000 reads/s")
    outcome.at_least(0.4, "× rclone, pages dropped", dropped["runicornfs"].over(dropped["rclone"]))
    share = kept["runicornfs"].over(kept["plain file"]).scaled(100)
    outcome.at_least(90, "% of the plain file, second pass", share)
    outcome.note(f"fio, {JOBS} jobs, psync, {per_job // MIB} MiB each, the same places in both passes")
    return outcome


def _fio_iops(path: Path, per_job: int) -> float:
    command = ["fio", "--name=random", f"--filename={path}", "--rw=randread", "--bs=4k", "--ioengine=psync"]
    command += [f"--numjobs={JOBS}", f"--io_size={per_job}", "--readonly", "--group_reporting", "--output-format=json"]
    command += ["--invalidate=0", "--randrepeat=1", "--randseed=5", "--thread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FIO_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"fio failed: {done.stderr.strip()}")
    report = json.loads(done.stdout[done.stdout.index("{") :])
    return float(report["jobs"][0]["read"]["iops"])


def _add(outcome: Outcome, dropped: dict[str, Series], kept: dict[str, Series], unit: str) -> None:
    for who, reached in dropped.items():
        outcome.add(f"{who}, dropped", reached, unit)
        outcome.add(f"{who}, kept", kept[who], unit)
    if not machine.can_drop_caches():
        outcome.note(NEEDS_ROOT)
    if not machine.is_installed("bindfs"):
        outcome.note("bindfs, libfuse without Python, could not be had here")


WORKLOADS = (
    Workload("warm-read", "warm read of 1 GiB, page cache dropped / kept", "–", _sequential),
    Workload("warm-random", "warm random 4 KiB reads, page cache dropped / second pass", "–", _random),
)

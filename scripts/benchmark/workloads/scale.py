"""A catalog of a million files, mounted without a connection."""

from __future__ import annotations

import time
from pathlib import Path

from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark import machine, peers
from scripts.benchmark.bench import Bench, Workload
from scripts.benchmark.measuring import Outcome, Series
from tests.mounts import Mounted, login_options, source_of
from tests.stores import add_described_version

VERSIONS = 10
FOLDERS = 100


def _measure(bench: Bench) -> Outcome:
    outcome, files = Outcome(), bench.pick(1_000_000, 20_000)

    def build(writer: StoreWriter) -> None:
        sizes = {f"part-{n % FOLDERS:02}/{n:06}.bin": n for n in range(files // VERSIONS)}
        for _ in range(VERSIONS):
            add_described_version(writer, "dataset", "million", dict.fromkeys(sizes, 4096))

    root = bench.store("million", build)
    seconds, resident = [], []
    with peers.mounted(bench, bench.loopback(), root) as running:
        running.stop()
        for _ in range(bench.pick(5, 2)):
            taken, memory = _mount_offline(bench, root, running.folder)
            seconds.append(taken)
            resident.append(memory / 1e6)
    outcome.at_most(1, "s", outcome.add("start of the process to mounted", Series(tuple(seconds)), "s"))
    outcome.at_most(200, "MB resident", outcome.add("resident", Series(tuple(resident)), "MB"))
    outcome.note(f"{files:,} files in {VERSIONS} versions of {FOLDERS} folders")
    return outcome


def _mount_offline(bench: Bench, root: Path, folder: Path) -> tuple[float, int]:
    """Seconds from the start of the process to mounted, and what is resident then."""
    source = source_of(bench.sshd, root, bench.loopback().port)
    start = time.perf_counter()
    running = Mounted(folder, source, *login_options(bench.sshd), "--offline")
    try:
        running.wait()
        return time.perf_counter() - start, machine.resident_bytes(running.process.pid)
    finally:
        running.close()


WORKLOADS = (Workload("million", "mount a catalog of 1,000,000 files from the cache", "–", _measure),)

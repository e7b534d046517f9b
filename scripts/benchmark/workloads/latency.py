"""What a transfer at full speed does to those who only want to know something, or to read a little that is cached."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runicornfs.demo.contents import Content, random_bytes
from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark import machine, peers
from scripts.benchmark.bench import MIB, Bench, Workload
from scripts.benchmark.measuring import Outcome, Series, percentile

CALLS = 1000
PAUSE_S = 0.001  # between two calls, so that they spread over the transfer
SMALL = 4096
LARGE = Path("artifacts/model/large/v1/files/weights.bin")
OTHERS = Path("artifacts/dataset/others/v1/files")
CACHED = Path("artifacts/dataset/cached/v1/files")
BOUNDS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def _root(bench: Bench) -> Path:
    def build(writer: StoreWriter) -> None:
        writer.add_version("model", "large", {"weights.bin": random_bytes(bench.pick(2048, 1024) * MIB, seed=1)})
        others: dict[str, Content] = {f"{n:04}.bin": b"%d" % n for n in range(CALLS)}
        cached: dict[str, Content] = {f"{n:04}.bin": b"%04d" % n * (SMALL // 4) for n in range(CALLS)}
        writer.add_version("dataset", "others", others)
        writer.add_version("dataset", "cached", cached)

    return bench.store("latency", build)


@contextmanager
def _transfer(file: Path) -> Iterator[Callable[[], bool]]:
    """Reads a file at full speed; what is given says whether it still does."""
    process = subprocess.Popen(["dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none"])
    try:
        yield lambda: process.poll() is None
    finally:
        process.kill()
        process.wait()


def _stats(folder: Path) -> list[float]:
    return [_timed(os.stat, folder / OTHERS / f"{n:04}.bin") for n in range(CALLS)]


def _reads(folder: Path) -> list[float]:
    return [_timed(Path.read_bytes, folder / CACHED / f"{n:04}.bin") for n in range(CALLS)]


def _timed(call: Callable[[Path], object], path: Path) -> float:
    time.sleep(PAUSE_S)
    start = time.perf_counter()
    call(path)
    return (time.perf_counter() - start) * 1000


def _measure(bench: Bench) -> Outcome:
    outcome, root = Outcome(), _root(bench)
    programs: dict[str, Callable[[Path], list[float]]] = {"stat": _stats, "small cached reads": _reads}
    for what, program in programs.items():
        for who, peer in peers.MOUNTS.items():
            if what != "stat" and who == "sshfs":
                continue  # keeps no contents
            with peer(bench, bench.loopback(), root) as folder:
                for path in (folder / CACHED).iterdir() if what != "stat" else ():
                    path.read_bytes()
                idle = _forgetting(program, folder) if who == "runicornfs" else []
                if machine.can_drop_caches():
                    machine.drop_caches()
                with _transfer(folder / LARGE) as goes_on:
                    busy = program(folder)
                    whole = goes_on()
            if idle:
                _add(outcome, f"runicornfs, {what}, idle", idle)
            _add(outcome, f"{who}, {what}, while a transfer runs", busy)
            if not whole:
                outcome.notes.append(f"{who}: the transfer ended before all of {what} were done")
            if who == "runicornfs":
                outcome.notes.append(f"{what} during the transfer: {_histogram(busy)}")
                if what == "stat":
                    outcome.at_most(5, "ms at p99, stat", Series.of(percentile(busy, 0.99)))
    if not machine.can_drop_caches():
        outcome.notes.append("not root: the kernel's pages were not dropped, so small cached reads do not reach us")
    return outcome


def _forgetting(program: Callable[[Path], list[float]], folder: Path) -> list[float]:
    if machine.can_drop_caches():
        machine.drop_caches()
    return program(folder)


def _add(outcome: Outcome, who: str, milliseconds: list[float]) -> None:
    """The median with p99 and the most: of latencies, the least says nothing."""
    for share, name in ((0.5, "p50"), (0.99, "p99"), (1.0, "max")):
        outcome.add(f"{who}, {name}", Series.of(percentile(milliseconds, share)), "ms")


def _histogram(milliseconds: list[float]) -> str:
    """How many took at most so long, and longer than the bound before."""
    counted, below = [], 0
    for bound in BOUNDS_MS:
        upto = sum(value <= bound for value in milliseconds)
        counted.append(f"≤ {bound:g} ms: {upto - below}")
        below = upto
    return ", ".join([*counted, f"more: {len(milliseconds) - below}"])


WORKLOADS = (
    Workload("latency", "`stat` of 1,000 other files while a transfer runs at full speed", "loopback", _measure),
)

"""What a transfer at full speed does to those who only want to know something, or to read a little that is cached."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runicornfs.demo.contents import Content
from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark import machine, peers
from scripts.benchmark.bench import MIB, Bench, Workload
from scripts.benchmark.measuring import Outcome, Series, percentile
from scripts.benchmark.workloads import large

CALLS = 1000
QUICK_CALLS = 300
PAUSE_S = 0.001  # between two calls, so that they spread over the transfer
SMALL = 4096
LARGE = Path("artifacts/model/large/v1/files/weights.bin")
OTHERS = Path("artifacts/dataset/others/v1/files")
CACHED = Path("artifacts/dataset/cached/v1/files")
BOUNDS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def _root(bench: Bench) -> Path:
    def build(writer: StoreWriter) -> None:
        writer.add_version("model", "large", {"weights.bin": large.content(bench.pick(2048, 512) * MIB, seed=1)})
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


@dataclass(frozen=True)
class _Program:
    """What is called once for each of so many files below `folder`. `cached`: their contents were read before."""

    title: str
    folder: Path
    call: Callable[[Path], object]
    cached: bool

    def prepare(self, mount: Path, root: Path) -> None:
        """What it reads is cached, and the kernel knows nothing of it any more; the server has all in its memory."""
        if self.cached:
            machine.read_all(mount / self.folder)
        if machine.can_drop_caches():
            machine.drop_caches()
        machine.read_all(root)

    def run(self, mount: Path, calls: int) -> list[float]:
        """The milliseconds of each call."""
        taken = []
        for number in range(calls):
            path = mount / self.folder / f"{number:04}.bin"
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            self.call(path)
            taken.append((time.perf_counter() - start) * 1000)
        return taken


def _measure(bench: Bench) -> Outcome:
    outcome, root, calls = Outcome(), _root(bench), bench.pick(CALLS, QUICK_CALLS)
    stat = _Program("stat", OTHERS, os.stat, cached=False)
    small = _Program("small cached read", CACHED, Path.read_bytes, cached=True)
    without_cache = {"sshfs"}
    for program in (stat, small):
        contestants = [who for who in peers.MOUNTS if not (program.cached and who in without_cache)]
        idle: list[list[float]] = []
        busy: dict[str, list[list[float]]] = {who: [] for who in contestants}
        for _ in range(bench.pick(3, 1)):
            for who in contestants:
                with peers.MOUNTS[who](bench, bench.loopback(), root) as mount:
                    if who == "runicornfs":
                        program.prepare(mount, root)
                        idle.append(program.run(mount, calls))
                    program.prepare(mount, root)
                    with _transfer(mount / LARGE) as goes_on:
                        busy[who].append(program.run(mount, calls))
                        if not goes_on():
                            outcome.note(f"{who}: the transfer ended before the last {program.title}")
        _add(outcome, f"runicornfs, {program.title}, idle", idle)
        for who, rounds in busy.items():
            _add(outcome, f"{who}, {program.title} while a transfer runs", rounds)
        ours = busy["runicornfs"]
        if not program.cached:
            outcome.at_most(5, "ms at p99, stat", Series(tuple(percentile(one, 0.99) for one in ours)))
        outcome.note(f"{program.title}, runicornfs while a transfer runs: {_histogram(sum(ours, []))}")
    if not machine.can_drop_caches():
        outcome.note("not root: the kernel's pages were not dropped, so small cached reads do not reach us")
    return outcome


def _add(outcome: Outcome, what: str, rounds: list[list[float]]) -> None:
    """All calls of all rounds together, then what 99 of 100 keep to in each round."""
    outcome.add(f"{what}, p50 (least, most)", Series(tuple(sum(rounds, []))), "ms")
    outcome.add(f"{what}, p99", Series(tuple(percentile(one, 0.99) for one in rounds)), "ms")


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

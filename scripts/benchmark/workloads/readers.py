"""Several programs that read at the same time: each its own file, or all the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.benchmark import peers
from scripts.benchmark.bench import MIB, Bench, Workload
from scripts.benchmark.measuring import Outcome, Series
from scripts.benchmark.workloads import large
from scripts.benchmark.workloads.large import READERS

# What SSH and the login add to what is fetched. A file that came twice would be at 2.
ONCE = 1.1
# The slowest reader's rate as a share of the mean: less than half is called starving.
FAIR = 0.5


def _read_together(paths: Sequence[Path]) -> list[float]:
    """The seconds that each reader took, all started at once."""
    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(peers.read_seconds, paths))


def _measure(bench: Bench) -> Outcome:
    outcome, line, root = Outcome(), bench.line(), large.root(bench)
    size, names = large.sizes(bench)["reader-0"], [f"reader-{number}" for number in range(READERS)]
    fairness: list[float] = []
    together: dict[str, list[float]] = {who: [] for who in ("runicornfs", "rclone")}
    same: list[float] = []
    fetched: list[float] = []
    for _ in range(bench.pick(3, 1)):
        for who in together:
            with peers.MOUNTS[who](bench, line, root) as folder:
                start = time.perf_counter()
                seconds = _read_together([folder / large.path(name) for name in names])
                together[who].append(READERS * size / (time.perf_counter() - start) / 1e6)
            if who == "runicornfs":
                rates = [size / taken for taken in seconds]
                fairness.append(min(rates) / (sum(rates) / READERS))
        with peers.runicornfs(bench, line, root) as folder:
            before, start = line.received(), time.perf_counter()
            _read_together([folder / large.path(names[0])] * READERS)
            same.append(size / (time.perf_counter() - start) / 1e6)
            fetched.append((line.received() - before) / size)
    for who, rates in together.items():
        outcome.add(f"{who}, 8 files, all together", Series(tuple(rates)), "MB/s")
    outcome.add("runicornfs, one file, each of 8", Series(tuple(same)), "MB/s")
    outcome.at_most(ONCE, "× the one file fetched", Series(tuple(fetched)))
    outcome.at_least(FAIR, "of the mean rate for the slowest of 8", Series(tuple(fairness)))
    outcome.note(f"{size // MIB} MiB each; starving is called what gets less than half of the mean")
    return outcome


WORKLOADS = (Workload("readers", "8 readers of 8 files, 8 readers of one file", "50 ms", _measure),)

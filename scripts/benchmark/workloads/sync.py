"""From connecting to a mount, and syncs after that: what is known of the store, no contents."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from runicornfs.demo.contents import Content
from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark import peers, runicorn_client
from scripts.benchmark.api import Api
from scripts.benchmark.bench import Bench, Line, Workload
from scripts.benchmark.measuring import Outcome, Series
from tests.stores import replace_record

# How many artifacts, versions and runs.
FULL, QUICK = (200, 1000, 1000), (20, 100, 100)
# Runicorn's client needs some three quarters of an hour for all that, so it gets less, which is scaled up.
RUNICORN_FULL, RUNICORN_QUICK = (2, 10, 10), (1, 3, 3)
SEED = 11
FILES_OF_A_MANIFEST = 5000  # some 1 MB of JSON


def _build(artifacts: int, versions: int, runs: int) -> Callable[[StoreWriter], None]:
    def build(writer: StoreWriter) -> None:
        made = []
        for number in range(runs):
            uses = [("model", f"model-{number % artifacts:03}", 1)] if number >= artifacts else []
            made.append(writer.add_run("project", f"experiment {number % 10}", summary={"n": number}, uses=uses))
            if number < versions:
                files: dict[str, Content] = {f"{n}.bin": b"%d %d" % (number, n) for n in range(3)}
                writer.add_version("model", f"model-{number % artifacts:03}", files, created_by_run=made[-1])

    return build


def _first(bench: Bench) -> Outcome:
    outcome, line, size = Outcome(), bench.line(mbit=100), QUICK if bench.quick else FULL
    root = bench.store("records", _build(*size))
    taken = Series(tuple(_connect_to_mounted(bench, line, root) for _ in range(bench.pick(5, 1))))
    outcome.add("runicornfs", taken, "s")
    outcome.at_most(3, "s", taken)
    outcome.note("{} artifacts, {:,} versions, {:,} runs; from the start of the process".format(*size))
    if runicorn_client.python() is None:
        outcome.note(f"{runicorn_client.RUNICORN} cannot be installed here")
        return outcome
    fewer = bench.store("few-records", _build(*(RUNICORN_QUICK if bench.quick else RUNICORN_FULL)))
    share = _documents(fewer) / _documents(root)
    theirs = runicorn_client.measure(bench, line, fewer)["sync"] / share
    outcome.add("Runicorn 0.4.1, extrapolated", Series.of(theirs), "s")
    outcome.note(f"Runicorn synced a store with {share:.1%} as many documents, and its time is scaled up")
    return outcome


def _documents(root: Path) -> int:
    return sum(1 for _ in root.rglob("*.json"))


def _connect_to_mounted(bench: Bench, line: Line, root: Path) -> float:
    start = time.perf_counter()
    with peers.mounted(bench, line, root):
        return time.perf_counter() - start


def _again(bench: Bench) -> Outcome:
    outcome, line = Outcome(), bench.line()
    root = bench.store("records", _build(*(QUICK if bench.quick else FULL)))
    nothing, one = [], []
    with peers.mounted(bench, line, root) as running, Api(running) as api:
        api.sync()  # the first is over when the mount is there; what goes on behind it is not to be measured
        for number in range(bench.pick(5, 2)):
            nothing.append(api.sync())
            StoreWriter(root).add_version("model", "new", {"new.bin": b"%d" % number})
            one.append(api.sync())
    outcome.at_most(0.5, "s with nothing new", outcome.add("nothing new", Series(tuple(nothing)), "s"))
    outcome.at_most(0.5, "s with one new version", outcome.add("one new version", Series(tuple(one)), "s"))
    outcome.note("from the call of the API until it says that the sync is completed")
    return outcome


def _large(bench: Bench) -> Outcome:
    outcome, line = Outcome(), bench.line(0.0, mbit=100)
    artifacts = bench.pick(1000, 20)
    root = bench.store("large-records", _build_manifests(artifacts))
    size = sum(path.stat().st_size for path in root.glob("artifacts/*/*/v*/manifest.json"))
    taken = Series.of(_connect_to_mounted(bench, line, root))
    outcome.add("runicornfs", taken, "s")
    outcome.at_most(60 * artifacts / 1000, "s", taken)
    outcome.note(
        f"{artifacts:,} artifacts, {size / 1e6:,.0f} MB of manifests of {FILES_OF_A_MANIFEST:,} files each, with "
        f"digests that do not compress; the bar in proportion. Uncompressed they are {size / line.bytes_per_s:.0f} s"
    )
    return outcome


def _build_manifests(artifacts: int) -> Callable[[StoreWriter], None]:
    """Manifests like those of `json.dumps(indent=2)`, put together from text: five million entries of them."""

    def build(writer: StoreWriter) -> None:
        source = random.Random(SEED)
        for number in range(artifacts):
            version = writer.add_version("dataset", f"data-{number:04}", {})
            digests = source.randbytes(32 * FILES_OF_A_MANIFEST).hex()
            entries = ",\n".join(
                f'    {{\n      "path": "part-{n % 10}/{n:05}.bin",\n      "size": {n},\n      '
                f'"digest": "sha256:{digests[64 * n : 64 * n + 64]}",\n      "modified_at": 1764000000.{n:06}\n    }}'
                for n in range(FILES_OF_A_MANIFEST)
            )
            total = sum(range(FILES_OF_A_MANIFEST))
            rest = {"references": [], "total_size": total, "total_files": FILES_OF_A_MANIFEST, "total_references": 0}
            tail = json.dumps(rest | {"created_at": 1764000000.0}, indent=2)[1:]
            text = f'{{\n  "files": [\n{entries}\n  ],{tail}'
            replace_record(writer, "dataset", f"data-{number:04}", version, "manifest.json", text.encode())

    return build


WORKLOADS = (
    Workload("first-sync", "first sync: 200 artifacts, 1,000 versions, 1,000 runs", "50 ms, 100 Mbit/s", _first),
    Workload("sync-again", "sync with nothing new / with one new version", "50 ms", _again),
    Workload("large-sync", "first sync of 1,000 artifacts, 1 GB of metadata", "100 Mbit/s", _large),
)

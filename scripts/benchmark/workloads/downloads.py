"""A version of many small files, downloaded into a folder."""

from __future__ import annotations

from pathlib import Path

from runicornfs.demo.contents import random_bytes
from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark import peers, runicorn_client
from scripts.benchmark.api import Api
from scripts.benchmark.bench import Bench, Workload
from scripts.benchmark.measuring import Outcome, Series

SIZE = 100_000
PART = 50  # files that Runicorn's client gets: some of the same size, since all of them take it minutes


def _root(bench: Bench) -> Path:
    def build(writer: StoreWriter) -> None:
        for name, files in (("whole", bench.pick(1000, 100)), ("part", bench.pick(PART, PART // 5))):
            writer.add_version("model", name, {f"{n:04}.bin": random_bytes(SIZE, seed=n) for n in range(files)})

    return bench.store("downloads", build)


def _measure(bench: Bench) -> Outcome:
    outcome, line, root = Outcome(), bench.line(), _root(bench)
    whole, part = bench.pick(1000, 100), bench.pick(PART, PART // 5)
    seconds = []
    for _ in range(bench.pick(3, 1)):
        with peers.mounted(bench, line, root) as running, Api(running) as api:
            seconds.append(api.download("whole/v1", str(running.folder / "downloaded")))
            copied = len(list((running.folder / "downloaded").rglob("*.bin")))
            if copied != whole:
                raise RuntimeError(f"{copied} of {whole} files were downloaded")
    ours = outcome.add("runicornfs", Series(tuple(seconds)).inverse(whole), "files/s")
    outcome.note(f"{whole:,} files of {SIZE // 1000} kB, each verified; fresh cache in every round")
    if runicorn_client.python() is None:
        outcome.note(f"{runicorn_client.RUNICORN} cannot be installed here")
        return outcome
    taken = runicorn_client.measure(bench, line, root, download="part")["download"]
    theirs = outcome.add("Runicorn 0.4.1", Series.of(part / taken), "files/s")
    outcome.at_least(20, "× Runicorn 0.4.1", ours.over(theirs))
    outcome.note(f"Runicorn downloads {part} such files, one after the other: the rate is that of any number")
    return outcome


WORKLOADS = (Workload("download", "download of a version of 1,000 files of 100 kB", "50 ms", _measure),)

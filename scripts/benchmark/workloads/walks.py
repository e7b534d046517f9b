"""Walks over a store of many files: names and attributes, no contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runicornfs.demo.contents import Content
from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark import peers
from scripts.benchmark.api import Api
from scripts.benchmark.bench import Bench, Line, Workload
from scripts.benchmark.measuring import Outcome, Series

FILES, FOLDERS = 20_000, 100
QUICK_FILES, QUICK_FOLDERS = 2_000, 20
TREE = Path("artifacts/dataset/many/v1/files")
PROGRAMS = {"find -size": ["find", "{}", "-size", "+1k"], "ls -lR": ["ls", "-lR", "{}"]}


def _root(bench: Bench) -> Path:
    files, folders = bench.pick(FILES, QUICK_FILES), bench.pick(FOLDERS, QUICK_FOLDERS)

    def build(writer: StoreWriter) -> None:
        contents: dict[str, Content] = {f"part-{n % folders:03}/{n:05}.txt": b"%d" % n for n in range(files)}
        writer.add_version("dataset", "many", contents)

    return bench.store("many", build)


def _walk(program: list[str], folder: Path) -> float:
    return peers.seconds_of([part.format(folder / TREE) for part in program])


def _walks(line_of: Callable[[Bench], Line], rounds: int) -> Callable[[Bench], Outcome]:
    def measure(bench: Bench) -> Outcome:
        outcome, root, line = Outcome(), _root(bench), line_of(bench)
        for what, program in PROGRAMS.items():
            first: dict[str, list[float]] = {who: [] for who in peers.MOUNTS}
            second: dict[str, list[float]] = {who: [] for who in peers.MOUNTS}
            asked: list[float] = []
            for _ in range(1 if bench.quick else rounds):
                for who, peer in peers.MOUNTS.items():
                    with peer(bench, line, root) as folder:
                        first[who].append(_walk(program, folder))
                        second[who].append(_walk(program, folder))
                asked.append(_asked_in_second_walk(bench, line, root, program))
            for who in peers.MOUNTS:
                outcome.add(f"{who}, {what}, first", Series(tuple(first[who])), "s")
                outcome.add(f"{who}, {what}, second", Series(tuple(second[who])), "s")
            ours = Series(tuple(first["runicornfs"]))
            for who in ("sshfs", "rclone"):
                outcome.at_least(3, f"× faster than {who}, first {what}", Series(tuple(first[who])).over(ours))
            outcome.at_most(0, f"getattr and lookup reach us in a second {what}", Series(tuple(asked)))
        outcome.note(f"{bench.pick(FILES, QUICK_FILES):,} files in {bench.pick(FOLDERS, QUICK_FOLDERS)} folders")
        return outcome

    return measure


def _asked_in_second_walk(bench: Bench, line: Line, root: Path, program: list[str]) -> int:
    """How many times the kernel asked us for names or attributes. libfuse answers its lookup by our getattr."""
    with peers.mounted(bench, line, root) as running, Api(running) as api:
        _walk(program, running.mountpoint)
        before = _asked(api)
        _walk(program, running.mountpoint)
        return _asked(api) - before


def _asked(api: Api) -> int:
    return sum(count for name, count in api.operations().items() if name in ("getattr", "lookup"))


WORKLOADS = (
    Workload(
        "walk-loopback",
        "`find -size` and `ls -lR` of 20,000 files, first / second walk",
        "loopback",
        _walks(lambda bench: bench.loopback(), rounds=3),
    ),
    Workload("walk-50ms", "the same", "50 ms", _walks(lambda bench: bench.line(), rounds=1)),
)

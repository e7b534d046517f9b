"""Reads as programs made them on a real mount (`tests/data/traces/`, by `tests.record_traces`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TRACES = Path(__file__).parent / "data" / "traces"


@dataclass(frozen=True, slots=True)
class Read:
    """`beside` are the earlier reads that had not ended when this one came; all others had."""

    handle: int
    offset: int
    size: int
    beside: frozenset[int]


@dataclass(frozen=True, slots=True)
class Trace:
    """What arrived, in order. `needs` is what the program needed of the file's `size` bytes; None: all."""

    size: int
    needs: int | None
    reads: list[Read]

    @classmethod
    def recorded(cls, size: int, needs: int | None, log: str) -> Trace:
        """From the lines that `tests.traced_mount` writes."""
        reads: list[Read] = []
        index: dict[str, int] = {}
        handles: dict[str, int] = {}
        running: list[int] = []
        for line in log.splitlines():
            kind, number, *rest = line.split()
            if kind == "<":
                running.remove(index[number])
                continue
            handle = handles.setdefault(rest[0], len(handles))
            reads.append(Read(handle, int(rest[1]), int(rest[2]), frozenset(running)))
            index[number] = len(reads) - 1
            running.append(index[number])
        return cls(size, needs, reads)

    @classmethod
    def load(cls, name: str) -> Trace:
        """See `text`."""
        head, *lines = (TRACES / f"{name}.txt").read_text().splitlines()
        size, needs = head.split()
        reads: list[Read] = []
        for line in lines:
            handle, offset, length, *beside = map(int, line.split())
            number = len(reads)
            reads.append(Read(handle, offset, length, frozenset(number - back for back in beside)))
        return cls(int(size), None if needs == "all" else int(needs), reads)

    def text(self) -> str:
        """A line with size and need, then one a read: handle, offset, size, and how many reads back those began that
        were still running."""
        lines = [f"{self.size} {'all' if self.needs is None else self.needs}"]
        for number, read in enumerate(self.reads):
            beside = sorted(number - other for other in read.beside)
            lines.append(" ".join(map(str, [read.handle, read.offset, read.size, *beside])))
        return "\n".join(lines) + "\n"

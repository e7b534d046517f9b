"""Reads as programs made them on a real mount (`tests/data/traces/`, by `tests.record_traces`), made once more: on an
entry of the cache and a line that is arithmetic, so that bytes and round trips come out the same each time."""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runicornfs.content.blocks import ABSENT, BLOCK, bytes_in
from runicornfs.content.counters import Counters
from runicornfs.content.entry import Entry
from runicornfs.content.identity import Identity
from runicornfs.content.readahead import in_flight_bytes, window_blocks
from runicornfs.content.reader import CachedReader

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """`round_trips`: the times at which a read waited for what had not been asked for until then."""

    bytes_fetched: int
    round_trips: int
    seconds: float


def replay(trace: Trace, round_trip_s: float, bytes_per_s: float) -> Outcome:
    """Every read as soon as those have ended that had when it was recorded; programs take no time of their own."""
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(64) as threads:
        file.truncate(trace.size)
        entry = Entry(Identity("key", "path", trace.size, None, 1), "file", None, file.fileno(), verified=False)
        line = _Line(entry, round_trip_s, bytes_per_s)
        return _Replay(trace, entry, line, threads).run()


class _Line:
    """Takes what is wanted while there is room in flight, and delivers it in order. Also what a reader knows of a
    `Fetcher`: nothing is fetched behind our back."""

    def __init__(self, entry: Entry, round_trip_s: float, bytes_per_s: float) -> None:
        self.now = 0.0
        self.bytes = 0
        self.counters = Counters()
        self.table = self
        self._entry = entry
        self._round_trip_s = round_trip_s
        self._bytes_per_s = bytes_per_s
        self._room = in_flight_bytes(round_trip_s, bytes_per_s)
        self._free_at = 0.0
        self._flying: list[tuple[float, int, int]] = []
        self._in_flight = 0

    def window_blocks(self) -> int:
        return window_blocks(self._round_trip_s, self._bytes_per_s)

    def piece_blocks(self) -> int:
        """The cache has room for everything."""
        return self._entry.count

    def submit(self, entry: Entry) -> None:
        """It is taken when there is room."""

    def release(self, entry: Entry) -> None:
        """The reader is closed."""

    def take(self) -> None:
        """Asks for what there is room for."""
        with self._entry.condition:
            while self._in_flight < self._room and (taken := self._entry.take()) is not None:
                size = bytes_in(taken.first, taken.stop, self._entry.size)
                arrives = max(self.now + self._round_trip_s, self._free_at) + size / self._bytes_per_s
                self._free_at = arrives
                self._in_flight += size
                self.bytes += size
                heapq.heappush(self._flying, (arrives, taken.first, taken.stop))

    def deliver(self) -> None:
        """The next range is here."""
        self.now, first, stop = heapq.heappop(self._flying)
        self._in_flight -= bytes_in(first, stop, self._entry.size)
        with self._entry.condition:
            self._entry.came(range(first, stop))


class _Replay:
    def __init__(self, trace: Trace, entry: Entry, line: _Line, threads: ThreadPoolExecutor) -> None:
        self._trace = trace
        self._entry = entry
        self._line = line
        self._threads = threads
        self._readers: dict[int, CachedReader] = {}
        self._running: dict[int, Future[bytes]] = {}
        self._stalls: set[float] = set()

    def run(self) -> Outcome:
        try:
            for number, read in enumerate(self._trace.reads):
                while any(other not in read.beside for other in self._running):
                    self._wait()
                self._begin(number, read)
                self._line.take()
            while self._running:
                self._wait()
        finally:  # whoever still waits gets an error
            for reader in self._readers.values():
                reader.close()
        return Outcome(self._line.bytes, len(self._stalls), self._line.now)

    def _begin(self, number: int, read: Read) -> None:
        reader = self._readers.get(read.handle)
        if reader is None:
            reader = self._readers[read.handle] = CachedReader(self._entry, cast(Any, self._line))
        first, stop = read.offset // BLOCK, -(-min(read.offset + read.size, self._entry.size) // BLOCK)
        if self._entry.has(first, stop):
            reader.read(read.offset, read.size)
            return
        if self._entry.states.find(ABSENT, first, stop) >= 0:
            self._stalls.add(self._line.now)
        waiting = len(self._entry.waiting)
        self._running[number] = self._threads.submit(reader.read, read.offset, read.size)
        while len(self._entry.waiting) == waiting:
            time.sleep(0.0002)

    def _wait(self) -> None:
        """Until one more range is here, and all that waited for it have been answered."""
        self._line.deliver()
        done = [
            number
            for number, read in self._read_now()
            if self._entry.has(read.offset // BLOCK, -(-min(read.offset + read.size, self._entry.size) // BLOCK))
        ]
        for number in done:
            self._running.pop(number).result()
        self._line.take()

    def _read_now(self) -> Iterator[tuple[int, Read]]:
        return ((number, self._trace.reads[number]) for number in self._running)

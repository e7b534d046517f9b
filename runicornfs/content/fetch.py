"""Who fetches what: turns the wishes of readers into fills, and the end of a fill into blocks or errors.

A few threads run fills, one of a content at a time until its turn is over. It looks for what is wanted meanwhile with
each answer that comes: another one would have to open the file over another session, which takes longer than an answer.
Small contents that are wanted at the same time are fetched together. `wishes` says what comes next of a content,
`scheduler` which contents do.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator

from runicornfs.content.blocks import BLOCK, bytes_in, runs
from runicornfs.content.contents import Transfers
from runicornfs.content.counters import Counters
from runicornfs.content.entry import Entry
from runicornfs.content.eviction import Evictor
from runicornfs.content.flusher import Flusher
from runicornfs.content.readahead import in_flight_bytes, window_blocks
from runicornfs.content.room import Room
from runicornfs.content.scheduler import LEAST_SHARE, LEAST_TURN_S, Scheduler, Turn
from runicornfs.content.table import Table
from runicornfs.content.verify import Verifier
from runicornfs.errors import (
    AccessDenied,
    MissingOnServer,
    NoSpace,
    ProtocolError,
    RunicornFSError,
    StaleFile,
    Unreachable,
)
from runicornfs.store.files import Job

log = logging.getLogger("runicornfs.content")

# As many as the server's sessions: a fill needs one.
FILLS = 4
# A failure that may pass is tried again so often in a row, without anything having come.
RETRIES = 3
# Freed at once when the disk turns out to be full.
FULL_DISK_STEP = 16 << 20

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Fetcher:
    """Thread-safe: it has no state but its queue."""

    def __init__(
        self,
        transfers: Transfers,
        table: Table,
        evictor: Evictor,
        room: Room,
        flusher: Flusher,
        verifier: Verifier,
        counters: Counters,
    ) -> None:
        self._transfers = transfers
        self.table = table
        self.evictor = evictor
        self.room = room
        self.flusher = flusher
        self.verifier = verifier
        self.counters = counters
        self.workers = Scheduler(FILLS, self._run, self._share)

    def submit(self, entry: Entry) -> None:
        """Something of this entry is wanted."""
        self.workers.submit(entry)

    def window_blocks(self) -> int:
        """How far ahead of a reader to go on the line as it is, in blocks; not through more than half of the cache."""
        return min(window_blocks(*self._transfers.line()), self.room.limit // 2 // BLOCK)

    def piece_blocks(self) -> int:
        """How much is waited for, and asked for, at once, in blocks: as many as there are fills find room, twice."""
        return max(1, self.room.limit // BLOCK // FILLS // 2)

    def _share(self) -> int:
        """Half of what one of the places has in flight: less would leave the line idle while turns change."""
        round_trip_s, bytes_per_s = self._transfers.line()
        in_flight = in_flight_bytes(round_trip_s, bytes_per_s)
        return max(LEAST_SHARE, int(in_flight) // FILLS // 2, int(bytes_per_s * LEAST_TURN_S))

    def _run(self, entries: list[Entry], turn: Turn) -> None:
        with contextlib.ExitStack() as retained:
            fills = []
            for entry in entries:
                if not retained.enter_context(self.table.retained(entry)):
                    continue
                with entry.condition:
                    if not entry.pulling:
                        entry.pulling = True
                        fills.append(_Fill(entry, turn, self, len(entries) > 1))
            if len(fills) == 1:
                self._finish(fills[0], self._fill(fills[0]))
            elif fills:
                for fill, error in self._fill_many(fills):
                    self._finish(fill, error)

    def _fill(self, fill: _Fill) -> Exception | None:
        try:
            if fill.has_work():
                self._transfers.fill(fill.file, fill, self.table.writable(fill.entry), fill.received)
        except Exception as error:  # whatever it is, the readers who wait must hear of it
            return error
        return fill.refusal

    def _fill_many(self, fills: list[_Fill]) -> Iterator[tuple[_Fill, Exception | None]]:
        """Small contents: all that is wanted of them is taken first, then asked for in one go."""
        asking: list[_Fill] = []
        jobs: list[Job] = []
        for fill in fills:
            try:
                if fill.has_work():
                    fd = self.table.writable(fill.entry)  # before others may take over: see there
                    jobs.append(Job(fill.file, list(fill), fd, fill.received))
                    asking.append(fill)
                else:
                    yield fill, fill.refusal
            except Exception as error:
                yield fill, error
        errors: list[Exception | None]
        try:
            errors = self._transfers.fill_many(jobs) if jobs else []
        except Exception as raised:
            errors = [raised] * len(jobs)
        for fill, outcome in zip(asking, errors, strict=True):
            yield fill, outcome or fill.refusal

    def _finish(self, fill: _Fill, error: Exception | None) -> None:
        entry, path = fill.entry, fill.file.path
        fill.give_back()
        full = isinstance(error, OSError) and error.errno in _FULL
        if full and not self.evictor.free(entry, FULL_DISK_STEP):
            error = NoSpace(f"the disk is full, and nothing can go to make room for {path}")
            full = False
        with entry.condition:
            if fill.pulling:
                entry.pulling = False
            left = list(fill.asked)
            short = error is None and bool(left)
            if short:
                error = ProtocolError(f"the transfer of {path} ended before all that was asked for had come")
            if error is not None:
                again = bool(entry.readers) and (full or self._may_pass(entry, path, error, short))
                entry.put_back(left, again)
                if not again and not entry.fail(error, left):
                    log.info("nothing more is read ahead of %s: %s", path, error)
                if not isinstance(error, RunicornFSError | OSError):
                    log.error("fetching %s failed in a way that is not known", path, exc_info=error)
            more = not entry.pulling and bool(entry.wishes)
        if more:
            self.submit(entry)

    @staticmethod
    def _may_pass(entry: Entry, path: str, error: Exception, short: bool) -> bool:
        if isinstance(error, MissingOnServer | StaleFile | AccessDenied):
            return entry.path_failed(path)
        if short or (isinstance(error, RunicornFSError) and error.is_temporary):
            entry.failures += 1
            return entry.failures <= RETRIES
        return False


class _Fill(Iterator[tuple[int, int]]):
    """One fill of one entry: the iterator of what is wanted, and the receiver of what came.

    `asked` are the blocks that were asked for and have not come, with the number of drops the entry had seen then:
    bytes of an earlier life of the file are not kept. The entry's condition protects it.
    """

    def __init__(self, entry: Entry, turn: Turn, fetcher: Fetcher, together: bool) -> None:
        """With the condition of the entry held. `together`: it is one of several fills that are asked for in one go."""
        self.entry = entry
        self.file = entry.remote_file()
        self.asked: dict[int, int] = {}
        self.pulling = True
        self.refusal: Exception | None = None
        self._turn = turn
        self._together = together
        self._fetcher = fetcher
        self._first: tuple[int, int] | None = None

    def has_work(self) -> bool:
        """Whether there is anything to fetch: a fill of nothing would still open the file."""
        self._first = next(self, None)
        return self._first is not None

    def __next__(self) -> tuple[int, int]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        blocks = self._take() if self.pulling else None
        if blocks is None:
            raise StopIteration
        offset = blocks[0] * BLOCK
        return offset, min(blocks[1] * BLOCK, self.entry.size) - offset

    def _take(self) -> tuple[int, int] | None:
        entry = self.entry
        ends = self._fetcher.workers.must_end(entry, self._turn)
        with entry.condition:
            taken = None if ends else entry.take(self._fetcher.piece_blocks())
            if taken is None:
                if ends or not self.asked:
                    self._stop_pulling()
                return None  # while anything is on its way, it is asked again
            first, stop, awaited = taken.first, taken.stop, taken.awaited
            own = self._bytes_of(list(self.asked))
            self.asked.update(dict.fromkeys(range(first, stop), entry.drops))
        if self._together and self._turn.taken:
            if not self._fetcher.evictor.reserve_at_once(bytes_in(first, stop, entry.size)):
                self._put_off(first, stop)
                return None
            self._turn.taken += bytes_in(first, stop, entry.size)
            return first, stop
        try:
            while not self._fetcher.evictor.reserve(entry, first, stop, awaited, own):
                if self._fetcher.workers.stopping:
                    raise Unreachable(f"{entry.paths[0]} is not fetched any more: the cache is closed")
                self._fetcher.verifier.catch_up(entry)
        except Exception as error:
            self._refuse(first, stop, awaited, error)
            return None
        self._turn.taken += bytes_in(first, stop, entry.size)
        return first, stop

    def _stop_pulling(self) -> None:
        self.pulling = False
        self.entry.pulling = False
        if self.entry.wishes:
            self._fetcher.submit(self.entry)

    def _put_off(self, first: int, stop: int) -> None:
        """There is no room for these blocks at once. Others are to be asked for first: nothing may wait for room that
        has taken some and not asked yet, since two such would wait for each other."""
        with self.entry.condition:
            for block in range(first, stop):
                del self.asked[block]
            self.entry.put_back(range(first, stop), again=True)
            self._stop_pulling()

    def _refuse(self, first: int, stop: int, awaited: bool, error: Exception) -> None:
        """There is no room for these blocks. Read-ahead can wait; what is waited for ends the fill."""
        entry = self.entry
        with entry.condition:
            for block in range(first, stop):
                del self.asked[block]
            if awaited and self.asked and isinstance(error, NoSpace):
                entry.put_back(range(first, stop), again=True)  # what is on its way can be recycled when it is here
            elif awaited or not isinstance(error, NoSpace):
                self.refusal = error
                entry.put_back(range(first, stop), again=False)
                entry.fail(error, range(first, stop))
            else:
                entry.stall(first, stop)
            self._stop_pulling()

    def received(self, offset: int, length: int) -> None:
        """Bytes have been written. Only whole blocks that were asked for count, each once."""
        entry = self.entry
        end = offset + length
        last = entry.count if end >= entry.size else end // BLOCK
        with entry.condition:
            came = [block for block in range(-(-offset // BLOCK), last) if block in self.asked]
            kept = [block for block in came if self.asked[block] == entry.drops]
            late = [block for block in came if self.asked[block] != entry.drops]
            for block in came:
                del self.asked[block]
            size = self._bytes_of(kept)
            hashable = entry.came(kept) if kept else False
            if late:
                entry.put_back(late, again=True)
        self._fetcher.room.landed(size)
        self._fetcher.room.cancel(self._bytes_of(late))
        self._fetcher.counters.fetched(length)
        self._fetcher.flusher.mark(entry)
        if hashable:
            self._fetcher.verifier.submit(entry)

    def give_back(self) -> None:
        """The transfer is over: what has not come needs no room."""
        self._fetcher.room.cancel(self._bytes_of(self.asked))

    def _bytes_of(self, blocks: Iterator[int] | list[int] | dict[int, int]) -> int:
        return sum(bytes_in(first, stop, self.entry.size) for first, stop in runs(blocks))

"""An open content: reads that find their blocks, and reads that wait for them."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time

from runicornfs.content.blocks import ABSENT, BLOCK
from runicornfs.content.contents import Interruption, never
from runicornfs.content.entry import Entry, Waiter
from runicornfs.content.fetch import Fetcher
from runicornfs.content.readahead import Advice, Place
from runicornfs.content.sparse import reopened
from runicornfs.content.wishes import Rank
from runicornfs.errors import Interrupted, RunicornFSError

log = logging.getLogger("runicornfs.content")

# How often a read that waits asks whether the program that wants it is still there. FUSE tells nobody by itself.
POLL_S = 0.25
# A read whose bytes the disk has lost has them fetched again so often.
LOSSES = 1


class CachedReader:
    """One reader of an entry, which it keeps in use. Thread-safe.

    A hit takes no lock: see `entry` for why that is right. The numbers and the read-ahead are written by whoever reads;
    reads at the same time may lose an update to each other, and so a number to the statistics.
    """

    def __init__(self, entry: Entry, fetcher: Fetcher) -> None:
        self.rank = Rank.DEMAND
        self.position: int | None = None
        self.hits = 0
        self.misses = 0
        self.bytes_served = 0
        self._entry = entry
        self._fetcher = fetcher
        self._place = Place(fetcher.window_blocks)
        self._error: Exception | None = None
        self._closing = threading.Lock()
        self._closed = False
        with entry.condition:
            entry.join(self)
            self._generation = entry.generation

    @property
    def state(self) -> str:
        return self._entry.state

    def read(self, offset: int, size: int, interrupted: Interruption = never) -> bytes:
        """See `contents.Reader`."""
        entry = self._entry
        end = min(offset + size, entry.size)
        if offset >= end:
            return b""
        first, stop = offset // BLOCK, -(-end // BLOCK)
        self.position = first
        generation = self._generation
        if entry.has(first, stop):
            data = self._pread(offset, end)
            entry.given = True  # before the generation is looked at: see `entry`
            if len(data) == end - offset and entry.generation == generation:
                self.hits += 1
                self.bytes_served += len(data)
                if not entry.whole:
                    self._look_ahead(first, stop)
                return data
        piece = self._fetcher.piece_blocks()
        if stop - first <= piece:
            return self._wait(offset, end, interrupted)
        parts = []
        while offset < end:  # all of it together may be more than a small cache has room for
            part_end = min(end, (offset // BLOCK + piece) * BLOCK)
            parts.append(self._wait(offset, part_end, interrupted))
            offset = part_end
        return b"".join(parts)

    def stand_back(self, rank: Rank) -> None:
        """This reader, which has read nothing yet, is a prefetch or a download: it will read all of the content from
        its start, and others go before it."""
        self.rank = rank
        self._place.sure = True

    def share(self) -> int | None:
        """A read-only descriptor of all of the content, for another process; None while it is not whole.

        What it shows never changes, also if this process is killed: not before the record says that the file is whole
        (see `Table.recover`), and not after that (see `Table.empty`). Raises OSError.
        """
        entry = self._entry
        drops = entry.drops
        if not entry.whole:
            return None
        try:
            if entry.recorded_at != drops and not self._fetcher.flusher.has_recorded(entry):
                self._fetcher.flusher.mark(entry)
                self._fetcher.flusher.flush()
        except RunicornFSError as error:  # such as a full disk, which is no reason not to read through us
            log.info("%s is not shared: %s", entry.paths[0], error)
            return None
        with entry.condition:
            if not entry.whole or entry.drops != drops or entry.fd < 0 or self._error is not None:
                return None
            entry.recorded_at = drops
            entry.given = True
            return reopened(entry.fd)

    def also_served(self, hits: int, size: int) -> None:
        """Reads, and their bytes together, that were made from a shared descriptor."""
        self.hits += hits
        self.bytes_served += size

    def poison(self, error: Exception) -> None:
        """See `entry.OpenReader`."""
        self._error = error
        self._generation = -1

    def close(self) -> None:
        self.end(ValueError("read of a closed file"))

    def end(self, error: Exception) -> None:
        """Closes it; whoever reads from it, now or later, gets this error."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with self._entry.condition:
            self.poison(error)
            self._entry.leave(self)
        self._fetcher.counters.served(self.hits, self.misses, self.bytes_served)
        self._fetcher.table.release(self._entry)

    def _pread(self, offset: int, end: int) -> bytes:
        """Nothing where the file was closed under our hands, or the disk cannot read it: see `_take`."""
        try:
            return os.pread(self._entry.fd, end - offset, offset)
        except OSError:
            return b""

    def _look_ahead(self, first: int, stop: int) -> None:
        advice = self._entry.read_ahead.note(self._place, first, stop)
        if advice is not None:
            with self._entry.condition:
                if self in self._entry.readers:
                    self._follow(advice)
            if advice.spans:
                self._fetcher.submit(self._entry)

    def _follow(self, advice: Advice) -> None:
        """Under the condition of the entry."""
        if advice.elsewhere:
            self._entry.read_ahead.forgotten(self._entry.wishes.forget_ahead(self))
        for first, stop in advice.spans:
            self._entry.look_ahead(first, stop, self, advice.backward)

    def _wait(self, offset: int, end: int, interrupted: Interruption) -> bytes:
        entry = self._entry
        first, stop = offset // BLOCK, -(-end // BLOCK)
        waiter = Waiter(first, stop, self)
        advice = None
        losses = 0
        began = time.monotonic()
        with entry.condition:
            entry.waiting.append(waiter)
            try:
                if not entry.has(first, stop):
                    self.misses += 1
                    lost = entry.states.find(ABSENT, first, stop) >= 0
                    advice = entry.read_ahead.note(self._place, first, stop, lost)
                while True:
                    error = self._error or waiter.error
                    if error is not None:
                        raise error.with_traceback(None)
                    self._generation = entry.generation
                    if entry.has(first, stop):
                        if data := self._take(offset, end):
                            return data
                        losses += 1
                        if losses > LOSSES:
                            raise OSError(errno.EIO, f"the cache's disk does not give {entry.paths[0]} back")
                    asked = entry.wait_for(waiter)
                    if advice is not None:
                        self._follow(advice)
                    if asked or advice is not None:
                        self._fetcher.submit(entry)
                        advice = None
                    entry.condition.wait(POLL_S)
                    if interrupted():
                        raise Interrupted(f"the program that read {entry.paths[0]} has given up")
            finally:
                entry.stop_waiting(waiter)
                self._fetcher.counters.waited(time.monotonic() - began)

    def _take(self, offset: int, end: int) -> bytes | None:
        """The bytes, which are here; None if they are not after all. Under the condition of the entry."""
        entry = self._entry
        try:
            data = os.pread(entry.fd, end - offset, offset)
        except OSError as error:
            log.warning("the disk cannot read the cache's file of %s: %s", entry.paths[0], error.strerror)
            data = b""
        if len(data) == end - offset:
            entry.given = True
            self.bytes_served += len(data)
            return data
        log.warning("the cache's file of %s is not as it was; it is fetched again", entry.paths[0])
        self._fetcher.table.empty(entry)
        return None

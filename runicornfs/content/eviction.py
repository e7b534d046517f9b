"""Makes room: evicts what was used longest ago, and clears on request.

Contents at rest go first and whole, least recently used first. Where that is not enough for somebody who waits, blocks
of open contents that are not whole go. What is open and whole, and what is pinned, stays.

Locks: `_evicting` lets one thread at a time decide what goes; it comes before all locks of the table.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator

from runicornfs.content.blocks import bytes_in, runs
from runicornfs.content.contents import Freed
from runicornfs.content.counters import Counters
from runicornfs.content.entry import Entry
from runicornfs.content.pins import Pins
from runicornfs.content.records import Records, Victim
from runicornfs.content.room import Room
from runicornfs.content.sparse import SparseFiles
from runicornfs.content.table import LEAVING_TRIES, Spared, Table
from runicornfs.errors import NoSpace, RunicornFSError

log = logging.getLogger("runicornfs.content")

# A content larger than the cache gives its own blocks up as it is read. Each time costs a commit, so it is done for
# this many bytes at once, or for this share of a small cache.
RECYCLED_AT_ONCE = 8 << 20
RECYCLED_SHARE = 8
# Contents that are chosen at once, with the table locked, when much has to go.
EVICTED_AT_ONCE = 500
# A transfer that stands still ends with the line's time-out (15 s); one that goes on lands long before.
LANDING_TRIES = 600
LANDING_S = 0.05


class Evictor:
    """Thread-safe."""

    def __init__(
        self, files: SparseFiles, records: Records, pins: Pins, room: Room, table: Table, counters: Counters
    ) -> None:
        self._files = files
        self._records = records
        self._pins = pins
        self._room = room
        self._table = table
        self._counters = counters
        self._evicting = threading.Lock()

    def reserve(self, entry: Entry, first: int, stop: int, awaited: bool, own: int) -> bool:
        """Room for blocks of an entry, at the cost of what was used longest ago. Raises NoSpace.

        Blocks that nobody waits for push out no block of their own content that will be read before them. Those that
        somebody waits for may also push out blocks of other open contents that are not whole, and wait until others
        have read or hashed what they fetch. Not where `own` bytes on their way are the caller's, who has to take them
        first: two such would wait for each other. False says that there will be room when more of the content has been
        hashed, without which nothing of it may go.
        """
        size = bytes_in(first, stop, entry.size)
        patience = LEAVING_TRIES if awaited else 0
        tries = LANDING_TRIES
        moves = True
        while self._room.reserve(size):
            with entry.condition:
                than = -1 if awaited else entry.distance(first)
            with self._evicting:
                lacking = self._room.reserve(size)  # again: another thread may just have made room
                if not lacking:
                    return True
                freed = bool(self._evict(lacking)) or (not patience and self._recycle(entry, lacking, than))
                if awaited and not patience:
                    freed = freed or self._recycle_another(entry, lacking)
            if freed:
                continue
            if patience:
                patience = patience - 1 if self._table.wait_for_leaving(entry) else 0
            elif entry.hash_goes_on:
                return False
            elif awaited and tries and not own and moves:
                moves = self._others_move(entry)  # where nothing does, it may have stopped since it was in the way
                tries -= 1
                time.sleep(LANDING_S)  # what lands can be recycled, and transfers that stand still end
            else:
                raise NoSpace(f"there is no room for {entry.paths[0]}: {self._room.reason(size)}")
        return True

    def reserve_at_once(self, size: int) -> bool:
        """Room for `size` bytes at the cost of contents at rest alone; False, without waiting, where there is none."""
        while self._room.reserve(size):
            with self._evicting:
                lacking = self._room.reserve(size)  # again: see `reserve`
                if not lacking:
                    return True
                if not self._evict(lacking):
                    return False
        return True

    def free(self, entry: Entry, size: int) -> bool:
        """The disk was full although there should have been room: frees some `size` bytes; False if there are none."""
        with self._evicting:
            return bool(self._evict(size)) or self._recycle(entry, size, -1)

    def cleanup(self) -> Freed:
        """Evicts what is more than there may be. Ends early when the cache is closed."""
        excess = self._room.excess()
        files = freed = 0
        while excess > freed and not self._table.closed:
            with self._evicting:
                victims = self._evict(excess - freed)
            if not victims:
                break
            files += len(victims)
            freed += _bytes_of(victims)
        return Freed(files, freed)

    def evict(self, keys: list[str]) -> Freed:
        """Drops those that are at rest and not pinned."""

        def choose(in_use: list[Entry], spared: Spared) -> list[Victim]:
            records = [self._records.get(key) for key in dict.fromkeys(keys) if not self._pins.holds(key)]
            return [
                Victim(record.key, record.file, record.cached_bytes)
                for record in records
                if record is not None and not spared(record.key, record.file)
            ]

        self._table.let_leave()
        with self._evicting:
            victims = self._table.discard(choose)
        return Freed(len(victims), _bytes_of(victims))

    def clear(self) -> Freed:
        """Drops all that is at rest, also what is pinned; what is in use goes when it is retired.

        At one moment: all that is here then is gone when this returns, or will be; what is opened later is kept.
        """
        open_then: list[Entry] = []

        def choose(in_use: list[Entry], spared: Spared) -> list[Victim]:
            open_then.extend(in_use)
            for entry in in_use:
                entry.cleared = True
            return self._records.oldest(math.inf, spared)

        with self._evicting:
            victims = self._table.discard(choose)
        held = [(entry, entry.held) for entry in open_then]
        self._table.let_leave()
        gone = [size for entry, size in held if entry.retired and size]
        freed = _bytes_of(victims) + sum(gone)
        log.info("cleared %d contents of %d bytes", len(victims) + len(gone), freed)
        still_open = sum(entry.held for entry in open_then if not entry.retired)
        return Freed(len(victims) + len(gone), freed, still_open)

    @contextlib.contextmanager
    def nothing_leaves(self) -> Iterator[None]:
        """What is pinned in this block is not evicted by anybody who decided on it before."""
        with self._evicting:
            yield

    def _evict(self, need: int) -> list[Victim]:
        # A full disk takes no records either: all the more reason to go on.
        with contextlib.suppress(RunicornFSError):
            self._records.flush()

        def choose(in_use: list[Entry], spared: Spared) -> list[Victim]:
            return self._records.oldest(
                need, lambda key, file: spared(key, file) or self._pins.holds(key), EVICTED_AT_ONCE
            )

        victims = self._table.discard(choose)
        if victims:
            self._counters.evicted(len(victims))
            log.info("evicted %d contents of %d bytes, least recently used first", len(victims), _bytes_of(victims))
        return victims

    def _others_move(self, entry: Entry) -> bool:
        """Whether something is on its way, or about to be read or hashed, that can go afterwards."""
        if self._room.coming:
            return True
        for other in self._table.entries():
            with other.condition:
                if other.is_about_to_be_read or (other is not entry and other.hash_goes_on):
                    return True
        return False

    def _recycle_another(self, entry: Entry, need: int) -> bool:
        """Files larger than the cache, read at the same time, share it. One that is whole and open stays."""
        others = [other for other in self._table.entries() if other is not entry and not other.whole]
        others.sort(key=lambda other: other.held, reverse=True)
        return any(self._recycle(other, need, -1) for other in others)

    def _recycle(self, entry: Entry, need: int, than: int) -> bool:
        spare = min(RECYCLED_AT_ONCE, self._room.limit // RECYCLED_SHARE)
        if self._pins.holds(entry.key):
            return False
        with entry.condition:
            if entry.fd < 0 or entry.whole:
                return False
            blocks = entry.expendable(need, spare, than)
            if not blocks or not self._files.can_punch(entry.fd, entry.count):
                return False
            size = entry.give_up(blocks)
            try:
                self._records.begin(entry.record(self._records.boot))
            except RunicornFSError as error:
                log.warning("blocks of %s are kept, since that cannot be recorded: %s", entry.paths[0], error)
                entry.came(blocks)
                return False
            self._room.release(size)
            for first, stop in runs(blocks):
                self._files.punch(entry.fd, first, stop)
        return True


def _bytes_of(victims: list[Victim]) -> int:
    return sum(victim.cached_bytes for victim in victims)

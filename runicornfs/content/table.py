"""The contents that are in use and those at rest: opening, retiring, making room.

Locks, in order: the table's `_evicting` (one eviction at a time), its `_lock` (the entries, their pins and paths,
`_leaving`), the condition of an entry, then those of flusher, records and room. None is held while the network is
waited for.

Crash points, in the order of what happens: a record is in the database before its file is made; a block is written
before it is recorded; a record is taken back before bytes are punched out of a file or a file is emptied; an evicted
file is gone before its record. So a program that is killed leaves no space that no record names, and no record that
names bytes which were never there. `recover` does the rest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator

from runicornfs.content.blocks import absent_runs, bytes_in, count_of, runs, unpack
from runicornfs.content.counters import Counters
from runicornfs.content.entry import Entry
from runicornfs.content.flusher import Flusher
from runicornfs.content.identity import Identity
from runicornfs.content.records import Record, Records
from runicornfs.content.room import Room
from runicornfs.content.sparse import SparseFiles, new_name
from runicornfs.errors import NoSpace, StaleFile, Unreachable

log = logging.getLogger("runicornfs.content")

# A content larger than the cache gives its own blocks up as it is read. Each time costs a commit, so it is done for
# this many bytes at once, or for this share of a small cache.
RECYCLED_AT_ONCE = 8 << 20
RECYCLED_SHARE = 8


# A content whose last reader has just gone can be evicted as soon as the threads that fetch and hash are done with it.
# Who needs room waits so often for so long for that: mostly it takes milliseconds, but a server may hang.
LEAVING_TRIES = 10
LEAVING_S = 0.1
# A transfer that stands still ends with the line's time-out (15 s); one that goes on lands long before.
LANDING_TRIES = 600
LANDING_S = 0.05


class Table:
    """Thread-safe."""

    def __init__(self, files: SparseFiles, records: Records, room: Room, flusher: Flusher, counters: Counters) -> None:
        self._files = files
        self._records = records
        self._room = room
        self._flusher = flusher
        self._counters = counters
        self._evicting = threading.Lock()
        self._lock = threading.Lock()
        self._retired = threading.Condition(self._lock)
        self._entries: dict[str, Entry] = {}
        self._leaving: set[str] = set()  # files that are being evicted
        self._closed = False

    # Opening and retiring

    def open(self, identity: Identity) -> Entry:
        """The entry of a content, pinned. Raises StaleFile if the content is known to have another size."""
        with self._lock:
            if self._closed:
                raise Unreachable(f"{identity.path} cannot be opened: the cache is closed")
            entry = self._entries.get(identity.key)
            if entry is None:
                entry = self._entries[identity.key] = self._load(identity)
            elif entry.size != identity.size:
                raise StaleFile(f"{identity.path} cannot be of {identity.size} bytes: what it holds has {entry.size}")
            else:
                entry.add_path(identity.path)
            entry.pins += 1
            return entry

    def pin(self, entry: Entry) -> bool:
        """Keeps an entry in use; False if it is not in use any more."""
        with self._lock:
            if entry.retired:
                return False
            entry.pins += 1
            return True

    def unpin(self, entry: Entry) -> None:
        with self._lock:
            entry.pins -= 1
            if not entry.pins:
                self._retire(entry)

    @contextlib.contextmanager
    def pinned(self, entry: Entry) -> Iterator[bool]:
        """Pins an entry; False if it is not in use any more."""
        pinned = self.pin(entry)
        try:
            yield pinned
        finally:
            if pinned:
                self.unpin(entry)

    def entries(self) -> list[Entry]:
        """What is in use now."""
        with self._lock:
            return list(self._entries.values())

    def cached_now(self, keys: list[str]) -> dict[str, tuple[int, str]]:
        """Of those of the keys that are in use: bytes and state."""
        with self._lock:
            entries = [self._entries[key] for key in keys if key in self._entries]
        return {entry.key: (entry.held, entry.state) for entry in entries}

    def close(self) -> None:
        """Nothing can be opened any more."""
        with self._lock:
            self._closed = True

    def _load(self, identity: Identity) -> Entry:
        """Under the lock."""
        record = self._records.get(identity.key)
        if record is not None and record.file not in self._leaving:
            if record.size != identity.size and record.verified:
                raise StaleFile(f"{identity.path} cannot be of {identity.size} bytes: what it holds has {record.size}")
            entry = self._revive(identity, record)
            if entry is not None:
                return entry
            log.warning("what was cached of %s cannot be used; it will be fetched again", identity.path)
            self._discard(record)
        return Entry(identity, new_name(identity.key), None, -1, verified=False)

    def _revive(self, identity: Identity, record: Record) -> Entry | None:
        try:
            states = unpack(record.blocks, count_of(record.size))
        except ValueError:
            return None
        fd = self._files.open(record.file, identity.size)
        if fd is None:
            return None
        entry = Entry(identity, record.file, states, fd, record.verified)
        if entry.held == record.cached_bytes and (entry.whole or not entry.verified):
            return entry
        os.close(fd)
        return None

    def _retire(self, entry: Entry) -> None:
        """Nobody uses it any more. Under the lock."""
        with entry.condition:
            entry.retired = True
            del self._entries[entry.key]
            self._retired.notify_all()
            entry.generation += 1
            fd, entry.fd = entry.fd, -1
            if fd >= 0:
                os.close(fd)
            if entry.begun and not entry.held:
                self._files.remove(entry.file)
                self._records.remove(entry.key, entry.file)
            elif entry.begun or entry.dirty:
                self._records.put(entry.record(self._records.boot))
                self._flusher.settle(entry.key, entry.file)
            elif entry.held:
                self._records.touch(entry.key, time.time())
            self._flusher.wake()

    # Writing

    def writable(self, entry: Entry) -> int:
        """The descriptor to write an entry's blocks to; for one caller at a time. Raises OSError, sqlite3.Error."""
        if not entry.begun:
            with entry.condition:
                record = entry.record(self._records.boot)
            self._records.begin(record)
            fd = entry.fd if entry.fd >= 0 else self._files.create(entry.file, entry.size)
            with entry.condition:
                entry.fd = fd
                entry.begun = True
        return entry.fd

    def reserve(self, entry: Entry, first: int, stop: int, awaited: bool, own: int) -> bool:
        """Room for blocks of an entry, at the cost of what was used longest ago. Raises NoSpace.

        Blocks that nobody waits for push out no block of their own content that will be read before them. Those that
        somebody waits for may also push out blocks of other open contents that are not whole, and wait for what others
        fetch (`own` bytes on their way are the caller's, who cannot wait for them here). False says that there will be
        room when more of the content has been hashed, without which nothing of it may go.
        """
        size = bytes_in(first, stop, entry.size)
        patience = LEAVING_TRIES if awaited else 0
        tries = LANDING_TRIES
        while self._room.reserve(size):
            with entry.condition:
                than = -1 if awaited else entry.distance(first)
            with self._evicting:
                lacking = self._room.reserve(size)  # again: another thread may just have made room
                if not lacking:
                    return True
                freed = self._evict(lacking) or (not patience and self._recycle(entry, lacking, than))
                if awaited and not patience:
                    freed = freed or self._recycle_another(entry, lacking)
            if freed:
                continue
            if patience:
                patience = patience - 1 if self._wait_for_leaving(entry) else 0
            elif entry.hash_goes_on:
                return False
            elif awaited and tries and self._room.coming > own:
                tries -= 1
                time.sleep(LANDING_S)  # what lands can be recycled, and transfers that stand still end
            else:
                raise NoSpace(f"there is no room for {entry.paths[0]}: the cache is full of files that are open")
        return True

    def _wait_for_leaving(self, entry: Entry) -> bool:
        """Whether another entry has no readers any more, and will be evictable when the last thread is done with it.

        If so, waits until something has been retired, or for a moment.
        """
        with self._lock:
            leaving = any(not other.readers for other in self._entries.values() if other is not entry)
            if leaving:
                self._retired.wait(LEAVING_S)
            return leaving

    def free(self, entry: Entry, size: int) -> bool:
        """The disk was full although there should have been room: frees some `size` bytes; False if there are none."""
        with self._evicting:
            return self._evict(size) or self._recycle(entry, size, -1)

    def _evict(self, need: int) -> bool:
        # A full disk takes no records either: all the more reason to go on.
        with contextlib.suppress(sqlite3.OperationalError):
            self._records.flush()
        with self._lock:
            victims = self._records.oldest(need, lambda key, file: key in self._entries or file in self._leaving)
            self._leaving.update(record.file for record in victims)
        try:
            for record in victims:
                self._discard(record)
        finally:
            with self._lock:
                self._leaving.difference_update(record.file for record in victims)
        if victims:
            self._counters.evicted(len(victims))
            self._flusher.wake()
            freed = sum(record.cached_bytes for record in victims)
            log.info("evicted %d contents of %d bytes, least recently used first", len(victims), freed)
        return bool(victims)

    def _recycle_another(self, entry: Entry, need: int) -> bool:
        """Files larger than the cache, read at the same time, share it. One that is whole and open stays."""
        with self._lock:
            others = [other for other in self._entries.values() if other is not entry and not other.whole]
        others.sort(key=lambda other: other.held, reverse=True)
        return any(self._recycle(other, need, -1) for other in others)

    def _recycle(self, entry: Entry, need: int, than: int) -> bool:
        spare = min(RECYCLED_AT_ONCE, self._room.limit // RECYCLED_SHARE)
        with entry.condition:
            if entry.fd < 0:
                return False
            blocks = entry.expendable(need, spare, than)
            if not blocks or not self._files.can_punch(entry.fd, entry.count):
                return False
            size = entry.give_up(blocks)
            try:
                self._records.begin(entry.record(self._records.boot))
            except sqlite3.Error as error:
                log.warning("blocks of %s are kept, since that cannot be recorded: %s", entry.paths[0], error)
                entry.came(blocks)
                return False
            self._room.release(size)
            for first, stop in runs(blocks):
                self._files.punch(entry.fd, first, stop)
        return True

    def empty(self, entry: Entry) -> None:
        """Drops all that is here of an entry. With its condition held."""
        self._room.release(entry.drop())
        try:
            self._records.begin(entry.record(self._records.boot))
            entry.begun = True
            self._files.empty(entry.fd, entry.size)
        except (sqlite3.Error, OSError) as error:
            # Its blocks are fetched to the same place again, so it only keeps the space that it has.
            log.warning("the file of %s is not emptied: %s", entry.paths[0], error)

    def _discard(self, record: Record) -> None:
        self._files.remove(record.file)
        self._records.remove(record.key, record.file)
        self._room.release(record.cached_bytes)

    # After a start

    def recover(self) -> None:
        """Looks after the contents that nobody has settled, which are few: the program was killed, or the machine.

        What another boot wrote may be torn, and goes. What this one wrote is as recorded; blocks that were written and
        not recorded any more give their space back.
        """
        for record in self._records.unsettled():
            fd = self._files.open(record.file, record.size) if record.boot == self._records.boot else None
            if fd is None:
                self._discard(record)
                continue
            try:
                states = unpack(record.blocks, count_of(record.size))
                if self._files.can_punch(fd, len(states)):
                    for first, stop in absent_runs(states):
                        self._files.punch(fd, first, stop)
                self._flusher.settle(record.key, record.file)
            except ValueError:
                self._discard(record)
            finally:
                os.close(fd)

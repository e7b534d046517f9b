"""The contents that are in use and those at rest: opening, retiring, deleting.

Locks, in order: the evictor's (one eviction at a time), the table's `_lock` (the entries, their uses and paths,
`_leaving`, `cleared`), the condition of an entry, then those of pins, flusher, records and room. None is held while the
network is waited for.

Crash points, in the order of what happens: a record is in the database before its file is made; a block is written
before it is recorded; a record is taken back before bytes are punched out of a file or a file is emptied; an evicted
file is gone before its record, and before the record of its content names another. So a program that is killed leaves
no space that no record names, and no record that names bytes which were never there. `recover` does the rest.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator

from runicornfs.content.blocks import absent_runs, count_of, unpack
from runicornfs.content.entry import Entry
from runicornfs.content.flusher import Flusher
from runicornfs.content.identity import Identity
from runicornfs.content.records import Record, Records, Victim
from runicornfs.content.room import Room
from runicornfs.content.sparse import SparseFiles, modified_ns, new_name
from runicornfs.errors import NoSpace, RunicornFSError, StaleFile, Unreachable

log = logging.getLogger("runicornfs.content")

# A content whose last reader has just gone comes to rest as soon as the threads that fetch and hash are done with it.
# Who wants it at rest waits so often for so long for that: mostly it takes milliseconds, but a server may hang.
LEAVING_TRIES = 10
LEAVING_S = 0.1

Spared = Callable[[str, str], bool]


class Table:
    """Thread-safe."""

    def __init__(self, files: SparseFiles, records: Records, room: Room, flusher: Flusher) -> None:
        self._files = files
        self._records = records
        self._room = room
        self._flusher = flusher
        self._lock = threading.Lock()
        self._retired = threading.Condition(self._lock)
        self._entries: dict[str, Entry] = {}
        self._leaving: set[str] = set()  # files that are being deleted
        flusher.lost = self.lose
        self.closed = False

    # Opening and retiring

    def open(self, identity: Identity) -> Entry:
        """The entry of a content, retained. Raises StaleFile if the content is known to have another size."""
        with self._lock:
            if self.closed:
                raise Unreachable(f"{identity.path} cannot be opened: the cache is closed")
            entry = self._entries.get(identity.key)
            if entry is None:
                entry = self._entries[identity.key] = self._load(identity)
            elif entry.size != identity.size:
                raise StaleFile(f"{identity.path} cannot be of {identity.size} bytes: what it holds has {entry.size}")
            else:
                entry.add_path(identity.path)
            entry.uses += 1
            return entry

    def retain(self, entry: Entry) -> bool:
        """Keeps an entry in use; False if it is not in use any more."""
        with self._lock:
            if entry.retired:
                return False
            entry.uses += 1
            return True

    def release(self, entry: Entry) -> None:
        """With the last one it is retired."""
        with self._lock:
            entry.uses -= 1
            if not entry.uses:
                self._retire(entry)

    @contextlib.contextmanager
    def retained(self, entry: Entry) -> Iterator[bool]:
        """Retains an entry; False if it is not in use any more."""
        retained = self.retain(entry)
        try:
            yield retained
        finally:
            if retained:
                self.release(entry)

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
            self.closed = True

    def _load(self, identity: Identity) -> Entry:
        """Under the lock."""
        record = self._records.get(identity.key)
        if record is not None and record.file in self._leaving:
            self._files.remove(record.file)  # before the record names another file: else nothing would name this one
        elif record is not None:
            if record.size != identity.size and record.verified:
                raise StaleFile(f"{identity.path} cannot be of {identity.size} bytes: what it holds has {record.size}")
            entry = self._revive(identity, record)
            if entry is not None:
                return entry
            if record.cached_bytes:  # else there may never have been a file: no descriptor was left for it
                # A file that is gone was deleted, or evicted by a process that was killed before it wrote that down.
                level = logging.WARNING if self._files.has(record.file) else logging.INFO
                log.log(level, "what was cached of %s cannot be used; it will be fetched again", identity.path)
            with contextlib.suppress(OSError):  # a disk that cannot even delete keeps the space
                self._discard(record)
        return Entry(identity, new_name(identity.key), None, -1, verified=False, clock=self._records.now)

    def _revive(self, identity: Identity, record: Record) -> Entry | None:
        try:
            states = unpack(record.blocks, count_of(record.size))
        except ValueError:
            return None
        fd = self._files.open(record.file, identity.size)
        if fd is None:
            return None
        # Somebody else has written to it, cut it off, or punched a hole into it.
        changed = record.modified_ns is not None and record.modified_ns != modified_ns(fd)
        verified = record.verified and not changed
        entry = Entry(identity, record.file, states, fd, verified, changed, self._records.now)
        sound = entry.unchecked if changed else entry.whole or not entry.verified
        if not sound or entry.held != record.cached_bytes:
            os.close(fd)
            return None
        if changed:
            log.warning("what is cached of %s was changed by somebody else; it is checked again first", identity.path)
        return entry

    def _retire(self, entry: Entry) -> None:
        """Nobody uses it any more. Under the lock."""
        with entry.condition:
            entry.retired = True
            del self._entries[entry.key]
            self._retired.notify_all()
            entry.generation += 1
            fd, entry.fd = entry.fd, -1
            if fd >= 0:
                try:
                    os.close(fd)
                except OSError as error:  # of a network's file system: it did not take what was written
                    log.warning("what was written of %s is lost: %s", entry.paths[0], error.strerror)
                    entry.cleared = True
            if entry.cleared or (entry.begun and not entry.held):
                self._files.remove(entry.file)
                self._records.remove(entry.key, entry.file)
                self._room.release(entry.held)
            elif entry.begun or entry.dirty:
                self._records.put(entry.record(self._records.boot))
                self._flusher.settle(entry.key, entry.file)
            elif entry.held:
                self._records.touch(entry.key, entry.last_used())
            self._flusher.wake()

    # Writing

    def writable(self, entry: Entry) -> int:
        """The descriptor to write an entry's blocks to; for one caller at a time. Raises OSError, RunicornFSError."""
        if not entry.begun:
            with entry.condition:
                record = entry.record(self._records.boot)
            try:
                self._records.begin(record)
            except NoSpace as error:  # as a write would say: what is cached may make room
                raise OSError(errno.ENOSPC, str(error)) from error
            fd = entry.fd if entry.fd >= 0 else self._files.create(entry.file, entry.size)
            with entry.condition:
                entry.fd = fd
                entry.begun = True
        return entry.fd

    # Deleting

    def discard(self, choose: Callable[[list[Entry], Spared], list[Victim]]) -> list[Victim]:
        """Deletes contents at rest, and returns which. One caller at a time.

        `choose(in_use, spared)` says which, with the table locked: from then on nobody finds them. Those for which
        `spared(key, file)` is true are in use.
        """
        with self._lock:
            victims = choose(
                list(self._entries.values()), lambda key, file: key in self._entries or file in self._leaving
            )
            self._leaving.update(victim.file for victim in victims)
        try:
            for victim in victims:
                self._discard(victim)
        finally:
            with self._lock:
                self._leaving.difference_update(victim.file for victim in victims)
        self._flusher.wake()
        return victims

    def wait_for_leaving(self, entry: Entry | None = None) -> bool:
        """Whether a content, other than this one, has no readers any more, and will be at rest when the last thread is
        done with it.

        If so, waits until something has been retired, or for a moment.
        """
        with self._lock:
            leaving = any(not other.readers for other in self._entries.values() if other is not entry)
            if leaving:
                self._retired.wait(LEAVING_S)
            return leaving

    def let_leave(self) -> None:
        """Waits for a moment until all that nobody reads is at rest."""
        for _ in range(LEAVING_TRIES):
            if not self.wait_for_leaving():
                return

    def demote(self, keys: list[str]) -> None:
        """Those that nobody reads are evicted before all others; threads may still be at one that was just closed."""
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None:
                    self._records.touch(key, 0.0)
                    continue
                with entry.condition:
                    entry.demoted = not entry.readers

    def empty(self, entry: Entry) -> None:
        """Drops all that is here of an entry. With its condition held.

        A file that was whole may be open in other processes (`CachedReader.share`) and is never changed again: what
        comes next goes into a new one.
        """
        was_whole = entry.whole or entry.doubted
        self._room.release(entry.drop())
        try:
            if was_whole:
                self._files.remove(entry.file)
                entry.file = new_name(entry.key)
            self._records.begin(entry.record(self._records.boot))
            entry.begun = True
            if was_whole:
                self._files.replace(entry.fd, entry.file, entry.size)
            else:
                self._files.empty(entry.fd, entry.size)
        except (RunicornFSError, OSError) as error:
            # Its blocks are fetched to the same place again, so it only keeps the space that it has.
            log.warning("the file of %s is not emptied: %s", entry.paths[0], error)

    def lose(self, key: str, file: str) -> None:
        """The disk did not take what was written to a file: nothing of it is here any more."""
        with self._lock:
            entry = self._entries.get(key)
            record = self._records.get(key) if entry is None else None
            if entry is not None and entry.file == file:
                with entry.condition:
                    self.empty(entry)
                    entry.condition.notify_all()
            elif record is not None and record.file == file and file not in self._leaving:
                with contextlib.suppress(OSError):
                    self._discard(record)

    def _discard(self, record: Record | Victim) -> None:
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

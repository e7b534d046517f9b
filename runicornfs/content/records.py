"""What is in the sparse files, as a program that was killed or a machine that lost power left it.

Records are marks made after the fact: a block is recorded when it has been written, and a record is taken back before
bytes are. Writing is behind: `put`, `touch` and `remove` are remembered here and reach SQLite with the next `flush`,
and every question is answered with what is remembered. Only `begin` is in the database when it returns, since a file
must not be there without its record.

A record names the boot (of the machine) whose page cache its bytes may still lie in, or none once they were fsynced.
Records of another boot are not to be trusted: see `unsettled`.

Thread-safe. `_lock` protects what is remembered; it comes after the locks of the database. Who asks looks at what is
remembered first and at the database second: in between a flush may bring the one into the other, never the other way.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from runicornfs.content.database import Database

# Victims are read in pages: one page is what most evictions need.
PAGE = 64
# SQLite takes no more than 32766 parameters in one statement; more than some hundred are no faster.
KEYS_AT_ONCE = 500

_COLUMNS = "key, file, path, size, cached_bytes, blocks, verified, last_used, boot, modified_ns"

# The orders in which contents can be listed: used last, to go first, largest share here.
ORDERS = {"last_used": "last_used DESC, key", "oldest": "last_used, key", "size": "cached_bytes DESC, key"}


def boot_id() -> str:
    """Names this boot of the machine; something new each time where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Record:
    """A content at rest. `blocks` is as `blocks.pack` made it, `last_used` in Unix seconds.

    `boot` is None when everything that the record names has been fsynced. `modified_ns` is when the file was changed
    last by then (Unix nanoseconds): one that was changed later was changed by somebody else. None: not known.
    """

    key: str
    file: str
    path: str
    size: int
    cached_bytes: int
    blocks: bytes
    verified: bool
    last_used: float
    boot: str | None
    modified_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Over all records. Sizes in bytes."""

    files: int
    partial_files: int
    verified_files: int
    cached_bytes: int


class Victim(NamedTuple):
    """What has to be known of a content at rest to delete it."""

    key: str
    file: str
    cached_bytes: int


class Whole(NamedTuple):
    """A content at rest of which everything is here. `size` in bytes."""

    key: str
    file: str
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class _Removed:
    file: str


class Records:
    """The table `contents` of the `database` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.boot = boot_id()
        self.database = Database(folder)
        self._lock = threading.Lock()
        self._pending: dict[str, Record | _Removed] = {}
        self._touched: dict[str, float] = {}
        self._settling: set[str] = set()
        ((newest,),) = self.database.select("SELECT max(last_used) FROM contents")
        self._newest: float = newest or 0.0

    @property
    def anew(self) -> bool:
        return self.database.anew

    def close(self) -> None:
        """Without a flush: that is the caller's matter."""
        self.database.close()

    def now(self) -> float:
        """The time of a use in Unix seconds: later than that of every use before it, also where the clock was set back.
        What was used while the clock was wrong would else be evicted at once, or never."""
        with self._lock:
            self._newest = max(time.time(), math.nextafter(self._newest, math.inf))
            return self._newest

    # Questions

    def get(self, key: str) -> Record | None:
        with self._lock:
            pending = self._pending.get(key)
            touched = self._touched.get(key)
        if isinstance(pending, Record):
            return pending
        for row in self.database.select(f"SELECT {_COLUMNS} FROM contents WHERE key = ?", (key,)):
            if pending != _Removed(row[1]):
                return _record(row) if touched is None else replace(_record(row), last_used=touched)
        return None

    def says_whole(self, key: str, file: str) -> bool:
        """Whether the database itself says that all of this content is in this file; what is to be written does not
        count. Raises RunicornFSError."""
        query = "SELECT 1 FROM contents WHERE key = ? AND file = ? AND cached_bytes = size"
        return bool(list(self.database.select(query, (key, file))))

    def cached(self, keys: list[str]) -> dict[str, tuple[int, int, bool]]:
        """Of each key that has a record: cached bytes, size, verified."""
        found: dict[str, tuple[int, int, bool]] = {}
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[start : start + KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, file, cached_bytes, size, verified FROM contents WHERE key IN ({marks})"
            with self._lock:
                pending = {key: self._pending[key] for key in some if key in self._pending}
            for key, file, cached_bytes, size, verified in self.database.select(query, some):
                if pending.get(key) != _Removed(file):
                    found[key] = (cached_bytes, size, bool(verified))
            for key, change in pending.items():
                if isinstance(change, Record):
                    found[key] = (change.cached_bytes, change.size, change.verified)
        return found

    def totals(self) -> Totals:
        """Of what is in the database: flush before."""
        return Totals(*self.database.select("SELECT files, partial, verified, cached_bytes FROM totals")[0])

    def oldest(self, need: float, spared: Callable[[str, str], bool], most: float = math.inf) -> list[Victim]:
        """Least recently used contents of `need` bytes together, or all, but at most so many; not those that
        `spared(key, file)`.

        Flush before: the order is the database's.
        """
        found: list[Victim] = []
        with self._lock:
            pending = dict(self._pending)
        with self.database.rows("SELECT key, file, cached_bytes FROM contents ORDER BY last_used, key") as cursor:
            while need > 0 and len(found) < most and (page := cursor.fetchmany(PAGE)):
                for key, file, cached_bytes in page:
                    change = pending.get(key)
                    if isinstance(change, _Removed) or spared(key, file):
                        continue
                    if need > 0 and len(found) < most:
                        found.append(Victim(key, file, cached_bytes if change is None else change.cached_bytes))
                        need -= found[-1].cached_bytes
        return found

    def listed(self, order: str, limit: int) -> list[Record]:
        """The first contents of which something is here, in one of the `ORDERS`. Flush before."""
        query = f"SELECT {_COLUMNS} FROM contents WHERE cached_bytes > 0 ORDER BY {ORDERS[order]} LIMIT ?"
        return [_record(row) for row in self.database.select(query, (limit,))]

    def whole(self) -> Iterator[Whole]:
        """Every content of which all is here, by key; read in pages, so it may come or go meanwhile. Flush before."""
        query = "SELECT key, file, path, size FROM contents WHERE key > ? AND cached_bytes = size ORDER BY key LIMIT ?"
        after = ""
        while page := self.database.select(query, (after, PAGE)):
            for key, file, path, size in page:
                yield Whole(key, file, os.fsdecode(path), size)
            after = page[-1][0]

    def files(self) -> set[str]:
        """The names of all files that are recorded. Flush before."""
        return {file for (file,) in self.database.select("SELECT file FROM contents")}

    def unsettled(self) -> list[Record]:
        """Records whose bytes may have been in no better place than the page cache when they were written."""
        return [_record(row) for row in self.database.select(f"SELECT {_COLUMNS} FROM contents WHERE boot IS NOT NULL")]

    # Changes

    def begin(self, record: Record) -> None:
        """Records a content before its file is made or written; it is in the database when this returns.

        Takes the promise back that everything recorded was fsynced, and does so durably: from here on bytes may be
        taken away that the old record names. Raises RunicornFSError.
        """
        query = "SELECT 1 FROM contents WHERE key = ? AND boot IS NULL"
        with self.database.writing:
            with self.database.translated():
                settled = self.database.writer.execute(query, (record.key,)).fetchone() is not None
            with self.database.transaction(durable=settled):
                self.database.writer.execute(_UPSERT, _row(record))
            with self._lock:
                self._settling.discard(record.key)
                self._pending.pop(record.key, None)

    def put(self, record: Record) -> None:
        """What is true of a content now; it must have begun."""
        with self._lock:
            self._settling.discard(record.key)
            self._touched.pop(record.key, None)
            self._pending[record.key] = record

    def touch(self, key: str, when: float) -> None:
        """The content was used (Unix seconds)."""
        with self._lock:
            pending = self._pending.get(key)
            if isinstance(pending, Record):
                self._pending[key] = replace(pending, last_used=when)
            else:
                self._touched[key] = when

    def remove(self, key: str, file: str) -> None:
        """The file of a content is gone."""
        with self._lock:
            pending = self._pending.get(key)
            if not isinstance(pending, Record) or pending.file == file:
                self._settling.discard(key)
                self._touched.pop(key, None)
                self._pending[key] = _Removed(file)

    def settling(self, key: str) -> None:
        """The file is to be fsynced, with all that is recorded of it now. Anything that happens to the record from here
        on undoes this: a content that is being written is never settled, or nobody would look after it after a kill."""
        with self._lock:
            self._settling.add(key)

    def settle(self, key: str, modified_ns: int) -> None:
        """The file was fsynced: what was recorded when `settling` was called survives a power cut. That file was
        changed last at `modified_ns`."""
        record = self.get(key)
        with self._lock:
            if key in self._settling and record is not None:
                self._pending[key] = replace(record, boot=None, modified_ns=modified_ns)
            self._settling.discard(key)

    def flush(self) -> None:
        """Brings what is remembered into the database. Raises RunicornFSError, and then remembers it still."""
        with self.database.writing:
            with self._lock:
                pending, touched = dict(self._pending), dict(self._touched)
            if not pending and not touched:
                return
            with self.database.transaction():
                removed = [(key, change.file) for key, change in pending.items() if isinstance(change, _Removed)]
                self.database.writer.executemany("DELETE FROM contents WHERE key = ? AND file = ?", removed)
                changed = [_row(change) for change in pending.values() if isinstance(change, Record)]
                self.database.writer.executemany(_UPSERT, changed)
                used = [(when, key) for key, when in touched.items()]
                self.database.writer.executemany("UPDATE contents SET last_used = ? WHERE key = ?", used)
            with self._lock:
                _forget(self._pending, pending)
                _forget(self._touched, touched)


# Not INSERT OR REPLACE: what that replaces is gone without a trigger.
_UPSERT = f"""
INSERT INTO contents({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (key) DO UPDATE SET file = excluded.file, path = excluded.path, size = excluded.size,
    cached_bytes = excluded.cached_bytes, blocks = excluded.blocks, verified = excluded.verified,
    last_used = excluded.last_used, boot = excluded.boot, modified_ns = excluded.modified_ns
"""


def _row(record: Record) -> tuple[Any, ...]:
    return (
        record.key,
        record.file,
        os.fsencode(record.path),
        record.size,
        record.cached_bytes,
        record.blocks,
        record.verified,
        record.last_used,
        record.boot,
        record.modified_ns,
    )


def _record(row: Any) -> Record:
    key, file, path, size, cached_bytes, blocks, verified, *rest = row
    return Record(key, file, os.fsdecode(path), size, cached_bytes, blocks, bool(verified), *rest)


def _forget(remembered: dict[str, Any], flushed: dict[str, Any]) -> None:
    """What was remembered anew meanwhile stays."""
    for key, value in flushed.items():
        if remembered.get(key) is value:
            del remembered[key]

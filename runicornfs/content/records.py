"""What is in the sparse files, as a program that was killed or a machine that lost power left it.

Records are marks made after the fact: a block is recorded when it has been written, and a record is taken back before
bytes are. Writing is behind: `put`, `touch` and `remove` are remembered here and reach SQLite with the next `flush`,
and every question is answered with what is remembered. Only `begin` is in the database when it returns, since a file
must not be there without its record.

A record names the boot (of the machine) whose page cache its bytes may still lie in, or none once they were fsynced.
Records of another boot are not to be trusted: see `unsettled`.

Thread-safe. `_lock` protects what is remembered, `_writing` the connection that writes (and is held while it does),
`_reading` the one that reads. Order: `_writing` or `_reading`, then `_lock`. Who asks looks at what is remembered first
and at the database second: in between a flush may bring the one into the other, never the other way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

log = logging.getLogger("runicornfs.content")

# Changes with the schema, the names of the files and what `blocks.pack` makes. A cache of another format is emptied.
FORMAT = 1
# Victims are read in pages: one page is what most evictions need.
PAGE = 64
# SQLite takes no more than 32766 parameters in one statement; more than some hundred are no faster.
KEYS_AT_ONCE = 500

_SCHEMA = f"""
CREATE TABLE contents(
    key TEXT PRIMARY KEY, file TEXT NOT NULL, path BLOB NOT NULL, size INTEGER NOT NULL, cached_bytes INTEGER NOT NULL,
    blocks BLOB NOT NULL, verified INTEGER NOT NULL, last_used REAL NOT NULL, boot TEXT
);
CREATE INDEX by_use ON contents(last_used, cached_bytes, size, verified);
CREATE INDEX unsettled ON contents(boot) WHERE boot IS NOT NULL;
PRAGMA user_version = {FORMAT};
"""
_COLUMNS = "key, file, path, size, cached_bytes, blocks, verified, last_used, boot"


def boot_id() -> str:
    """Names this boot of the machine; something new each time where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Record:
    """A content at rest. `blocks` is as `blocks.pack` made it, `last_used` in Unix seconds.

    `boot` is None when everything that the record names has been fsynced.
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


@dataclass(frozen=True, slots=True)
class Totals:
    """Over all records. Sizes in bytes."""

    files: int
    partial_files: int
    verified_files: int
    cached_bytes: int


@dataclass(frozen=True, slots=True)
class _Removed:
    file: str


class Records:
    """`records.db` in `folder`. `anew` is True if it had to be made: then no file in the cache belongs to anything."""

    def __init__(self, folder: Path) -> None:
        self.boot = boot_id()
        self._path = folder / "records.db"
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._pending: dict[str, Record | _Removed] = {}
        self._touched: dict[str, float] = {}
        self._settling: set[str] = set()
        self.anew = False
        try:
            self._writer = self._connect_existing()
        except (FileNotFoundError, sqlite3.DatabaseError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("the records of the cache in %s cannot be used (%s); it starts anew, empty", folder, error)
            self._writer = self._create()
            self.anew = True
        self._reader = self._connect()

    def close(self) -> None:
        """Without a flush: that is the caller's matter."""
        with self._writing:
            self._writer.close()
        with self._reading:
            self._reader.close()

    # Questions

    def get(self, key: str) -> Record | None:
        with self._lock:
            pending = self._pending.get(key)
            touched = self._touched.get(key)
        if isinstance(pending, Record):
            return pending
        for row in self._select(f"SELECT {_COLUMNS} FROM contents WHERE key = ?", (key,)):
            if pending != _Removed(row[1]):
                return _record(row) if touched is None else replace(_record(row), last_used=touched)
        return None

    def cached(self, keys: list[str]) -> dict[str, tuple[int, int, bool]]:
        """Of each key that has a record: cached bytes, size, verified."""
        found: dict[str, tuple[int, int, bool]] = {}
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[start : start + KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, file, cached_bytes, size, verified FROM contents WHERE key IN ({marks})"
            with self._lock:
                pending = {key: self._pending[key] for key in some if key in self._pending}
            for key, file, cached_bytes, size, verified in self._select(query, some):
                if pending.get(key) != _Removed(file):
                    found[key] = (cached_bytes, size, bool(verified))
            for key, change in pending.items():
                if isinstance(change, Record):
                    found[key] = (change.cached_bytes, change.size, change.verified)
        return found

    def totals(self) -> Totals:
        """Of what is in the database: flush before."""
        query = "SELECT count(*), total(cached_bytes < size), total(verified), total(cached_bytes) FROM contents"
        files, partial, verified, cached_bytes = self._select(query)[0]
        return Totals(files, int(partial), int(verified), int(cached_bytes))

    def oldest(self, need: int, spared: Callable[[str, str], bool]) -> list[Record]:
        """Least recently used contents of `need` bytes together, or all; not those that `spared(key, file)`.

        Flush before: the order is the database's.
        """
        found: list[Record] = []
        with self._lock:
            pending = dict(self._pending)
        query = f"SELECT {_COLUMNS} FROM contents ORDER BY last_used, key"
        with self._reading, contextlib.closing(self._reader.execute(query)) as cursor:
            while need > 0 and (page := cursor.fetchmany(PAGE)):
                for row in page:
                    record = pending.get(row[0], _record(row))
                    if need > 0 and isinstance(record, Record) and not spared(record.key, record.file):
                        found.append(record)
                        need -= record.cached_bytes
        return found

    def unsettled(self) -> list[Record]:
        """Records whose bytes may have been in no better place than the page cache when they were written."""
        return [_record(row) for row in self._select(f"SELECT {_COLUMNS} FROM contents WHERE boot IS NOT NULL")]

    # Changes

    def begin(self, record: Record) -> None:
        """Records a content before its file is made or written; it is in the database when this returns.

        Takes the promise back that everything recorded was fsynced, and does so durably: from here on bytes may be
        taken away that the old record names. Raises sqlite3.Error.
        """
        with self._writing:
            settled = self._writer.execute("SELECT 1 FROM contents WHERE key = ? AND boot IS NULL", (record.key,))
            with self._transaction(durable=settled.fetchone() is not None):
                self._writer.execute(_UPSERT, _row(record))
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
        """The file is about to be fsynced. Anything that happens to the record from here on undoes this."""
        with self._lock:
            self._settling.add(key)

    def settle(self, key: str) -> None:
        """The file was fsynced: what was recorded when `settling` was called survives a power cut."""
        record = self.get(key)
        with self._lock:
            if key in self._settling and record is not None:
                self._pending[key] = replace(record, boot=None)
            self._settling.discard(key)

    def flush(self) -> None:
        """Brings what is remembered into the database. Raises sqlite3.Error, and then remembers it still."""
        with self._writing:
            with self._lock:
                pending, touched = dict(self._pending), dict(self._touched)
            if not pending and not touched:
                return
            with self._transaction():
                removed = [(key, change.file) for key, change in pending.items() if isinstance(change, _Removed)]
                self._writer.executemany("DELETE FROM contents WHERE key = ? AND file = ?", removed)
                changed = [_row(change) for change in pending.values() if isinstance(change, Record)]
                self._writer.executemany(_UPSERT, changed)
                used = [(when, key) for key, when in touched.items()]
                self._writer.executemany("UPDATE contents SET last_used = ? WHERE key = ?", used)
            with self._lock:
                _forget(self._pending, pending)
                _forget(self._touched, touched)

    # SQLite

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)

    def _connect_existing(self) -> sqlite3.Connection:
        if not self._path.exists():
            raise FileNotFoundError(self._path)
        connection = self._connect()
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != FORMAT:
                raise sqlite3.DatabaseError(f"format {version}, not {FORMAT}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            # Reads both indexes, so most damage shows here and not in somebody's read.
            connection.execute("SELECT total(cached_bytes) FROM contents").fetchone()
            connection.execute(f"SELECT {_COLUMNS} FROM contents WHERE boot IS NOT NULL").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self) -> sqlite3.Connection:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = self._connect()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        return connection

    def _select(self, query: str, parameters: Iterable[Any] = ()) -> list[Any]:
        with self._reading, self._damage_noticed():
            return self._reader.execute(query, tuple(parameters)).fetchall()

    @contextlib.contextmanager
    def _transaction(self, durable: bool = False) -> Iterator[None]:
        """The caller holds `_writing`. A durable one survives a power cut once it is committed."""
        with self._damage_noticed():
            if durable:
                self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if durable:
                    self._writer.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _damage_noticed(self) -> Iterator[None]:
        """A database that turns out to be malformed while it is in use is made anew by the next start."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:  # its subclasses are a full disk, a lock, …
                log.error("the records of the cache in %s are damaged: %s", self._path.parent, error)
                self._path.unlink(missing_ok=True)
            raise


_UPSERT = f"INSERT OR REPLACE INTO contents({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)"


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
    )


def _record(row: Any) -> Record:
    key, file, path, size, cached_bytes, blocks, verified, last_used, boot = row
    return Record(key, file, os.fsdecode(path), size, cached_bytes, blocks, bool(verified), last_used, boot)


def _forget(remembered: dict[str, Any], flushed: dict[str, Any]) -> None:
    """What was remembered anew meanwhile stays."""
    for key, value in flushed.items():
        if remembered.get(key) is value:
            del remembered[key]

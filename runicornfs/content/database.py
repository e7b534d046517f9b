"""The file `records.db`: opening it, making it anew where it cannot be used, and its two connections.

Thread-safe. `writing` is held by whoever writes, `_reading` by whoever asks; neither is ever wanted by who holds the
other. WAL lets one write while another reads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger("runicornfs.content")

# Changes with the table of contents, the names of the files and what `blocks.pack` makes. A cache of another format is
# emptied.
FORMAT = 1

_SCHEMA = f"""
CREATE TABLE contents(
    key TEXT PRIMARY KEY, file TEXT NOT NULL, path BLOB NOT NULL, size INTEGER NOT NULL, cached_bytes INTEGER NOT NULL,
    blocks BLOB NOT NULL, verified INTEGER NOT NULL, last_used REAL NOT NULL, boot TEXT
);
CREATE INDEX by_use ON contents(last_used, cached_bytes, size, verified);
CREATE INDEX unsettled ON contents(boot) WHERE boot IS NOT NULL;
PRAGMA user_version = {FORMAT};
"""
# Came later: a cache that was made before gets it when it is opened, and keeps what it holds.
_PINS = """
CREATE TABLE IF NOT EXISTS pins(
    label BLOB NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (label, key)
) WITHOUT ROWID
"""
# Likewise. What is in the cache is summed up with each change, so that a start does not look at every content: for
# 100,000 that took 50 ms. A start that finds no sums makes them.
_TOTALS = """
CREATE TABLE IF NOT EXISTS totals AS
    SELECT count(*) AS files, ifnull(sum(cached_bytes < size), 0) AS partial, ifnull(sum(verified), 0) AS verified,
        ifnull(sum(cached_bytes), 0) AS cached_bytes
    FROM contents;
CREATE TRIGGER IF NOT EXISTS content_came AFTER INSERT ON contents BEGIN
    UPDATE totals SET files = files + 1, partial = partial + (NEW.cached_bytes < NEW.size),
        verified = verified + NEW.verified, cached_bytes = cached_bytes + NEW.cached_bytes;
END;
CREATE TRIGGER IF NOT EXISTS content_changed AFTER UPDATE OF size, cached_bytes, verified ON contents BEGIN
    UPDATE totals SET partial = partial + (NEW.cached_bytes < NEW.size) - (OLD.cached_bytes < OLD.size),
        verified = verified + NEW.verified - OLD.verified,
        cached_bytes = cached_bytes + NEW.cached_bytes - OLD.cached_bytes;
END;
CREATE TRIGGER IF NOT EXISTS content_went AFTER DELETE ON contents BEGIN
    UPDATE totals SET files = files - 1, partial = partial - (OLD.cached_bytes < OLD.size),
        verified = verified - OLD.verified, cached_bytes = cached_bytes - OLD.cached_bytes;
END;
"""


class Database:
    """`records.db` in `folder`. `anew` is True if it had to be made: then no file in the cache belongs to anything."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "records.db"
        self.writing = threading.Lock()
        self._reading = threading.Lock()
        self.anew = False
        try:
            self.writer = self._connect_existing()
        except (FileNotFoundError, sqlite3.DatabaseError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("the records of the cache in %s cannot be used (%s); it starts anew, empty", folder, error)
            self.writer = self._create()
            self.anew = True
        self._reader = self._connect()

    def close(self) -> None:
        with self.writing:
            self.writer.close()
        with self._reading:
            self._reader.close()

    def select(self, query: str, parameters: Iterable[Any] = ()) -> list[Any]:
        """All rows of an answer. Raises sqlite3.Error."""
        with self._reading, self._damage_noticed():
            return self._reader.execute(query, tuple(parameters)).fetchall()

    @contextlib.contextmanager
    def rows(self, query: str) -> Iterator[sqlite3.Cursor]:
        """An answer to be read in pieces; nobody else can ask meanwhile. Raises sqlite3.Error."""
        with self._reading, self._damage_noticed(), contextlib.closing(self._reader.execute(query)) as cursor:
            yield cursor

    @contextlib.contextmanager
    def transaction(self, durable: bool = False) -> Iterator[None]:
        """For `writer`; the caller holds `writing`. A durable one survives a power cut once it is committed."""
        with self._damage_noticed():
            if durable:
                self.writer.execute("PRAGMA synchronous = FULL")
            self.writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.writer.execute("COMMIT")
            finally:
                if self.writer.in_transaction:
                    self.writer.execute("ROLLBACK")
                if durable:
                    self.writer.execute("PRAGMA synchronous = NORMAL")

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
            # Reads an end of each index, so common damage shows here and not in somebody's read.
            connection.execute("SELECT * FROM contents ORDER BY last_used LIMIT 1").fetchone()
            connection.execute("SELECT * FROM contents ORDER BY key DESC LIMIT 1").fetchone()
            connection.execute("SELECT key FROM contents WHERE boot IS NOT NULL").fetchall()
            connection.executescript(f"BEGIN IMMEDIATE; {_PINS}; {_TOTALS} COMMIT;")
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
        connection.executescript(f"BEGIN; {_SCHEMA} {_PINS}; {_TOTALS} COMMIT;")
        return connection

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

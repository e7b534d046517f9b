"""The file index.db: opening it, building it anew when it cannot be used, and its connections.

Readers take a connection from a small pool: threads that answer the kernel come and go, so `threading.local` would open
many. Every connection is in autocommit mode: a reader's statement sees one whole snapshot, and the writer says BEGIN
itself.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runicornfs.catalog.schema import SCHEMA, SCHEMA_VERSION, TABLES
from runicornfs.errors import NoSpace, RunicornFSError

log = logging.getLogger("runicornfs.catalog")

# Idle connections that are kept; some threads answer the kernel at a time.
IDLE_READERS = 16
# How long one connection waits for another's lock. Only the checkpoint of WAL ever takes one that readers meet.
BUSY_TIMEOUT_S = 30.0
# KiB of pages that the writer keeps. What a manifest brings is appended; rows at random places are those of artifacts
# and runs, of which 100,000 fit. With four times as much the sync of 400,000 files took 50 MB more.
WRITER_CACHE_KIB = 16 * 1024
# Bytes that index.db-wal keeps after a checkpoint; the first sync makes it as large as all the JSON of the store.
WAL_KEPT = 64 * 1024 * 1024


class Database:
    """The connections to one database. Thread-safe, except for `writer`, which its one user at a time guards."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet: readers open the file when they need it, `write` whoever may change it."""
        self.path = path
        self._damage = Path(f"{path}-damaged")  # a marker: SQLite met damage here, the next start begins anew
        self._writer: sqlite3.Connection | None = None
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection that `write` has opened."""
        assert self._writer is not None
        return self._writer

    def write(self) -> None:
        """Opens the file for writing, or creates it (0600); one that cannot be used is built anew.

        Raises sqlite3.Error and OSError where not even a new one can be made.
        """
        try:
            if self._damage.exists():
                raise _Unusable("it was found damaged")
            self._writer = _open(self.path)
        except (_Unusable, sqlite3.DatabaseError) as error:
            if not isinstance(error, _Unusable) and not _is_damage(error):
                raise
            log.warning("%s is built anew: %s", self.path, error)
            self._remove()
            self._writer = _open(self.path)

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that can only read, for as long as the block lasts. Errors in it are translated."""
        try:
            connection = self._idle.pop()  # the one used last: its pages are warm
        except IndexError:
            connection = _connect(self.path)
            connection.execute("PRAGMA query_only = 1")
        try:
            with self.translated():
                yield connection
        finally:
            if self._closed or len(self._idle) >= IDLE_READERS:
                connection.close()
            else:
                self._idle.append(connection)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A reader whose statements all see the same snapshot."""
        with self.reader() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    def row(self, statement: str, *parameters: object) -> tuple[Any, ...] | None:
        """The first row that a statement gives."""
        with self.reader() as connection:
            row: tuple[Any, ...] | None = connection.execute(statement, parameters).fetchone()
            return row

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows that a statement gives."""
        with self.reader() as connection:
            return connection.execute(statement, parameters).fetchall()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns SQLite's errors into ours where a person can help: NoSpace, or RunicornFSError for a damaged file."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                self._damage.touch(mode=0o600)
                raise RunicornFSError(f"{self.path} is damaged ({error}): the next start builds it anew") from error
            if "disk is full" in str(error):
                raise NoSpace(f"{self.path} cannot grow: {error}") from error
            raise

    def close(self) -> None:
        """Connections that are in use are closed when they come back."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
        if self._writer is not None:
            self._writer.close()

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self._damage.unlink(missing_ok=True)


class _Unusable(Exception):
    """The database has to be built anew; the message says why."""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether SQLite says that the file is no sound database (by its message: error codes need Python 3.11)."""
    return "malformed" in str(error) or "not a database" in str(error)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _open(path: Path) -> sqlite3.Connection:
    """The writing connection to a database that has the tables of our schema."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite gives -wal and -shm the same mode
    connection = _connect(path)
    try:
        connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise _Unusable(f"it has schema {version}, not {SCHEMA_VERSION}")
        for table in TABLES:  # the first row of each, so that common damage shows now
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection

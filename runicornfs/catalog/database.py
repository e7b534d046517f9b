"""The file index.db: opening it, building it anew when it is damaged or none of ours, and its connections.

What is put aside for a new one is kept beside it, until the next is. What a newer program wrote is refused.

Readers take a connection from a small pool: threads that answer the kernel come and go, so `threading.local` would open
many. Every connection is in autocommit mode: a reader's statement sees one whole snapshot, and the writer says BEGIN
itself. Where somebody deletes the file or puts another in its place, what is known lives on in the connections that
have it open, as long as they do.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runicornfs.catalog.schema import SCHEMA, SCHEMA_VERSION, TABLES
from runicornfs.errors import NoSpace, Refused, RunicornFSError

log = logging.getLogger("runicornfs.catalog")

# Idle connections that are kept; some threads answer the kernel at a time.
IDLE_READERS = 16
# Connections that are open from the start, for when no other can be opened any more: one for each read inside a read.
FIRST_READERS = 4
# How often a read that can open none looks for one that has come back.
POLL_S = 0.005
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
        self._file: tuple[int, int] | None = None  # device and inode of what the first reader opened
        self._closed = False

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection that `write` has opened."""
        assert self._writer is not None
        return self._writer

    def write(self) -> None:
        """Opens the file for writing, or creates it (0600); one that is damaged, or none of ours, is built anew.
        A second time does nothing.

        Raises Refused where a newer program wrote it; NoSpace, RunicornFSError and OSError where not even a new one can
        be made.
        """
        if self._writer is not None:
            return
        with self.translated():
            try:
                if self._damage.exists():
                    raise _Unusable("it was found damaged")
                self._writer = _open(self.path)
            except (_Unusable, sqlite3.DatabaseError) as error:
                if isinstance(error, sqlite3.DatabaseError) and not _is_damage(error):
                    raise
                log.warning("%s is built anew: %s", self.path, error)
                self._put_aside()
                self._writer = _open(self.path)

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that can only read, for as long as the block lasts. Errors in it are translated."""
        try:
            connection = self._idle.pop()  # the one used last: its pages are warm
        except IndexError:
            with self.translated():
                connection = self._another()
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
        """Turns SQLite's errors into ours: NoSpace where the disk is full, else RunicornFSError."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                with suppress(OSError):
                    self._damage.touch(mode=0o600)
                raise RunicornFSError(f"{self.path} is damaged ({error}): the next start builds it anew") from error
            if "disk is full" in str(error):
                raise NoSpace(f"the disk is full: {self.path} cannot grow") from error
            raise RunicornFSError(f"{self.path} cannot be used: {error}") from error

    def close(self) -> None:
        """Connections that are in use are closed when they come back."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
        if self._writer is not None:
            self._writer.close()

    def _another(self) -> sqlite3.Connection:
        """A new connection to the file, or one that has come back."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while self._file is not None and _file_of(self.path) != self._file:
            with suppress(IndexError):
                return self._idle.pop()
            if time.monotonic() > deadline:
                raise RunicornFSError(f"{self.path} was deleted or replaced by another file: start runicornfs anew")
            time.sleep(POLL_S)
        if self._file is None:
            self._idle.extend(_reading(self.path) for _ in range(FIRST_READERS - 1))
            self._file = _file_of(self.path)
        return _reading(self.path)

    def _put_aside(self) -> None:
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            self.path.rename(f"{self.path}.aside")
        self._damage.unlink(missing_ok=True)


class _Unusable(Exception):
    """The database has to be built anew; the message says why."""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether SQLite says that the file is no sound database (by its message: error codes need Python 3.11)."""
    return "malformed" in str(error) or "not a database" in str(error)


def _file_of(path: Path) -> tuple[int, int] | None:
    """Which file stands there; None where none does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error where there is no such file."""
    name = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(name, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _reading(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        connection.execute("PRAGMA query_only = 1")
        connection.execute("SELECT 1 FROM meta LIMIT 1").fetchone()  # only now the file is opened
    except BaseException:
        connection.close()
        raise
    return connection


def _open(path: Path) -> sqlite3.Connection:
    """The writing connection to a database that has the tables of our schema."""
    # SQLite gives -wal and -shm the same mode. A file that is there is not touched: closing any descriptor of it would
    # take away the locks of our own readers, and the next process that ends would remove the -wal under us.
    if path.is_dir():
        raise _Unusable("it is a folder")
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = _connect(path)
    try:
        connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if version > SCHEMA_VERSION and "meta" in tables:
            raise Refused(
                f"{path} was written by a newer runicornfs (schema {version}, this one knows {SCHEMA_VERSION}):"
                " use that one, name another folder with --cache-dir, or move the file away, and a sync builds it anew"
            )
        if version == 0 and not tables:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise _Unusable(f"it has schema {version}, not {SCHEMA_VERSION}")
        for table in TABLES:  # the first row of each, so that common damage shows now
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection

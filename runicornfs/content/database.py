"""The file `records.db`: opening it, making it anew where it is damaged, and its two connections.

Only damage is a reason to begin anew, and what can still be read is taken over then (`salvage`). A disk that is full,
fails or cannot be written to loses nothing: the cache is refused until it is better. So is what a newer program wrote.

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

from runicornfs.content.salvage import Salvage
from runicornfs.errors import NoSpace, Refused, RunicornFSError

log = logging.getLogger("runicornfs.content")

# Changes with the table of contents, the names of the files and what `blocks.pack` makes. A cache of an older format is
# emptied, that of a newer one refused.
FORMAT = 1

_SCHEMA = f"""
CREATE TABLE contents(
    key TEXT PRIMARY KEY, file TEXT NOT NULL, path BLOB NOT NULL, size INTEGER NOT NULL, cached_bytes INTEGER NOT NULL,
    blocks BLOB NOT NULL, verified INTEGER NOT NULL, last_used REAL NOT NULL, boot TEXT, modified_ns INTEGER
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
    """`records.db` in `folder`. `anew` is True if it had to be made: then only what it says belongs to anything."""

    def __init__(self, folder: Path) -> None:
        """Raises NoSpace where the disk is full, Refused where it is a newer program's, RunicornFSError where the file
        can be neither used nor made."""
        self._path = folder / "records.db"
        self._damage = folder / "records.db-damaged"  # a marker: it was met while the database was in use
        self.writing = threading.Lock()
        self._reading = threading.Lock()
        self.anew = False
        with self.translated():
            try:
                self.writer = self._connect_existing()
            except FileNotFoundError:
                self.writer = self._create(Salvage())
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                saved = Salvage.of(self._path, contents=not isinstance(error, _OlderFormat))
                log.warning(
                    "the records of the cache in %s cannot be used (%s); it starts anew, %s", folder, error, saved
                )
                self.writer = self._create(saved)
            self._reader = self._connect()

    def close(self) -> None:
        with self.writing:
            self.writer.close()
        with self._reading:
            self._reader.close()

    def select(self, query: str, parameters: Iterable[Any] = ()) -> list[Any]:
        """All rows of an answer. Raises RunicornFSError."""
        with self._reading, self.translated():
            return self._reader.execute(query, tuple(parameters)).fetchall()

    @contextlib.contextmanager
    def rows(self, query: str) -> Iterator[sqlite3.Cursor]:
        """An answer to be read in pieces; nobody else can ask meanwhile. Raises RunicornFSError."""
        with self._reading, self.translated(), contextlib.closing(self._reader.execute(query)) as cursor:
            yield cursor

    @contextlib.contextmanager
    def transaction(self, durable: bool = False) -> Iterator[None]:
        """For `writer`; the caller holds `writing`. A durable one survives a power cut once it is committed.

        Raises NoSpace where the disk is full, RunicornFSError.
        """
        with self.translated():
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
            if self._damage.exists():
                raise sqlite3.DatabaseError("it was found damaged")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > FORMAT:
                raise Refused(
                    f"{self._path} was written by a newer runicornfs (format {version}, this one knows {FORMAT}):"
                    " use that one, or name another folder with --cache-dir"
                )
            if version != FORMAT:
                raise _OlderFormat(f"format {version}, not {FORMAT}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            # Reads an end of each index, so common damage shows here and not in somebody's read.
            connection.execute("SELECT * FROM contents ORDER BY last_used LIMIT 1").fetchone()
            connection.execute("SELECT * FROM contents ORDER BY key DESC LIMIT 1").fetchone()
            connection.execute("SELECT key FROM contents WHERE boot IS NOT NULL").fetchall()
            columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(contents)")]
            if "modified_ns" not in columns:  # a cache from before it was recorded
                connection.execute("ALTER TABLE contents ADD COLUMN modified_ns INTEGER")
            connection.executescript(f"BEGIN IMMEDIATE; {_PINS}; {_TOTALS} COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, saved: Salvage) -> sqlite3.Connection:
        """The old file is there until the new one is complete."""
        self.anew = True
        new = self._path.with_suffix(".new")
        for path in (new, Path(f"{new}-journal")):
            path.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
            connection.executescript(f"BEGIN; {_SCHEMA} {_PINS}; {_TOTALS}")
            saved.bring_into(connection)
            connection.execute("COMMIT")
        for suffix in ("-wal", "-shm"):  # they would be taken for the new one's
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        new.replace(self._path)
        self._damage.unlink(missing_ok=True)
        return self._connect_existing()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turns SQLite's errors into ours: NoSpace where the disk is full, else RunicornFSError.

        A database that turns out to be malformed while it is in use is made anew by the next start.
        """
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                log.error("the records of the cache in %s are damaged: %s", self._path.parent, error)
                with contextlib.suppress(OSError):
                    self._damage.touch(mode=0o600)
                raise RunicornFSError(f"{self._path} is damaged ({error}): the next start repairs it") from error
            if "disk is full" in str(error):
                raise NoSpace(f"the disk is full: {self._path} cannot grow") from error
            raise RunicornFSError(f"{self._path} cannot be used: {error}") from error


class _OlderFormat(sqlite3.DatabaseError):
    """What the tables say has another meaning today."""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is no sound database of ours. SQLite's subclasses are a full disk, a lock, …"""
    return type(error) in (sqlite3.DatabaseError, _OlderFormat) or "no such" in str(error)

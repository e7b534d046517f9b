"""The tasks in SQLite, so that they outlive the process: what was asked for, how it stands, what has been placed.

One process at a time keeps the journal of a folder, by SQLite's own lock. A second one keeps its tasks in memory, and
they end with it.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from runicornfs.downloads.records import Counts, Download, Order, Placed

log = logging.getLogger("runicornfs.downloads")

FILE_NAME = "downloads.db"
FORMAT = 1
# Another process that has the journal keeps it for as long as it runs: waiting would be for nothing.
BUSY_TIMEOUT_S = 0.5

_SCHEMA = f"""
CREATE TABLE tasks(
    number INTEGER PRIMARY KEY, task_id TEXT UNIQUE NOT NULL, type BLOB NOT NULL, name BLOB NOT NULL,
    version INTEGER NOT NULL, target_dir BLOB, own_target INTEGER NOT NULL, overwrite INTEGER NOT NULL,
    patterns TEXT NOT NULL, status TEXT NOT NULL, error TEXT, total_files INTEGER NOT NULL,
    downloaded_files INTEGER NOT NULL, total_bytes INTEGER NOT NULL, downloaded_bytes INTEGER NOT NULL,
    from_cache_bytes INTEGER NOT NULL, started_at REAL NOT NULL, completed_at REAL
);
CREATE TABLE placed(
    task_id TEXT NOT NULL, path BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    PRIMARY KEY (task_id, path)
) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""
_COLUMNS = (
    "task_id, type, name, version, target_dir, own_target, overwrite, patterns, status, error, total_files,"
    " downloaded_files, total_bytes, downloaded_bytes, from_cache_bytes, started_at, completed_at"
)
_UPSERT = (
    f"INSERT INTO tasks({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (task_id) DO UPDATE SET"
    " status = excluded.status, error = excluded.error, total_files = excluded.total_files,"
    " downloaded_files = excluded.downloaded_files, total_bytes = excluded.total_bytes,"
    " downloaded_bytes = excluded.downloaded_bytes, from_cache_bytes = excluded.from_cache_bytes,"
    " completed_at = excluded.completed_at"
)


class Journal:
    """`downloads.db` in `folder`. Thread-safe: `_lock` is held around every use of the connection.

    All methods raise sqlite3.Error.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._connection = _open(folder / FILE_NAME)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def downloads(self) -> list[Download]:
        """Every task, in the order in which they were asked for."""
        return [_download(row) for row in self._select(f"SELECT {_COLUMNS} FROM tasks ORDER BY number")]

    def put(self, download: Download, placed: Iterable[Placed] = ()) -> None:
        """Records how a task stands, and files that it has placed since it was recorded last."""
        task_id = download.order.task_id
        files = [(task_id, os.fsencode(file.path), file.size, file.mtime_ns, file.inode) for file in placed]
        with self._lock, self._connection:
            self._connection.execute(_UPSERT, _row(download))
            self._connection.executemany("INSERT OR REPLACE INTO placed VALUES (?,?,?,?,?)", files)

    def placed(self, task_id: str) -> dict[str, Placed]:
        """What a task has placed, by path."""
        rows = self._select("SELECT path, size, mtime_ns, inode FROM placed WHERE task_id = ?", task_id)
        return {os.fsdecode(path): Placed(os.fsdecode(path), *status) for path, *status in rows}

    def remove(self, task_id: str) -> None:
        with self._lock, self._connection:
            self._connection.execute("DELETE FROM placed WHERE task_id = ?", (task_id,))
            self._connection.execute("DELETE FROM tasks WHERE task_id = ?", (task_id,))

    def _select(self, query: str, *parameters: object) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, parameters).fetchall()


class _Newer(Exception):
    """The journal is that of a program that came after this one."""


def _open(path: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return _connect(str(path))
    except (sqlite3.OperationalError, OSError) as error:
        # Another process has it, or the disk is full: no reason not to download.
        log.info("%s is not used (%s): the tasks of this process end with it", path, error)
        return _connect(":memory:")
    except _Newer as error:
        log.warning("%s is left alone (%s): the tasks of this process end with it", path, error)
        return _connect(":memory:")
    except sqlite3.DatabaseError as error:
        log.warning("%s cannot be used and begins anew: %s", path, error)
        for suffix in ("", "-wal", "-journal"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        return _open(path)


def _connect(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version > FORMAT:
            raise _Newer(f"a newer runicornfs wrote it, in format {version}")
        elif version != FORMAT:
            raise sqlite3.DatabaseError(f"it has format {version}, not {FORMAT}")
        with closing(connection.execute(f"SELECT {_COLUMNS} FROM tasks")) as rows:
            rows.fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _row(download: Download) -> tuple[Any, ...]:
    order, counts = download.order, download.counts
    return (
        order.task_id,
        os.fsencode(order.type),
        os.fsencode(order.name),
        order.version,
        None if order.target_dir is None else os.fsencode(order.target_dir),
        order.own_target,
        order.overwrite,
        json.dumps(order.patterns),
        download.status,
        None if download.error is None else json.dumps(download.error),
        counts.total_files,
        counts.downloaded_files,
        counts.total_bytes,
        counts.downloaded_bytes,
        counts.from_cache_bytes,
        download.started_at,
        download.completed_at,
    )


def _download(row: Any) -> Download:
    task_id, type, name, version, target_dir, own, overwrite, patterns, status, error, *counts, started, completed = row
    return Download(
        order=Order(
            task_id=task_id,
            type=os.fsdecode(type),
            name=os.fsdecode(name),
            version=version,
            target_dir=None if target_dir is None else os.fsdecode(target_dir),
            own_target=bool(own),
            overwrite=bool(overwrite),
            patterns=tuple(json.loads(patterns)),
        ),
        status=status,
        error=None if error is None else json.loads(error),
        counts=Counts(*counts),
        started_at=started,
        completed_at=completed,
    )

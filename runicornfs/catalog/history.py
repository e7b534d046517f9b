"""When the last sync was, and which paths the last snapshots changed.

The paths are for a process that follows a catalog and must not miss one of them. They are written in the transaction
that makes the snapshot, so they are there also where the process that wrote them was killed before it could tell.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection

# Who missed more than this takes everything for changed.
KEPT_SNAPSHOTS = 16
# A snapshot that changes more than this, as the first one does, is not worth a list.
KEPT_PATHS = 50_000


def generation_of(connection: sqlite3.Connection) -> int:
    """The number of the snapshot that this connection sees; 0 before the first one."""
    return _number(connection, "generation")


def record(connection: sqlite3.Connection, changed: Collection[str]) -> int:
    """The snapshot of this transaction changes these paths. Returns its generation."""
    generation = generation_of(connection) + 1
    first = max(_number(connection, "history_from"), generation - KEPT_SNAPSHOTS + 1)
    if len(changed) <= KEPT_PATHS:
        rows = ((generation, os.fsencode(path)) for path in changed)
        connection.executemany("INSERT OR IGNORE INTO history (generation, path) VALUES (?, ?)", rows)
    else:
        first = generation + 1
    connection.execute("DELETE FROM history WHERE generation < ?", (first,))
    values = [("generation", str(generation)), ("history_from", str(first))]
    connection.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", values)
    return generation


def last_sync_of(connection: sqlite3.Connection) -> float | None:
    """When the snapshot was last known to be what the server had, in seconds since 1970; None: it never was."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'last_sync'").fetchone()
    return None if row is None else float(row[0])


def write_last_sync(connection: sqlite3.Connection, moment: float) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('last_sync', ?)", (repr(moment),))


def changed_since(connection: sqlite3.Connection, generation: int) -> list[str] | None:
    """The paths that were changed by the snapshots after this one; None where that is not known any more."""
    if generation + 1 < _number(connection, "history_from"):
        return None
    rows = connection.execute("SELECT DISTINCT path FROM history WHERE generation > ?", (generation,))
    return [os.fsdecode(path) for (path,) in rows]


def _number(connection: sqlite3.Connection, key: str) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return 0 if row is None else int(row[0])

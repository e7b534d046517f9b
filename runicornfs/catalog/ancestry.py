"""From a node's inode number back to its path: rows know their parent and their name only."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

from runicornfs.catalog.manifests import paths_in
from runicornfs.catalog.nodes import ROOT_INODE
from runicornfs.store.paths import PATH_LIMIT


def path_of(connection: sqlite3.Connection, inode: int, known: dict[int, str]) -> str | None:
    """The path of a node, read upwards. `known` holds what was found before, and takes what is found now.

    None where numbers collide (see `inode_of`), so that the way up ends nowhere or goes in a circle.
    """
    below: list[tuple[int, str]] = []
    while inode != ROOT_INODE and inode not in known:
        row = connection.execute("SELECT parent, name FROM nodes WHERE inode = ?", (inode,)).fetchone()
        if row is None or len(below) > PATH_LIMIT:
            return None
        below.append((inode, os.fsdecode(row[1])))
        inode = row[0]
    path = known.get(inode, "")
    for number, name in reversed(below):
        path = known[number] = f"{path}/{name}" if path else name
    return path


def all_paths(connection: sqlite3.Connection) -> Iterator[str]:
    """The path of every node."""
    known: dict[int, str] = {}
    for inode, manifest in connection.execute("SELECT inode, iif(kind = 0, document, NULL) FROM nodes").fetchall():
        path = path_of(connection, inode, known)
        if path is None:
            continue
        yield path
        if manifest is not None:
            for name in paths_in(connection, manifest):
                yield f"{path}/{name}"

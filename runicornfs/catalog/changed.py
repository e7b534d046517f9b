"""The paths that a snapshot changed, where they are too many for a list."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator

from runicornfs.catalog.database import Database
from runicornfs.catalog.history import KEPT_PATHS
from runicornfs.catalog.manifests import inventory_of, paths_in


class ManyPaths(Collection[str]):
    """Some paths, and everything in some folders `files`, which is read when it is asked for: of a million new files
    the names alone are 100 MB, and before anything is mounted nobody asks.

    A manifest that has been replaced since then is left out: the snapshot that did so has changed its paths again.
    """

    def __init__(self, database: Database, paths: list[str], folders: list[tuple[str, int]], count: int) -> None:
        """`folders`: path and manifest. `count`: how many paths it are."""
        self._database = database
        self._paths = paths
        self._folders = folders
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        yield from self._paths
        for folder, manifest in self._folders:
            with self._database.reader() as connection:
                names = list(paths_in(connection, manifest))
            for name in names:
                yield f"{folder}/{name}"

    def __contains__(self, path: object) -> bool:
        return any(path == other for other in self)


def changed_paths(
    database: Database, connection: sqlite3.Connection, changed: Iterable[str], came: list[tuple[str, int]]
) -> Collection[str]:
    """What a `NodeWriter` has found to be changed: a list where it is short enough for one."""
    paths = list(changed)
    count = len(paths)
    for _, manifest in came:
        inventory = inventory_of(connection, manifest)
        count += 0 if inventory is None else inventory.entries
    if count > KEPT_PATHS:
        return ManyPaths(database, paths, came, count)
    for folder, manifest in came:
        paths += [f"{folder}/{name}" for name in paths_in(connection, manifest)]
    return paths

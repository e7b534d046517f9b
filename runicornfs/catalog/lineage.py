"""What the tables say of who produced and who used what: the records from which `store.lineage` makes a graph.

A version's producers are the runs that list it as created. The run that the version itself names (`created_by_run`)
counts, too, where none of that id lists it: it is then the newest run of that id, or one that is not there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from runicornfs.catalog.database import Database
from runicornfs.catalog.nodes import inode_of
from runicornfs.store.layout import ARTIFACTS
from runicornfs.store.lineage import EDGE_LIMIT, LineageGraph, Link, Run, Version, lineage_of

# SQLite keeps the order of a CROSS JOIN: what is wanted is read first, then looked up.
_LINKS = """
SELECT r.run_id, r.path, l.type, l.name, l.version, coalesce(l.at, r.created_at) AS at
FROM wanted CROSS JOIN run_artifacts l ON {which} AND l.created = ? JOIN runs r ON r.id = l.run
ORDER BY at DESC, r.path LIMIT ?
"""
_LINKS_OF_VERSIONS = _LINKS.format(which="l.artifact = wanted.artifact AND l.version = wanted.version")
_LINKS_OF_RUNS = _LINKS.format(which="l.run = wanted.run")
# SQLite takes the bare column r.path from the row that has the maximum: the newest run of that id.
_NAMED_RUNS = """
SELECT CAST(v.created_by_run AS BLOB), r.path, a.type, a.name, v.version, v.created_at, max(r.created_at)
FROM wanted CROSS JOIN versions v USING (artifact, version) JOIN artifacts a ON a.id = v.artifact
LEFT JOIN runs r ON r.run_id = CAST(v.created_by_run AS BLOB)
WHERE v.created_by_run <> '' GROUP BY v.artifact, v.version ORDER BY v.created_at DESC LIMIT ?
"""
_NAMED_BY = """
SELECT wanted.run_id, a.type, a.name, v.version
FROM wanted CROSS JOIN versions v ON CAST(v.created_by_run AS BLOB) = wanted.run_id
JOIN artifacts a ON a.id = v.artifact ORDER BY v.created_at DESC LIMIT ?
"""
_ABOUT_VERSIONS = """
SELECT a.type, a.name, v.version, v.size_bytes, v.created_at, v.status, v.shown, v.deleted
FROM wanted CROSS JOIN versions v USING (artifact, version) JOIN artifacts a ON a.id = v.artifact
"""
_ABOUT_RUNS = """
SELECT run_id, path, project, name, created_at, status, deleted FROM wanted CROSS JOIN runs ON id = run
"""


class Lineage:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, type: str, name: str, version: int, max_depth: int) -> LineageGraph:
        """The graph around a version, all of one snapshot: at most six statements a step in each direction."""
        with self._database.snapshot() as connection:
            return lineage_of(Version(type, name, version), _Records(connection), max_depth)


class _Records:
    """The protocol `store.lineage.Records` on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def producing(self, versions: Sequence[Version]) -> list[Link]:
        keys = _keys(versions)
        listed = [_link(*row) for row in self._rows(_LINKS_OF_VERSIONS, keys, True, EDGE_LIMIT + 1)]
        named = [_link(*row[:6]) for row in self._rows(_NAMED_RUNS, keys, EDGE_LIMIT + 1)]
        there = {(link.version, link.run.id) for link in listed}
        return listed + [link for link in named if (link.version, link.run.id) not in there]

    def using(self, versions: Sequence[Version]) -> list[Link]:
        return [_link(*row) for row in self._rows(_LINKS_OF_VERSIONS, _keys(versions), False, EDGE_LIMIT + 1)]

    def produced(self, runs: Sequence[Run]) -> list[Link]:
        listed = [_link(*row) for row in self._rows(_LINKS_OF_RUNS, _run_keys(runs), True, EDGE_LIMIT + 1)]
        ids = {"run_id": [os.fsencode(run.id) for run in runs]}
        there = {(link.version, link.run.id) for link in listed}
        naming = [(_version(*row), os.fsdecode(id)) for id, *row in self._rows(_NAMED_BY, ids, EDGE_LIMIT + 1)]
        doubtful = [version for version, id in naming if (version, id) not in there]
        wanted, known = set(runs), set(listed)
        return listed + [link for link in self.producing(doubtful) if link.run in wanted and link not in known]

    def used(self, runs: Sequence[Run]) -> list[Link]:
        return [_link(*row) for row in self._rows(_LINKS_OF_RUNS, _run_keys(runs), False, EDGE_LIMIT + 1)]

    def about(self, versions: Sequence[Version], runs: Sequence[Run]) -> dict[Version | Run, dict[str, Any]]:
        found: dict[Version | Run, dict[str, Any]] = {}
        for kind, name, number, size, created_at, status, shown, deleted in self._rows(
            _ABOUT_VERSIONS, _keys(versions)
        ):
            if shown or deleted:
                found[_version(kind, name, number)] = {
                    "size": size,
                    "created_at": created_at,
                    "status": status,
                    "state": "present" if shown else "deleted",
                }
        for run_id, path, project, name, created_at, status, deleted in self._rows(_ABOUT_RUNS, _run_keys(runs)):
            found[Run(os.fsdecode(run_id), os.fsdecode(path))] = {
                "project": os.fsdecode(project),
                "name": os.fsdecode(name),
                "created_at": created_at,
                "status": status,
                "state": "deleted" if deleted else "present",
            }
        return found

    def _rows(self, statement: str, wanted: dict[str, list[Any]], *parameters: object) -> list[tuple[Any, ...]]:
        """`wanted`: the columns of the table of that name, which are equally long."""
        rows = list(zip(*wanted.values(), strict=True))
        if not rows:
            return []
        marks = f"({','.join('?' * len(wanted))})"
        table = f"WITH wanted ({','.join(wanted)}) AS (VALUES {','.join([marks] * len(rows))})"
        return self._connection.execute(f"{table} {statement}", (*chain(*rows), *parameters)).fetchall()


def _keys(versions: Sequence[Version]) -> dict[str, list[Any]]:
    return {
        "artifact": [inode_of(f"{ARTIFACTS}/{version.type}/{version.name}") for version in versions],
        "version": [version.version for version in versions],
    }


def _run_keys(runs: Sequence[Run]) -> dict[str, list[Any]]:
    return {"run": [inode_of(run.path) for run in runs if run.path]}


def _version(kind: bytes, name: bytes, version: int) -> Version:
    return Version(os.fsdecode(kind), os.fsdecode(name), version)


def _link(run_id: bytes, path: bytes | None, kind: bytes, name: bytes, version: int, at: float) -> Link:
    return Link(Run(os.fsdecode(run_id), os.fsdecode(path or b"")), _version(kind, name, version), at)

"""Runs and projects, as the last sync saw them. Runs in the recycle bin are not shown.

A run's id is the name of its folder. It may stand in two projects, since people copy runs: lists show both, and asking
for the id means the newest. Every method is a fixed number of statements, however many runs there are.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runicornfs.catalog.database import Database
from runicornfs.catalog.nodes import inode_of
from runicornfs.errors import MalformedRecord, NotFound
from runicornfs.store.fields import parse_object, with_unicode_names
from runicornfs.store.paths import shown
from runicornfs.store.records import parse_version_metadata

# Bytes of summary.json with which a run still carries its summary in a list; the run by itself always does.
LISTED_SUMMARY = 16 * 1024

_RUNS = """
SELECT path, run_id, project, name, created_at, status, pid, started_at, ended_at, best_metric_name, best_metric_value,
    created_count, used_count, (SELECT content FROM documents d WHERE d.id = summary_document AND length(content) <= ?)
FROM runs WHERE NOT deleted
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run; `path` is its folder in the store, `project` and `name` are "" where nothing says them.

    Times in seconds since 1970, None for what the records do not say; `created_at` is then the newest file's.
    `summary` is None where there is none, or none that can be read.
    """

    path: str
    id: str
    project: str
    name: str
    created_at: float
    status: str  # running, finished, failed, or whatever else status.json says; unknown
    pid: int | None
    started_at: float | None
    ended_at: float | None
    best_metric_name: str | None
    best_metric_value: float | None
    artifacts_created_count: int
    artifacts_used_count: int
    summary: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class RunArtifact:
    """A version that a run created or used: what the store says of it, else what the run noted. Sizes in bytes, times
    in seconds since 1970."""

    name: str
    type: str
    version: int
    size_bytes: int
    created_at: float
    description: str | None
    aliases: list[str]


@dataclass(frozen=True, slots=True)
class RunArtifacts:
    """In the order in which the run came to them."""

    created: list[RunArtifact]
    used: list[RunArtifact]


class Runs:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def select(self, project: str | None = None, name: str | None = None) -> list[Run]:
        """Every run, or those of a project, or of one experiment in it; newest first."""
        with self._database.reader() as connection:
            rows = connection.execute(
                f"{_RUNS} AND (?2 IS NULL OR project = ?2) AND (?3 IS NULL OR name = ?3)"
                " ORDER BY created_at DESC, path",
                (LISTED_SUMMARY, _raw(project), _raw(name)),
            ).fetchall()
        return [_run(row) for row in rows]

    def find(self, id: str) -> Run:
        """The newest run of that id, with its whole summary. Raises NotFound."""
        with self._database.reader() as connection:
            row = connection.execute(
                f"{_RUNS} AND run_id = ? ORDER BY created_at DESC, path LIMIT 1", (2**62, _raw(id))
            ).fetchone()
        if row is None:
            raise NotFound(f"there is no run {shown(id)}")
        return _run(row)

    def artifacts(self, run: Run) -> RunArtifacts:
        """What a run created and used. Nothing for a run that is gone by now."""
        with self._database.snapshot() as connection:
            rows = connection.execute(
                "SELECT l.created, l.name, l.type, l.version, coalesce(v.size_bytes, l.size_bytes, 0),"
                " coalesce(v.created_at, l.at, r.created_at), d.content, l.artifact"
                " FROM runs r JOIN run_artifacts l ON l.run = r.id"
                " LEFT JOIN versions v ON v.artifact = l.artifact AND v.version = l.version AND (v.shown OR v.deleted)"
                " LEFT JOIN documents d ON d.id = v.metadata_document"
                " WHERE r.id = ? ORDER BY l.at, l.type, l.name, l.version",
                (inode_of(run.path),),
            ).fetchall()
            aliases = _aliases(connection, run)
        found: dict[bool, list[RunArtifact]] = {True: [], False: []}
        for created, name, kind, version, size_bytes, created_at, metadata, artifact in rows:
            found[bool(created)].append(
                RunArtifact(
                    name=os.fsdecode(name),
                    type=os.fsdecode(kind),
                    version=version,
                    size_bytes=size_bytes,
                    created_at=created_at,
                    description=_description(metadata),
                    aliases=aliases.get((artifact, version), []),
                )
            )
        return RunArtifacts(created=found[True], used=found[False])

    def projects(self) -> list[str]:
        """The projects that have a run, sorted."""
        return self._names("SELECT DISTINCT project FROM runs WHERE NOT deleted AND project <> x'' ORDER BY project")

    def names(self, project: str) -> list[str]:
        """The experiments of a project, sorted; none for an unknown one."""
        return self._names(
            "SELECT DISTINCT name FROM runs WHERE NOT deleted AND project = ? AND name <> x'' ORDER BY name",
            _raw(project),
        )

    def _names(self, statement: str, *parameters: object) -> list[str]:
        with self._database.reader() as connection:
            return [os.fsdecode(name) for (name,) in connection.execute(statement, parameters)]


def _raw(text: str | None) -> bytes | None:
    """A name as the database has it; one that no folder can have is no folder's."""
    try:
        return None if text is None else os.fsencode(text)
    except UnicodeEncodeError:
        return b"\0"


def _run(row: tuple[Any, ...]) -> Run:
    summary = row[13]
    return Run(
        path=os.fsdecode(row[0]),
        id=os.fsdecode(row[1]),
        project=os.fsdecode(row[2]),
        name=os.fsdecode(row[3]),
        created_at=row[4],
        status=row[5],
        pid=row[6],
        started_at=row[7],
        ended_at=row[8],
        best_metric_name=row[9],
        best_metric_value=row[10],
        artifacts_created_count=row[11],
        artifacts_used_count=row[12],
        summary=None if summary is None else with_unicode_names(parse_object(summary)),
    )


def _aliases(connection: sqlite3.Connection, run: Run) -> dict[tuple[int, int], list[str]]:
    """Artifact and version: the aliases of what a run created or used, sorted."""
    found: dict[tuple[int, int], list[str]] = {}
    rows = connection.execute(
        "SELECT DISTINCT artifact, version, alias FROM run_artifacts JOIN aliases USING (artifact, version)"
        " WHERE run = ? ORDER BY alias",
        (inode_of(run.path),),
    )
    for artifact, version, alias in rows:
        found.setdefault((artifact, version), []).append(os.fsdecode(alias))
    return found


def _description(metadata: bytes | None) -> str | None:
    if metadata is not None:
        with suppress(MalformedRecord):
            return parse_version_metadata(metadata).description
    return None

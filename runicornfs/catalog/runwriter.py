"""From the sources of one run to its rows: its records are parsed here, once a change, and never for an answer.

A run is a folder where runs lie, whatever is in it; what its records do not say, or not readably, stays unsaid. One in
the recycle bin keeps its rows: what it used and created is history. Works inside the transaction of an update.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from runicornfs.catalog.nodes import inode_of
from runicornfs.catalog.tree import Source
from runicornfs.errors import MalformedRecord
from runicornfs.store.fields import parse_object
from runicornfs.store.layout import ARTIFACTS, RUNS, Role, place_of
from runicornfs.store.observed import ObservedKind
from runicornfs.store.records import (
    ArtifactUse,
    ArtifactUses,
    parse_artifact_uses,
    parse_run_meta,
    parse_run_status,
    parse_run_summary,
)

# The status of a run whose status.json is not there or cannot be read.
UNKNOWN = "unknown"

Record = TypeVar("Record")


class RunWriter:
    """Reads the sources of one run; `problems` are those of its records."""

    def __init__(self, folder: str, sources: Sequence[Source], content: Callable[[Source], bytes]) -> None:
        """`folder`: where a run may lie. `content` returns a source's bytes or raises MalformedRecord."""
        self.problems: list[str] = []
        self._folder = folder
        self._sources = sources
        self._content = content
        self._by_role = {place_of(source.path).role: source for source in sources}

    @property
    def is_deleted(self) -> bool:
        return Role.RUN_DELETED in self._by_role

    def write(self, connection: sqlite3.Connection) -> None:
        """The run is as its sources say from now on; without any it is gone."""
        run = inode_of(self._folder)
        connection.execute("DELETE FROM runs WHERE id = ?", (run,))
        connection.execute("DELETE FROM run_artifacts WHERE run = ?", (run,))
        if not any(source.path != self._folder or source.kind is ObservedKind.DIRECTORY for source in self._sources):
            return  # nothing, or a file beside the runs
        meta = self._record(Role.RUN_META, parse_run_meta)
        status = self._record(Role.RUN_STATUS, parse_run_status)
        summary = self._record(Role.RUN_SUMMARY, parse_run_summary)
        self._record(Role.RUN_ENVIRONMENT, parse_object)
        created = self._uses(Role.RUN_CREATED)
        used = self._uses(Role.RUN_USED)
        above, _, run_id = self._folder.rpartition("/")
        if above == RUNS:  # an old store: the folder does not say what the run belongs to
            project, name = (meta and meta.project) or "", (meta and meta.name) or ""
        else:
            project, name, _ = above.split("/")
        times = (meta and meta.created_at, status and status.started_at, self._seen_at())
        for is_created, uses in ((True, created), (False, used)):
            if uses:
                self._insert(connection, run, is_created, uses)
        connection.execute(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run,
                os.fsencode(self._folder),
                os.fsencode(run_id),
                os.fsencode(project),
                os.fsencode(name),
                next(time for time in times if time is not None),
                (status and status.status) or UNKNOWN,
                meta and meta.pid,
                status and status.started_at,
                status and status.ended_at,
                summary and summary.best_metric_name,
                summary and summary.best_metric_value,
                len(created),
                len(used),
                summary and self._by_role[Role.RUN_SUMMARY].document,
                self.is_deleted,
            ),
        )

    def _record(self, role: Role, parse: Callable[[bytes], Record]) -> Record | None:
        source = self._by_role.get(role)
        if source is None:
            return None
        try:
            return parse(self._content(source))
        except MalformedRecord as error:
            self.problems.append(f"{source.path}: {error}")
            return None

    def _uses(self, role: Role) -> list[ArtifactUse]:
        """Each version once: of two entries the first counts."""
        record = self._record(role, parse_artifact_uses) or ArtifactUses([], [])
        self.problems += [f"{self._by_role[role].path}: {problem}" for problem in record.problems]
        return list({(use.type, use.name, use.version): use for use in reversed(record.uses)}.values())

    def _seen_at(self) -> float:
        """The time of what is newest in the run, in seconds: 0 for an empty one."""
        return max(source.mtime_ns for source in self._sources) / 1e9

    def _insert(self, connection: sqlite3.Connection, run: int, created: bool, uses: list[ArtifactUse]) -> None:
        connection.executemany(
            "INSERT OR IGNORE INTO run_artifacts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # numbers of paths may collide
            (
                (
                    run,
                    created,
                    inode_of(f"{ARTIFACTS}/{use.type}/{use.name}"),
                    use.version,
                    os.fsencode(use.type),
                    os.fsencode(use.name),
                    use.at,
                    use.size_bytes,
                )
                for use in uses
            ),
        )

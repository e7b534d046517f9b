"""How the catalog learns: what a scan saw is staged in pieces and applied as one transaction.

Staged pieces are committed now and then, outside of what readers see, so that a sync that breaks off need not be
repeated from the start. `apply` turns them into a new snapshot or, where it raises, changes nothing. Memory is bounded
by the largest unit (a manifest of 100,000 files, 20 MB of JSON, takes 85 MB; the writer's pages 64 MiB more at most)
and by the list of changed paths.

An `Update` belongs to one thread and comes from `Catalog.update`; only what `known` returns may be read in another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from runicornfs.catalog.database import Database
from runicornfs.catalog.rebuild import Rebuild, replace_problems
from runicornfs.catalog.totals import Totals, read_totals, write_totals
from runicornfs.catalog.writer import NodeWriter
from runicornfs.store.layout import ARTIFACTS, place_of
from runicornfs.store.observed import Observed, ObservedKind
from runicornfs.store.paths import check_relative, parent_of

# What a broken sync loses at most. A commit costs about a millisecond, so smaller pieces would cost time.
STAGED_BYTES = 4 * 1024 * 1024
STAGED_ENTRIES = 1000
# Notices of one scan that are kept.
NOTICES_LIMIT = 1000
# The unit of the scan's own problems: no folder has this inode number.
SCAN_UNIT = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What an `apply` changed.

    `changed_paths`: every path that came, went or has other attributes, and the folders whose listing is another.
    `documents_changed`: path and id of every document with a new content, None for one that is gone; also of versions
    that are not shown. `problems`: those of what was rebuilt, and the scan's notices.
    """

    changed_paths: list[str]
    documents_changed: list[tuple[str, int | None]]
    problems: list[str]


@dataclass(frozen=True, slots=True)
class _Affected:
    artifacts: dict[str, set[int]]  # an artifact's folder: those of its versions in which something changed
    folders: set[str]  # of runs, and `sweeps`
    ancestors: set[str]


class Update:
    """One thread's work on the catalog. Methods raise sqlite3.Error; `Catalog.update` translates what can be helped."""

    def __init__(self, database: Database, publish: Callable[[Callable[[], None], Totals], None]) -> None:
        """`publish(commit, totals)` calls `commit`, which makes a new snapshot visible."""
        self._database = database
        self._connection = database.writer
        self._publish = publish
        self._notices: list[str] = []
        self._pending_bytes = 0
        self._pending_entries = 0

    def known(self) -> Iterator[tuple[bytes, bytes]]:
        """Path and token of everything that is known, applied or staged, ordered by the paths' bytes.

        Streamed on a connection of its own: of one moment, that of the first `next`.
        """
        self.flush()
        return self._known()

    def stage(self, observed: Observed) -> None:
        """The server has this. Raises UnsafePath."""
        path = os.fsencode(check_relative(observed.path))
        self._begin()
        document = None
        size = observed.size
        if observed.content is not None:
            document = self._unchanged_document(path, observed.content)
            size = len(observed.content)
        self._unstage(path, keep=document)
        if observed.content is not None and document is None:
            cursor = self._connection.execute("INSERT INTO documents (content) VALUES (?)", (observed.content,))
            document = cursor.lastrowid
        self._connection.execute(
            "INSERT INTO staged (path, kind, token, size, mtime_ns, document) VALUES (?, ?, ?, ?, ?, ?)",
            (path, int(observed.kind), observed.token, size, observed.mtime_ns, document),
        )
        self._pend(0 if observed.content is None else size)

    def gone(self, path: str) -> None:
        """The server does not have this any more. Raises UnsafePath."""
        raw = os.fsencode(check_relative(path))
        self._begin()
        self._unstage(raw, keep=None)
        self._connection.execute("INSERT INTO staged (path) VALUES (?)", (raw,))
        self._pend(0)

    def notice(self, text: str) -> None:
        """Something that the scan could not use: a problem of the snapshot that the next `apply` makes."""
        if len(self._notices) < NOTICES_LIMIT:
            self._notices.append(text)

    def flush(self) -> None:
        """Commits what is staged. Readers see nothing of it."""
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        self._pending_bytes = self._pending_entries = 0

    def end(self) -> None:
        """Keeps what is staged where it can be kept; leaves no transaction open."""
        try:
            self.flush()
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @property
    def is_empty(self) -> bool:
        """Nothing is staged: the next `apply` makes no new snapshot."""
        return self._connection.execute("SELECT 1 FROM staged LIMIT 1").fetchone() is None

    def apply(self, last_sync: float | None = None) -> Changes:
        """Makes what is staged visible, all at once.

        `last_sync` (seconds since 1970) is kept as the meta of that name and says that this was a whole sync: the
        notices of the one before are then forgotten.
        """
        self.flush()
        with self._transaction():
            notices = self._record_sync(last_sync)
            if self.is_empty:
                return Changes([], [], notices)
            affected = self._affected()
            documents_changed = self._take_over()
            writer = NodeWriter(self._connection)
            rebuild = Rebuild(self._connection, writer)
            for artifact in sorted(affected.artifacts):
                rebuild.artifact(artifact, affected.artifacts[artifact])
            for folder in sorted(affected.folders):
                rebuild.folder(folder)
            writer.refresh_ancestors(affected.ancestors, self._artifacts_seen())
            totals = read_totals(self._connection).grown(self._connection, writer.files, writer.bytes)
            write_totals(self._connection, totals)
            self._publish(self._commit, totals)
        return Changes(list(writer.changed), documents_changed, notices + rebuild.problems)

    def _known(self) -> Iterator[tuple[bytes, bytes]]:
        with self._database.reader() as connection:
            yield from connection.execute(
                """
                SELECT path, token FROM staged WHERE kind IS NOT NULL
                UNION ALL
                SELECT path, token FROM sources WHERE NOT EXISTS (SELECT 1 FROM staged WHERE staged.path = sources.path)
                ORDER BY path
                """
            )

    def _unchanged_document(self, path: bytes, content: bytes) -> int | None:
        """The document of the applied source where it has this content already: a new token is no new document."""
        row = self._connection.execute(
            "SELECT id FROM documents WHERE id = (SELECT document FROM sources WHERE path = ?) AND content = ?",
            (path, content),
        ).fetchone()
        return None if row is None else int(row[0])

    def _unstage(self, path: bytes, keep: int | None) -> None:
        """Forgets what was staged for a path, and its document unless an applied source has it, too."""
        self._connection.execute(
            "DELETE FROM documents WHERE id = (SELECT document FROM staged WHERE path = ?1) AND id IS NOT ?2"
            " AND id IS NOT (SELECT document FROM sources WHERE path = ?1)",
            (path, keep),
        )
        self._connection.execute("DELETE FROM staged WHERE path = ?", (path,))

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    def _pend(self, size: int) -> None:
        self._pending_bytes += size
        self._pending_entries += 1
        if self._pending_bytes >= STAGED_BYTES or self._pending_entries >= STAGED_ENTRIES:
            self.flush()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._begin()
        try:
            yield
            self._commit()
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _commit(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def _record_sync(self, last_sync: float | None) -> list[str]:
        """Returns the notices as they can be printed."""
        if last_sync is not None:
            self._connection.execute(
                "INSERT OR REPLACE INTO meta (key, value) VALUES ('last_sync', ?)", (repr(last_sync),)
            )
        if last_sync is None and not self._notices:
            return []
        notices = replace_problems(self._connection, SCAN_UNIT, self._notices)
        self._notices = []
        return notices

    def _affected(self) -> _Affected:
        affected = _Affected({}, set(), set())
        for (path,) in self._connection.execute("SELECT path FROM staged"):
            place = place_of(os.fsdecode(path))
            if place.artifact is not None:
                versions = affected.artifacts.setdefault(place.artifact, set())
                if place.version is not None:
                    versions.add(place.version)
            elif place.unit:
                affected.folders.add(place.unit)
            elif path == ARTIFACTS.encode():
                affected.ancestors.add(ARTIFACTS)
        affected.ancestors.update(affected.artifacts)
        for unit in (*affected.artifacts, *affected.folders):
            above = parent_of(unit)
            while above and above not in affected.ancestors:
                affected.ancestors.add(above)
                above = parent_of(above)
        return affected

    def _take_over(self) -> list[tuple[str, int | None]]:
        """Staged becomes known. Returns the documents that changed."""
        run = self._connection.execute
        changed = [
            (os.fsdecode(path), document)
            for path, document in run(
                "SELECT path, staged.document FROM staged LEFT JOIN sources USING (path)"
                " WHERE staged.document IS NOT sources.document ORDER BY path"
            )
        ]
        run(
            "DELETE FROM documents WHERE id IN (SELECT sources.document FROM staged JOIN sources USING (path)"
            " WHERE sources.document IS NOT NULL AND sources.document IS NOT staged.document)"
        )
        run("DELETE FROM sources WHERE path IN (SELECT path FROM staged WHERE kind IS NULL)")
        run(
            "INSERT OR REPLACE INTO sources (path, kind, token, size, mtime_ns, document)"
            " SELECT path, kind, token, size, mtime_ns, document FROM staged WHERE kind IS NOT NULL"
        )
        run("DELETE FROM staged")
        return changed

    def _artifacts_seen(self) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM sources WHERE path = ? AND kind = ?", (ARTIFACTS.encode(), int(ObservedKind.DIRECTORY))
        ).fetchone()
        return row is not None

"""How the catalog learns: what a scan saw is staged in pieces and applied as one transaction.

What a manifest says is written while it is staged, see `manifests`: so `apply` has little to do, however much came.

Staged pieces are committed now and then, outside of what readers see, so that a sync that breaks off need not be
repeated from the start. `apply` turns them into a new snapshot or, where it raises, changes nothing. Memory is bounded
by the largest unit (a manifest of 100,000 files, 20 MB of JSON, takes 105 MB; the writer's pages 16 MiB more at most)
and by the list of changed paths.

There are two kinds of updates, both from the catalog: that of a scan, of which there is one at a time, lasts as long as
the scan does and keeps what it stages; and that of an edit, whose records of one artifact are staged apart and applied
at once, also while a scan is under way. What that scan saw of the artifact is older or no newer, and is left out: the
next scan finds what else has changed there.

An `Update` belongs to one thread; only what `known` returns may be read in another. The updates share the writing
connection: each method holds the catalog's `_writing` lock while it works, and leaves a transaction open only while it
stages, which the other may commit: nobody sees what is staged.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from runicornfs.catalog.changed import changed_paths
from runicornfs.catalog.database import Database
from runicornfs.catalog.history import generation_of, last_sync_of, record, write_last_sync
from runicornfs.catalog.manifests import write_manifest
from runicornfs.catalog.rebuild import Rebuild, replace_problems
from runicornfs.catalog.totals import Totals, read_totals, write_totals
from runicornfs.catalog.writer import NodeWriter
from runicornfs.store.layout import ARTIFACTS, Place, Role, place_of
from runicornfs.store.observed import Observed, ObservedKind
from runicornfs.store.paths import check_relative, parent_of, printable

# What a broken sync loses at most. A commit costs about a millisecond, so smaller pieces would cost time.
STAGED_BYTES = 4 * 1024 * 1024
STAGED_ENTRIES = 1000
# Notices of one scan that are kept.
NOTICES_LIMIT = 1000
# Where a scan stages, and where an edit does.
SCANNED = "staged"
EDITED = "edited"
_EDITED = f"""
CREATE TEMP TABLE IF NOT EXISTS {EDITED} (
    path BLOB PRIMARY KEY, kind INTEGER, token BLOB, size INTEGER, mtime_ns INTEGER, document INTEGER
) WITHOUT ROWID
"""
# The unit of the scan's own problems: no folder has this inode number.
SCAN_UNIT = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What an `apply` changed.

    `changed_paths`: every path that came, went or has other attributes, and the folders whose listing is another.
    `documents_changed`: path and id of every document with a new content, None for one that is gone; also of versions
    that are not shown. `problems`: those of what was rebuilt, and the scan's notices. `generation`: the catalog's that
    shows all of it.
    """

    changed_paths: Collection[str]
    documents_changed: list[tuple[str, int | None]]
    problems: list[str]
    generation: int


@dataclass(frozen=True, slots=True)
class _Affected:
    artifacts: dict[str, set[int]]  # an artifact's folder: those of its versions in which something changed
    folders: set[str]  # of runs, and `sweeps`
    ancestors: set[str]


class Update:
    """One thread's work on the catalog. Methods raise sqlite3.Error; the catalog translates what can be helped."""

    def __init__(
        self,
        database: Database,
        writing: threading.RLock,
        published: Callable[[Changes, Totals], None],
        table: str = SCANNED,
    ) -> None:
        """`writing` protects the writing connection; `published` hears under it of each new snapshot."""
        self._database = database
        self._connection = database.writer
        self._writing = writing
        self._published = published
        self._table = table
        self._left_out: set[str] = set()  # artifacts' folders
        self._notices: list[str] = []
        self._pending_bytes = 0
        self._pending_entries = 0

    def known(self) -> Iterator[tuple[bytes, bytes]]:
        """Path and token of everything that is known, applied or staged, ordered by the paths' bytes.

        Streamed on a connection of its own: of one moment, that of the first `next`.
        """
        self.flush()
        return self._known()

    def leave_out(self, artifact: str) -> None:
        """An edit knows better what is in this artifact's folder: what is staged from now on does not count."""
        with self._writing:
            self._left_out.add(artifact)

    def amend(self, artifact: str, observed: Iterable[Observed], gone: Iterable[str]) -> Changes:
        """For an edit: this is so in the artifact's folder, and shown at once; other paths are no business of it."""
        with self._writing:
            self._commit()  # what a scan is staging
            self._connection.execute(_EDITED)
            with self._transaction():
                self._forget_staged(artifact)
                for item in observed:
                    if place_of(item.path).artifact == artifact:
                        self.stage(item)
                for path in gone:
                    if place_of(path).artifact == artifact:
                        self.gone(path)
                return self._apply(None)

    def stage(self, observed: Observed) -> None:
        """The server has this. Raises UnsafePath."""
        path = os.fsencode(check_relative(observed.path))
        place = place_of(observed.path)
        with self._writing:
            if place.artifact not in self._left_out:
                self._stage(path, observed, place)

    def gone(self, path: str) -> None:
        """The server does not have this any more. Raises UnsafePath."""
        raw = os.fsencode(check_relative(path))
        with self._writing:
            if place_of(path).artifact in self._left_out:
                return
            self._begin()
            self._unstage(raw, keep=None)
            self._connection.execute(f"INSERT INTO {self._table} (path) VALUES (?)", (raw,))
            self._pend(0)

    def notice(self, text: str) -> None:
        """Something that the scan could not use: a problem of the snapshot that the next `apply` makes."""
        if len(self._notices) < NOTICES_LIMIT:
            self._notices.append(text)

    def flush(self) -> None:
        """Commits what is staged. Readers see nothing of it."""
        with self._writing:
            self._commit()
            self._pending_bytes = self._pending_entries = 0

    def end(self) -> None:
        """Keeps what is staged where it can be kept; leaves no transaction open."""
        with self._writing:
            try:
                self.flush()
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @property
    def is_empty(self) -> bool:
        """Nothing is staged: the next `apply` makes no new snapshot."""
        with self._writing:
            return self._connection.execute(f"SELECT 1 FROM {self._table} LIMIT 1").fetchone() is None

    def apply(self, last_sync: float | None = None) -> Changes:
        """Makes what is staged visible, all at once.

        `last_sync` (seconds since 1970) says that this was a whole sync: the notices of the one before are forgotten.
        It is kept as the meta of that name where anything else is written; a sync that has brought nothing writes
        nothing, and when it was is for others to remember.
        """
        with self._writing:
            if self._table == SCANNED:
                self.flush()  # what was received stays, also where this fails
            return self._apply(last_sync)

    def _stage(self, path: bytes, observed: Observed, place: Place) -> None:
        self._begin()
        document = None
        size = observed.size
        if observed.content is not None:
            document = self._unchanged_document(path, observed)
            size = len(observed.content)
        self._unstage(path, keep=document)
        if observed.content is not None and document is None:
            cursor = self._connection.execute("INSERT INTO documents (content) VALUES (?)", (observed.content,))
            document = cursor.lastrowid
            if document is not None and place.role is Role.VERSION_MANIFEST:
                write_manifest(self._connection, document, observed.content, observed.mtime_ns)
        self._connection.execute(
            f"INSERT INTO {self._table} (path, kind, token, size, mtime_ns, document) VALUES (?, ?, ?, ?, ?, ?)",
            (path, int(observed.kind), observed.token, size, observed.mtime_ns, document),
        )
        self._pend(0 if observed.content is None else size)

    def _apply(self, last_sync: float | None) -> Changes:
        with self._transaction():
            notices = self._record_notices(whole=last_sync is not None)
            if last_sync is not None and (not self.is_empty or last_sync_of(self._connection) is None):
                write_last_sync(self._connection, last_sync)
            if self.is_empty:
                return Changes([], [], notices, generation_of(self._connection))
            affected = self._affected()
            documents_changed, replaced = self._take_over()
            writer = NodeWriter(self._connection)
            rebuild = Rebuild(self._connection, writer)
            for artifact in sorted(affected.artifacts):
                rebuild.artifact(artifact, affected.artifacts[artifact])
            for folder in sorted(affected.folders):
                rebuild.folder(folder)
            writer.refresh_ancestors(affected.ancestors, self._artifacts_seen())
            totals = read_totals(self._connection).grown(self._connection, writer.files, writer.bytes)
            write_totals(self._connection, totals)
            changed = changed_paths(self._database, self._connection, writer.changed, writer.came)
            generation = record(self._connection, changed)
            self._connection.executemany("DELETE FROM documents WHERE id = ?", ((document,) for document in replaced))
        changes = Changes(changed, documents_changed, notices + rebuild.problems, generation)
        self._published(changes, totals)
        return changes

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

    def _unchanged_document(self, path: bytes, observed: Observed) -> int | None:
        """The document of the applied source where it has this content already: a new token is no new document. That
        of a manifest has the file's time in it, too."""
        known = self._connection.execute("SELECT document, mtime_ns FROM sources WHERE path = ?", (path,)).fetchone()
        if known is None:
            return None
        row = self._connection.execute(
            "SELECT id FROM documents WHERE id = ? AND content = ?"
            " AND (? OR id NOT IN (SELECT document FROM manifests))",
            (known[0], observed.content, known[1] == observed.mtime_ns),
        ).fetchone()
        return None if row is None else int(row[0])

    def _unstage(self, path: bytes, keep: int | None) -> None:
        """Forgets what was staged for a path, and its document unless an applied source has it, too."""
        staged = self._connection.execute(f"SELECT document FROM {self._table} WHERE path = ?", (path,)).fetchone()
        if staged is None:
            return
        self._connection.execute(
            "DELETE FROM documents WHERE id = ?2 AND id IS NOT ?3"
            " AND id IS NOT (SELECT document FROM sources WHERE path = ?1)",
            (path, staged[0], keep),
        )
        self._connection.execute(f"DELETE FROM {self._table} WHERE path = ?", (path,))

    def _forget_staged(self, artifact: str) -> None:
        """What a scan has staged of an artifact, be it under way or broken off."""
        between = below(artifact)
        self._connection.execute(
            "DELETE FROM documents WHERE id IN (SELECT document FROM staged WHERE path > ?1 AND path < ?2)"
            " AND id NOT IN (SELECT document FROM sources WHERE path > ?1 AND path < ?2 AND document IS NOT NULL)",
            between,
        )
        self._connection.execute("DELETE FROM staged WHERE path > ? AND path < ?", between)

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    def _pend(self, size: int) -> None:
        self._pending_bytes += size
        self._pending_entries += 1
        if self._table == SCANNED and (self._pending_bytes >= STAGED_BYTES or self._pending_entries >= STAGED_ENTRIES):
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

    def _record_notices(self, whole: bool) -> list[str]:
        """Returns the notices as they can be printed. Those of the sync before are forgotten after a whole one."""
        if not whole and not self._notices:
            return []
        notices = [printable(notice) for notice in self._notices]
        known = self._connection.execute("SELECT text FROM problems WHERE unit = ? ORDER BY rowid", (SCAN_UNIT,))
        if notices != [text for (text,) in known]:
            replace_problems(self._connection, SCAN_UNIT, notices)
        self._notices = []
        return notices

    def _affected(self) -> _Affected:
        affected = _Affected({}, set(), set())
        for (path,) in self._connection.execute(f"SELECT path FROM {self._table}"):
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

    def _take_over(self) -> tuple[list[tuple[str, int | None]], list[int]]:
        """Staged becomes known. Returns the documents that changed, and the ids of those that nobody has any more."""
        run, table = self._connection.execute, self._table
        changed = [
            (os.fsdecode(path), document)
            for path, document in run(
                f"SELECT path, new.document FROM {table} new LEFT JOIN sources USING (path)"
                " WHERE new.document IS NOT sources.document ORDER BY path"
            )
        ]
        replaced = [
            document
            for (document,) in run(
                f"SELECT sources.document FROM {table} new JOIN sources USING (path)"
                " WHERE sources.document IS NOT NULL AND sources.document IS NOT new.document"
            )
        ]
        run(f"DELETE FROM sources WHERE path IN (SELECT path FROM {table} WHERE kind IS NULL)")
        run(
            "INSERT OR REPLACE INTO sources (path, kind, token, size, mtime_ns, document)"
            f" SELECT path, kind, token, size, mtime_ns, document FROM {table} WHERE kind IS NOT NULL"
        )
        run(f"DELETE FROM {table}")
        return changed, replaced

    def _artifacts_seen(self) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM sources WHERE path = ? AND kind = ?", (ARTIFACTS.encode(), int(ObservedKind.DIRECTORY))
        ).fetchone()
        return row is not None


def below(folder: str) -> tuple[bytes, bytes]:
    """Between these two, both excluded, lie the paths below a folder: "0" follows "/"."""
    raw = os.fsencode(folder)
    return raw + b"/", raw + b"0"

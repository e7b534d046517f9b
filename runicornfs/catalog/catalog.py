"""What is known of one store, for many readers at a time.

Guarantees: every answer is of one snapshot, the one before a sync or the one after it; nothing here asks the server or
loads the whole store into memory. All methods of `Catalog` are thread-safe.

One process writes a catalog. Another may follow it (`Catalog.follow`): it reads the same snapshots, and the database
says what the last ones changed.

Locks: `_scanning` is held by whoever brings in a scan, from `update` to the end of its block, however long that takes;
`_writing` protects the writing connection and is held for one step of an update, or for the whole of an edit. The first
is never waited for under the second. `_totals`, `_scan` (the update of the scan that is under way), `_told` (the
generation that the listeners know) and `_listeners` are replaced under `_writing`; all but `_scan` are read without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runicornfs.catalog import manifests
from runicornfs.catalog.ancestry import all_paths, path_of
from runicornfs.catalog.artifacts import Artifacts
from runicornfs.catalog.database import Database
from runicornfs.catalog.history import changed_since, generation_of, last_sync_of, write_last_sync
from runicornfs.catalog.lineage import Lineage
from runicornfs.catalog.nodes import Kind, Node, inode_of
from runicornfs.catalog.runs import Runs
from runicornfs.catalog.totals import Totals, TypeTotals, read_totals, totals_by_type
from runicornfs.catalog.tree import name_bytes
from runicornfs.catalog.update import EDITED, Changes, Update, below
from runicornfs.errors import NotFound
from runicornfs.store.layout import place_of
from runicornfs.store.observed import Observed
from runicornfs.store.paths import parent_of

# Name, inode, kind, size in bytes, mtime in nanoseconds, digest: see `Node`.
Row = tuple[bytes, int, int, int, int, bytes | None]

# Lines that `problems` returns: a person reads the first ones.
PROBLEMS_LIMIT = 1000


class Catalog:
    """The readers' side, and the door to the writer's: `update`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.artifacts = Artifacts(database)
        self._scanning = threading.Lock()
        self._writing = threading.RLock()
        self._scan: Update | None = None
        self._listeners: list[Callable[[Changes], None]] = []
        self.runs = Runs(database)
        self.lineage = Lineage(database)
        with database.snapshot() as connection:
            self._totals = read_totals(connection)
            self._told = generation_of(connection)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Catalog:
        """Opens index.db at `path`, or makes it (0600); the folder is there. One that cannot be used is made anew.

        This process must be the only one that writes it.
        """
        database = Database(Path(path))
        database.write()
        return cls(database)

    @classmethod
    def follow(cls, path: str | os.PathLike[str]) -> Catalog:
        """Opens the index.db that another process writes, and calls `catch_up` when it hears that it has.

        Raises sqlite3.Error where there is none.
        """
        return cls(Database(Path(path)))

    def own(self) -> None:
        """The process that wrote is gone, and this one writes from now on."""
        with self._writing:
            self._database.write()
        self.catch_up()

    def close(self) -> None:
        """Waits for an update that is under way."""
        with self._scanning, self._writing:
            self._database.close()

    @property
    def generation(self) -> int:
        """Grows with every snapshot: a number of the snapshot itself, so it is never behind what can be seen."""
        with self._database.reader() as connection:
            return generation_of(connection)

    def on_change(self, listener: Callable[[Changes], None]) -> None:
        """`listener(changes)` is called after each new snapshot, in their order, before the next can be made. It must
        return soon and must not update."""
        with self._writing:
            self._listeners = [*self._listeners, listener]

    def catch_up(self) -> None:
        """Another process may have made new snapshots: tells the listeners what they changed."""
        with self._writing:
            with self._database.snapshot() as connection:
                generation = generation_of(connection)
                totals = read_totals(connection)
                paths = changed_since(connection, self._told)
                if paths is None:
                    paths = list(all_paths(connection))
            if generation != self._told:
                self._published(Changes(paths, [], [], generation), totals)

    @contextmanager
    def update(self) -> Iterator[Update]:
        """For a scan: waits for another one to end. What was staged stays staged, also where the block raises.

        Raises NoSpace where the disk is full, RunicornFSError where the database turns out to be damaged.
        """
        with self._scanning, self._database.translated():
            with self._writing:
                update = self._scan = Update(self._database, self._writing, self._published)
            try:
                yield update
            finally:
                with self._writing:
                    self._scan = None
                    update.end()

    def amend(self, artifact: str, observed: Iterable[Observed], gone: Iterable[str]) -> Changes:
        """For an edit: this is what has changed in an artifact's folder since it was as `known_in` says. It is shown
        when this returns, also while a scan is under way, and what that has seen there does not count.

        Raises as `update` does.
        """
        with self._writing, self._database.translated():
            if self._scan is not None:
                self._scan.leave_out(artifact)
            return Update(self._database, self._writing, self._published, EDITED).amend(artifact, observed, gone)

    def known_in(self, artifact: str) -> list[tuple[bytes, bytes]]:
        """Path and token of everything that is shown to be in an artifact's folder."""
        statement = "SELECT path, token FROM sources WHERE path > ? AND path < ? ORDER BY path"
        return self._database.rows(statement, *below(artifact))

    def lookup(self, path: str) -> Node | None:
        """The node at a path relative to the store's root, "" for the root; one probe of one tree, or two where a
        manifest lists it."""
        try:
            inode = inode_of(path)
            name = name_bytes(path)
        except UnicodeEncodeError:
            return None
        listed = manifests.split(path)
        if listed is not None and listed[1]:
            files, below = listed
            parents = inode_of(files), inode_of(parent_of(files)), inode_of(parent_of(below))
            row = self._database.row(manifests.LOOKUP, *parents, name)
            return None if row is None else Node(path, inode, Kind(row[0]), *row[1:])
        row = self._database.row(
            "SELECT kind, size, mtime_ns, document, target, parent, name FROM nodes WHERE inode = ?", inode
        )
        if row is None or row[6] != name or (path and row[5] != inode_of(parent_of(path))):
            return None
        return _node(path, inode, *row[:5])

    def children(self, path: str) -> list[tuple[str, Node]]:
        """Name and node of everything in a folder, sorted by the names' bytes; [] for what is no folder."""
        try:
            number = inode_of(path)
        except UnicodeEncodeError:
            return []
        before = f"{path}/" if path else ""
        listed = manifests.split(path)
        found = []
        if listed is not None:
            files, below = listed
            folders = inode_of(files), inode_of(parent_of(files)), inode_of(below)
            for raw, kind, *facts in self._database.rows(manifests.CHILDREN, *folders):
                name = os.fsdecode(raw)
                found.append((name, Node(before + name, inode_of(before + name), Kind(kind), *facts)))
            return found
        rows = self._database.rows(
            "SELECT name, inode, kind, size, mtime_ns, document, target FROM nodes WHERE parent = ? ORDER BY name",
            number,
        )
        for raw, inode, *facts in rows:
            name = os.fsdecode(raw)
            found.append((name, _node(before + name, inode, *facts)))
        return found

    def listing(self, path: str) -> list[Row]:
        """What is in a folder, sorted by the names' bytes, as the mount shows it to readers of whole folders."""
        listed = manifests.split(path)
        if listed is None:
            statement = "SELECT name, inode, kind, size, mtime_ns, NULL FROM nodes WHERE parent = ? ORDER BY name"
            return self._database.rows(statement, inode_of(path))
        files, below = listed
        rows = self._database.rows(manifests.CHILDREN, inode_of(files), inode_of(parent_of(files)), inode_of(below))
        return [(row[0], inode_of(f"{path}/{os.fsdecode(row[0])}"), *row[1:]) for row in rows]

    def document(self, id: int) -> bytes:
        """The content of a document. Raises NotFound: a sync replaced it, and its path has another id now."""
        row = self._database.row("SELECT content FROM documents WHERE id = ?", id)
        if row is None:
            raise NotFound(f"document {id} has been replaced")
        content: bytes = row[0]
        return content

    def documents(self) -> Iterator[tuple[str, int]]:
        """Path and id of every document of the store, streamed; all of one snapshot."""
        with self._database.reader() as connection:
            for path, id in connection.execute(
                "SELECT path, document FROM sources WHERE document IS NOT NULL ORDER BY path"
            ):
                yield os.fsdecode(path), id

    def paths_of(self, digest: bytes) -> list[str]:
        """Where a content stands in the store. Looks at every file: for what is rare, like a content that was bad."""
        known: dict[int, str] = {}
        found = []
        with self._database.snapshot() as connection:
            rows = connection.execute(
                "SELECT n.inode, e.manifest, e.folder, e.name FROM entries e JOIN nodes n"
                " ON n.document = e.manifest AND n.kind = 0 AND n.document IS NOT NULL WHERE e.digest = ?",
                (digest,),
            )
            for inode, manifest, folder, name in rows.fetchall():
                files = path_of(connection, inode, known)
                if files is not None:
                    above = manifests.folders_of(connection, manifest).get(folder, "")
                    found.append(manifests.below(files, manifests.below(above, os.fsdecode(name))))
        return found

    def units_with(self, digests: list[bytes]) -> dict[bytes, list[str]]:
        """The versions' folders (`artifacts/model/net/v3`) in which these contents stand, by artifact and number; at
        most a thousand contents. Looks at every file, once for all of them: 0.1 s for 200,000."""
        known: dict[int, str] = {}
        found: dict[bytes, list[str]] = {}
        marks = ",".join("?" * len(digests))
        with self._database.snapshot() as connection:
            rows = connection.execute(
                "SELECT DISTINCT e.digest, n.unit FROM entries e JOIN nodes n"
                f" ON n.document = e.manifest AND n.kind = 0 AND n.document IS NOT NULL WHERE e.digest IN ({marks})",
                digests,
            )
            for digest, unit in rows.fetchall():
                path = path_of(connection, unit, known)
                if path is not None:
                    found.setdefault(digest, []).append(path)
        return {digest: sorted(paths, key=_place_in_order) for digest, paths in found.items()}

    def paths(self) -> Iterator[str]:
        """The path of every node, all of one snapshot."""
        with self._database.snapshot() as connection:
            yield from all_paths(connection)

    def totals(self) -> Totals:
        return self._totals

    def totals_by_type(self) -> dict[str, TypeTotals]:
        """By type, of those that have a version to show."""
        with self._database.reader() as connection:
            return totals_by_type(connection)

    def last_sync(self) -> float | None:
        """When what is shown was last known to be what the server had, in seconds since 1970; None: never synced.

        Later syncs that found nothing new may not have been noted (`note_sync`).
        """
        with self._database.reader() as connection:
            return last_sync_of(connection)

    def note_sync(self, moment: float) -> None:
        """A sync found nothing new. Raises as `update` does."""
        with self._writing, self._database.translated():
            write_last_sync(self._database.writer, moment)

    def problems(self) -> list[str]:
        """What of this snapshot cannot be used, and why: at most PROBLEMS_LIMIT lines."""
        rows = self._database.rows("SELECT text FROM problems ORDER BY rowid LIMIT ?", PROBLEMS_LIMIT)
        return [text for (text,) in rows]

    def _published(self, changes: Changes, totals: Totals) -> None:
        """There is a new snapshot. Under `_writing`, so that listeners hear of them in their order."""
        self._totals = totals
        self._told = changes.generation
        for listener in self._listeners:
            listener(changes)


def _node(path: str, inode: int, kind: int, size: int, mtime_ns: int, document: int | None, target: str | None) -> Node:
    """Of a row of `nodes`. The document of a folder is its manifest: nothing that could be read as the folder's."""
    if kind == Kind.DIRECTORY:
        document = None
    return Node(path, inode, Kind(kind), size, mtime_ns, None, document, target)


def _place_in_order(unit: str) -> tuple[str, int]:
    place = place_of(unit)
    return place.artifact or "", place.version or 0

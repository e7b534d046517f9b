"""What is known of one store, for many readers at a time.

Guarantees: every answer is of one snapshot, the one before a sync or the one after it; nothing here asks the server or
loads the whole store into memory. All methods of `Catalog` are thread-safe.

Locks: `_writing` is held by whoever updates, from `update` to the end of its block; it protects the writing connection.
`_totals` and `_generation` are replaced under it and read without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runicornfs.catalog.ancestry import path_of
from runicornfs.catalog.database import Database
from runicornfs.catalog.nodes import Kind, Node, inode_of
from runicornfs.catalog.totals import Totals, read_totals
from runicornfs.catalog.tree import name_bytes
from runicornfs.catalog.update import Update
from runicornfs.errors import AmbiguousName, NotFound
from runicornfs.store.fields import parse_object
from runicornfs.store.layout import place_of
from runicornfs.store.paths import parent_of, shown

# Lines that `problems` returns: a person reads the first ones.
PROBLEMS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """One artifact. `id` is the inode number of its folder, `path` its folder in the store."""

    id: int
    type: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class ArtifactSummary:
    """An artifact in a list: its shown versions, the size in bytes of the latest, times in seconds since 1970."""

    name: str
    type: str
    num_versions: int
    latest_version: int
    size_bytes: int
    created_at: float
    updated_at: float
    aliases: dict[str, int]


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """A version in a list; the status of one that is in the recycle bin is `deleted`."""

    version: int
    created_at: float
    created_by_run: str | None
    size_bytes: int
    num_files: int
    status: str
    aliases: list[str]


@dataclass(frozen=True, slots=True)
class ArtifactPlace:
    """Where a path lies among the artifacts; `aliases` are those of the version, none without one."""

    type: str
    name: str
    version: int | None
    aliases: list[str]


class Catalog:
    """The readers' side, and the door to the writer's: `update`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writing = threading.Lock()
        self._totals = read_totals(database.writer)
        self._generation = 0

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Catalog:
        """Opens index.db at `path`, or makes it (0600); the folder is there. One that cannot be used is made anew."""
        return cls(Database(Path(path)))

    def close(self) -> None:
        """Waits for an update that is under way."""
        with self._writing:
            self._database.close()

    @property
    def generation(self) -> int:
        """Grows with every snapshot, since this catalog was opened: before anybody can see the new one, not after."""
        return self._generation

    @contextmanager
    def update(self) -> Iterator[Update]:
        """One updater at a time: waits for another to end. What was staged stays staged, also where the block raises.

        Raises NoSpace where the disk is full, RunicornFSError where the database turns out to be damaged.
        """
        with self._writing, self._database.translated():
            update = Update(self._database, self._publish)
            try:
                yield update
            finally:
                update.end()

    def lookup(self, path: str) -> Node | None:
        """The node at a path relative to the store's root, "" for the root; one probe of one tree."""
        try:
            inode = inode_of(path)
            name = name_bytes(path)
        except UnicodeEncodeError:
            return None
        row = self._row(
            "SELECT kind, size, mtime_ns, digest, document, target, parent, name FROM nodes WHERE inode = ?", inode
        )
        if row is None or row[7] != name or (path and row[6] != inode_of(parent_of(path))):
            return None
        return Node(path, inode, Kind(row[0]), *row[1:6])

    def children(self, path: str) -> list[tuple[str, Node]]:
        """Name and node of everything in a folder, sorted by the names' bytes; [] for what is no folder."""
        try:
            parent = inode_of(path)
        except UnicodeEncodeError:
            return []
        before = f"{path}/" if path else ""
        rows = self._rows(
            "SELECT name, inode, kind, size, mtime_ns, digest, document, target FROM nodes"
            " WHERE parent = ? ORDER BY name",
            parent,
        )
        found = []
        for raw, inode, kind, *attributes in rows:
            name = os.fsdecode(raw)
            found.append((name, Node(before + name, inode, Kind(kind), *attributes)))
        return found

    def document(self, id: int) -> bytes:
        """The content of a document. Raises NotFound: a sync replaced it, and its path has another id now."""
        row = self._row("SELECT content FROM documents WHERE id = ?", id)
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
        """Where a content stands in the store. Looks at every node: for what is rare, like a content that was bad."""
        known: dict[int, str] = {}
        with self._database.snapshot() as connection:
            rows = connection.execute("SELECT inode FROM nodes WHERE digest = ?", (digest,)).fetchall()
            found = [path_of(connection, inode, known) for (inode,) in rows]
        return [path for path in found if path is not None]

    def totals(self) -> Totals:
        return self._totals

    def meta(self, key: str) -> str | None:
        """`last_sync`: seconds since 1970, as text."""
        row = self._row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    def problems(self) -> list[str]:
        """What of this snapshot cannot be used, and why: at most PROBLEMS_LIMIT lines."""
        return [text for (text,) in self._rows("SELECT text FROM problems ORDER BY rowid LIMIT ?", PROBLEMS_LIMIT)]

    def artifacts(self, type: str | None = None) -> list[ArtifactSummary]:
        """Every artifact that has a version to show, newest update first."""
        aliases: dict[int, dict[str, int]] = {}
        with self._database.snapshot() as connection:
            for artifact, alias, version in connection.execute(
                "SELECT artifact, alias, version FROM aliases JOIN versions USING (artifact, version) WHERE shown"
            ):
                aliases.setdefault(artifact, {})[os.fsdecode(alias)] = version
            # SQLite takes the bare column size_bytes from the row that has the maximum.
            rows = connection.execute(
                "SELECT id, name, type, count(*), max(version), size_bytes, a.created_at, a.updated_at"
                " FROM artifacts a JOIN versions ON artifact = id WHERE shown"
                " GROUP BY id ORDER BY a.updated_at DESC, path"
            ).fetchall()
        found = [
            ArtifactSummary(
                name=os.fsdecode(name),
                type=os.fsdecode(kind),
                num_versions=count,
                latest_version=latest,
                size_bytes=size_bytes,
                created_at=created_at,
                updated_at=updated_at,
                aliases=aliases.get(id, {}),
            )
            for id, name, kind, count, latest, size_bytes, created_at, updated_at in rows
        ]
        return [summary for summary in found if type is None or summary.type == type]

    def find_artifact(self, name: str, type: str | None = None, version: int | None = None) -> ArtifactRef:
        """The artifact of that name: of that type, or of the one type that has it (that has that version of it).

        A version in the recycle bin counts where no type shows that version. Raises NotFound and AmbiguousName.
        """
        found = self._named(name, type, version)
        if not found:
            raise NotFound(f"there is no artifact {_label(name, type, version)}")
        if len(found) > 1:
            types = [ref.type for ref in found]
            label = _label(name, type, version)
            raise AmbiguousName(f"{label} is there as {', '.join(types)}: say which type", types)
        return found[0]

    def versions(self, ref: ArtifactRef, include_deleted: bool = False) -> list[VersionSummary]:
        """The versions that are shown, oldest first; with `include_deleted` also those that were deleted."""
        aliases = self._aliases(ref)
        rows = self._rows(
            "SELECT version, created_at, created_by_run, size_bytes, num_files, status FROM versions"
            " WHERE artifact = ? AND (shown OR (deleted AND ?)) ORDER BY version",
            ref.id,
            include_deleted,
        )
        return [
            VersionSummary(
                version=number,
                created_at=created_at,
                created_by_run=created_by_run,
                size_bytes=size_bytes,
                num_files=num_files,
                status=status,
                aliases=aliases.get(number, []),
            )
            for number, created_at, created_by_run, size_bytes, num_files, status in rows
        ]

    def metadata(self, ref: ArtifactRef, version: int) -> dict[str, Any]:
        """The fields of metadata.json as they are there, `aliases` the true ones. Raises NotFound."""
        record = parse_object(self._version_document("metadata_document", ref, version))
        record["aliases"] = self._aliases(ref).get(version, [])
        return record

    def manifest_document(self, ref: ArtifactRef, version: int) -> bytes:
        """manifest.json. Raises NotFound."""
        return self._version_document("manifest_document", ref, version)

    def place_in_artifact(self, path: str) -> ArtifactPlace | None:
        """To which artifact and version a path belongs; None outside of artifacts. Does not ask whether it is there."""
        place = place_of(path)
        if place.artifact is None:
            return None
        _, type, name = place.artifact.split("/")
        ref = ArtifactRef(inode_of(place.artifact), type, name, place.artifact)
        aliases = [] if place.version is None else self._aliases(ref).get(place.version, [])
        return ArtifactPlace(type, name, place.version, aliases)

    def _publish(self, commit: Callable[[], None], totals: Totals) -> None:
        """Called under `_writing` by the update that makes a new snapshot."""
        self._generation += 1
        try:
            commit()
        except BaseException:
            self._generation -= 1  # nobody has seen a new snapshot
            raise
        self._totals = totals

    def _named(self, name: str, type: str | None, version: int | None) -> list[ArtifactRef]:
        try:
            raw = os.fsencode(name)
        except UnicodeEncodeError:
            return []
        rows = self._rows(
            "SELECT id, type, path, coalesce(max(shown), 0) FROM artifacts LEFT JOIN versions ON artifact = id"
            " WHERE name = ?1 AND (?2 IS NULL OR (version = ?2 AND (shown OR deleted))) GROUP BY id ORDER BY type",
            raw,
            version,
        )
        found = [
            (ArtifactRef(id, os.fsdecode(kind), name, os.fsdecode(path)), is_shown) for id, kind, path, is_shown in rows
        ]
        if type is not None:
            found = [(ref, is_shown) for ref, is_shown in found if ref.type == type]
        best = max((is_shown for _, is_shown in found), default=0)
        return [ref for ref, is_shown in found if is_shown == best]

    def _aliases(self, ref: ArtifactRef) -> dict[int, list[str]]:
        """Version: its aliases, sorted."""
        aliases: dict[int, list[str]] = {}
        for alias, version in self._rows(
            "SELECT alias, version FROM aliases WHERE artifact = ? ORDER BY alias", ref.id
        ):
            aliases.setdefault(version, []).append(os.fsdecode(alias))
        return aliases

    def _version_document(self, column: str, ref: ArtifactRef, version: int) -> bytes:
        # One statement: between two, a sync could replace the document.
        row = self._row(
            f"SELECT content FROM versions JOIN documents ON id = {column}"  # one of two constants
            " WHERE artifact = ? AND version = ? AND shown",
            ref.id,
            version,
        )
        if row is None:
            raise NotFound(f"there is no artifact {_label(ref.name, ref.type, version)}")
        content: bytes = row[0]
        return content

    def _row(self, statement: str, *parameters: object) -> tuple[Any, ...] | None:
        with self._database.reader() as connection:
            row: tuple[Any, ...] | None = connection.execute(statement, parameters).fetchone()
            return row

    def _rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._database.reader() as connection:
            return connection.execute(statement, parameters).fetchall()


def _label(name: str, type: str | None, version: int | None) -> str:
    what = shown(name) if version is None else f"{shown(name)} v{version}"
    return what if type is None else f"{what} of type {shown(type)}"

"""Artifacts and their versions, as the last sync saw them.

Every method is a fixed number of statements, however many artifacts there are, and every answer is of one snapshot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from runicornfs.catalog.database import Database
from runicornfs.catalog.nodes import inode_of
from runicornfs.errors import AmbiguousName, NotFound
from runicornfs.store import layout
from runicornfs.store.fields import VERSION_LIMIT, check_depth, parse_object, with_unicode_names
from runicornfs.store.paths import shown
from runicornfs.store.records import DEPTH_LIMIT


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


class Artifacts:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, type: str | None = None) -> list[ArtifactSummary]:
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

    def find(self, name: str, type: str | None = None, version: int | None = None) -> ArtifactRef:
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
        rows = self._database.rows(
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
        """The fields of metadata.json as they are there, `aliases` the true ones. Raises NotFound, and MalformedRecord
        where they are nested too deep to be handed on."""
        record = parse_object(self._version_document("metadata_document", ref, version))
        check_depth(record, DEPTH_LIMIT)
        said: dict[str, Any] = with_unicode_names(record)
        said["aliases"] = self._aliases(ref).get(version, [])
        return said

    def manifest_document(self, ref: ArtifactRef, version: int) -> bytes:
        """manifest.json. Raises NotFound."""
        return self._version_document("manifest_document", ref, version)

    def place_of(self, path: str) -> ArtifactPlace | None:
        """To which artifact and version a path belongs; None outside of artifacts. Does not ask whether it is there."""
        place = layout.place_of(path)
        if place.artifact is None:
            return None
        _, type, name = place.artifact.split("/")
        ref = ArtifactRef(inode_of(place.artifact), type, name, place.artifact)
        aliases = [] if place.version is None else self._aliases(ref).get(place.version, [])
        return ArtifactPlace(type, name, place.version, aliases)

    def _named(self, name: str, type: str | None, version: int | None) -> list[ArtifactRef]:
        if version is not None and version > VERSION_LIMIT:
            return []
        try:
            raw = os.fsencode(name)
        except UnicodeEncodeError:
            return []
        rows = self._database.rows(
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
        for alias, version in self._database.rows(
            "SELECT alias, version FROM aliases WHERE artifact = ? ORDER BY alias", ref.id
        ):
            aliases.setdefault(version, []).append(os.fsdecode(alias))
        return aliases

    def _version_document(self, column: str, ref: ArtifactRef, version: int) -> bytes:
        # One statement: between two, a sync could replace the document.
        row = self._database.row(
            f"SELECT content FROM versions JOIN documents ON id = {column}"  # one of two constants
            " WHERE artifact = ? AND version = ? AND shown",
            ref.id,
            version,
        )
        if row is None:
            raise NotFound(f"there is no artifact {_label(ref.name, ref.type, version)}")
        content: bytes = row[0]
        return content


def _label(name: str, type: str | None, version: int | None) -> str:
    what = shown(name) if version is None else f"{shown(name)} v{version}"
    return what if type is None else f"{what} of type {shown(type)}"

"""Rebuilds what a change touches: from the sources of one artifact or one run to its nodes, versions and aliases.

Which versions are shown is decided here: those that the index names with a status that does not say otherwise, whose
metadata.json and manifest.json are there and readable, and that carry no `.deleted`. A malformed document costs itself
and a problem that names it. Works inside the transaction of an update.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from runicornfs.catalog.manifests import inventory_of
from runicornfs.catalog.nodes import inode_of
from runicornfs.catalog.runwriter import RunWriter
from runicornfs.catalog.tree import Source, artifact_nodes, folder_nodes, version_nodes
from runicornfs.catalog.writer import NodeWriter
from runicornfs.errors import MalformedRecord
from runicornfs.store.layout import (
    INDEX_NAME,
    MANIFEST_NAME,
    METADATA_NAME,
    SWEEPS,
    Role,
    place_of,
)
from runicornfs.store.observed import ObservedKind
from runicornfs.store.paths import printable
from runicornfs.store.records import (
    IndexEntry,
    VersionIndex,
    VersionMetadata,
    parse_version_index,
    parse_version_metadata,
    visible_aliases,
)

# A version in one of these states is not finished, or is no more. Any other word, and none, means that it can be used.
UNUSABLE_STATES = frozenset(("pending", "uploading", "failed", "deleted"))

Number = TypeVar("Number", int, float)


class _VersionSources:
    """What the server has in one version's folder."""

    def __init__(self) -> None:
        self.metadata: Source | None = None
        self.manifest: Source | None = None
        self.is_deleted = False


@dataclass(frozen=True, slots=True)
class _Version:
    """A version as it will stand in the table. `entry` has no None left where the table takes none."""

    entry: IndexEntry
    is_deleted: bool
    is_shown: bool
    metadata: Source | None
    manifest: Source | None


class Rebuild:
    """`problems` are the lines of all units that were rebuilt."""

    def __init__(self, connection: sqlite3.Connection, writer: NodeWriter) -> None:
        self._connection = connection
        self._writer = writer
        self.problems: list[str] = []

    def artifact(self, folder: str, changed: Collection[int]) -> None:
        """Rebuilds an artifact's own folder, and of its versions those that `changed` names or that come and go."""
        index_source, files, versions = self._sources_of_artifact(folder)
        problems: list[str] = []
        index, is_true_index = self._index(folder, index_source, versions, problems)
        artifact = inode_of(folder)
        before = {
            version: bool(is_shown)
            for version, is_shown in self._connection.execute(
                "SELECT version, shown FROM versions WHERE artifact = ?", (artifact,)
            )
        }
        built = [self._version(folder, entry, versions.get(entry.version), before, changed) for entry in index.versions]
        for version in before.keys() - {entry.version for entry in index.versions}:
            self._replace_unit(f"{folder}/v{version}", [])
        usable = {
            version.entry.version: max(version.metadata.mtime_ns, version.manifest.mtime_ns)
            for version in built
            if version.is_shown and version.metadata and version.manifest
        }
        if not is_true_index and usable:
            index.aliases["latest"] = max(usable)
        links, refused = visible_aliases(index, usable)
        problems += refused
        is_there = index_source is not None or bool(usable)
        nodes, clashes = artifact_nodes(folder, files if is_there else (), links, usable)
        problems += clashes
        self._writer.replace(folder, nodes)
        self._record(folder, index, index_source, built)
        self._replace_problems(folder, [f"{folder}: {problem}" for problem in problems])

    def folder(self, unit: str) -> None:
        """Rebuilds a run, or `sweeps`: shown as it was seen, unless it lies in the recycle bin."""
        sources = list(self._sources(unit))
        problems: list[str] = []
        if unit != SWEEPS:
            run = RunWriter(unit, sources, self._content)
            run.write(self._connection)
            if run.is_deleted:
                self._replace_unit(unit, [])
                return
            problems = run.problems
        self._writer.replace(unit, folder_nodes(unit, sources) if sources else ())
        self._replace_problems(unit, problems)

    def _sources_of_artifact(self, folder: str) -> tuple[Source | None, list[Source], dict[int, _VersionSources]]:
        """The index, all files beside it (with it), and what there is of each version."""
        index = None
        files = []
        versions: dict[int, _VersionSources] = {}
        for source in self._sources(folder):
            place = place_of(source.path)
            if place.version is not None:
                version = versions.setdefault(place.version, _VersionSources())
                if place.role is Role.VERSION_METADATA:
                    version.metadata = source
                elif place.role is Role.VERSION_MANIFEST:
                    version.manifest = source
                elif place.role is Role.VERSION_DELETED:
                    version.is_deleted = True
            elif source.path.count("/") == folder.count("/") + 1:
                files.append(source)
                if place.role is Role.ARTIFACT_INDEX:
                    index = source
        return index, files, versions

    def _index(
        self, folder: str, source: Source | None, versions: dict[int, _VersionSources], problems: list[str]
    ) -> tuple[VersionIndex, bool]:
        """The index, and whether it is the store's own or was made from the versions."""
        why = f"there is no {INDEX_NAME} that can be read"
        if source is not None:
            try:
                index = parse_version_index(self._content(source))
            except MalformedRecord as error:
                why = f"{INDEX_NAME} cannot be used ({error})"
            else:
                problems += [f"{INDEX_NAME}: {problem}" for problem in index.problems]
                return index, True
        entries = []
        for version, sources in sorted(versions.items()):
            if sources.metadata is not None:
                status = self._metadata(sources.metadata).status
                entries.append(IndexEntry(version, None, None, None, None, status))
        if entries or source is not None:
            problems.append(f"{why}: its versions are those that have a {METADATA_NAME}, `latest` is the newest")
        return VersionIndex(None, None, entries, {}, None, None, []), False

    def _version(
        self,
        folder: str,
        entry: IndexEntry,
        sources: _VersionSources | None,
        before: dict[int, bool],
        changed: Collection[int],
    ) -> _Version:
        """Decides whether a version is shown, and brings its nodes up to date."""
        unit = f"{folder}/v{entry.version}"
        metadata = sources.metadata if sources else None
        manifest = sources.manifest if sources else None
        is_deleted = entry.status == "deleted" or (sources is not None and sources.is_deleted)
        was_shown = before.get(entry.version, False)
        if is_deleted or entry.status in UNUSABLE_STATES:
            self._replace_unit(unit, [])
            is_shown = False
        elif was_shown and entry.version not in changed:
            is_shown = True
        else:
            is_shown = self._build_version(unit, metadata, manifest)
        return _Version(self._completed(entry, metadata), is_deleted, is_shown, metadata, manifest)

    def _build_version(self, unit: str, metadata: Source | None, manifest: Source | None) -> bool:
        if metadata is None or manifest is None:
            missing = METADATA_NAME if metadata is None else MANIFEST_NAME
            self._replace_unit(unit, [f"{unit}: it is left out, since there is no {missing} that can be read"])
            return False
        reading = metadata
        try:
            parse_version_metadata(self._content(metadata))
            reading = manifest
            inventory = inventory_of(self._connection, manifest.document)
            if inventory is None:
                raise MalformedRecord("it cannot be read")
            if inventory.refused is not None:
                raise MalformedRecord(inventory.refused)
        except MalformedRecord as error:
            self._replace_unit(unit, [f"{unit}: it is left out, since {reading.path} cannot be used: {error}"])
            return False
        self._writer.replace(unit, version_nodes(unit, metadata, manifest, inventory.newest_ns))
        self._replace_problems(unit, [f"{manifest.path}: {problem}" for problem in inventory.problems])
        return True

    def _completed(self, entry: IndexEntry, source: Source | None) -> IndexEntry:
        """The entry with what the index does not say taken from the version's own metadata.json."""
        if None not in (entry.created_at, entry.size_bytes, entry.num_files):
            return entry
        metadata = self._metadata(source)
        seen_at = source.mtime_ns / 1e9 if source else 0.0
        return IndexEntry(
            version=entry.version,
            created_at=_first(entry.created_at, metadata.created_at, seen_at),
            created_by_run=entry.created_by_run or metadata.created_by_run,
            size_bytes=_first(entry.size_bytes, metadata.size_bytes, 0),
            num_files=_first(entry.num_files, metadata.num_files, 0),
            status=entry.status,
        )

    def _metadata(self, source: Source | None) -> VersionMetadata:
        """Says nothing where it cannot be read: that is reported where the version is built."""
        if source is not None:
            with suppress(MalformedRecord):
                return parse_version_metadata(self._content(source))
        return parse_version_metadata(b"{}")

    def _record(self, folder: str, index: VersionIndex, source: Source | None, versions: list[_Version]) -> None:
        """Writes the tables that lists are made from."""
        artifact = inode_of(folder)
        self._connection.execute("DELETE FROM versions WHERE artifact = ?", (artifact,))
        self._connection.execute("DELETE FROM aliases WHERE artifact = ?", (artifact,))
        self._connection.execute("DELETE FROM artifacts WHERE id = ?", (artifact,))
        if source is None and not versions:
            return
        _, kind, name = folder.split("/")
        times = [version.entry.created_at for version in versions if version.entry.created_at is not None]
        seen_at = source.mtime_ns / 1e9 if source else 0.0
        created_at = _first(index.created_at, min(times, default=None), seen_at)
        updated_at = _first(index.updated_at, max(times, default=None), seen_at)
        self._connection.execute(
            "INSERT INTO artifacts (id, type, name, created_at, updated_at, path) VALUES (?, ?, ?, ?, ?, ?)",
            (artifact, os.fsencode(kind), os.fsencode(name), created_at, updated_at, os.fsencode(folder)),
        )
        self._connection.executemany(
            "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    artifact,
                    version.entry.version,
                    version.entry.created_at,
                    version.entry.created_by_run,
                    version.entry.size_bytes,
                    version.entry.num_files,
                    "deleted" if version.is_deleted else version.entry.status or "ready",
                    version.is_deleted,
                    version.is_shown,
                    version.metadata and version.metadata.document,
                    version.manifest and version.manifest.document,
                )
                for version in versions
            ),
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO aliases (artifact, alias, version) VALUES (?, ?, ?)",
            ((artifact, raw, version) for raw, version in _encoded_aliases(index)),
        )

    def _sources(self, unit: str) -> Iterator[Source]:
        """A unit's folder and everything below it, ordered by path."""
        raw = os.fsencode(unit)
        rows = self._connection.execute(
            "SELECT path, kind, size, mtime_ns, document FROM sources"
            " WHERE path = ?1 OR (path > ?2 AND path < ?3) ORDER BY path",
            (raw, raw + b"/", raw + b"0"),  # "0" follows "/": between the two lie the paths below
        )
        for path, kind, size, mtime_ns, document in rows:
            yield Source(os.fsdecode(path), ObservedKind(kind), size, mtime_ns, document)

    def _content(self, source: Source) -> bytes:
        row = self._connection.execute("SELECT content FROM documents WHERE id = ?", (source.document,)).fetchone()
        if row is None:
            raise MalformedRecord("it cannot be read")
        content: bytes = row[0]
        return content

    def _replace_unit(self, unit: str, problems: list[str]) -> None:
        """The unit is not shown."""
        self._writer.replace(unit, ())
        self._replace_problems(unit, problems)

    def _replace_problems(self, unit: str, problems: list[str]) -> None:
        self.problems += replace_problems(self._connection, inode_of(unit), problems)


def replace_problems(connection: sqlite3.Connection, unit: int, problems: list[str]) -> list[str]:
    """The unit has these problems and no others from now on; returns them as they can be printed."""
    lines = [printable(problem) for problem in problems]
    connection.execute("DELETE FROM problems WHERE unit = ?", (unit,))
    if lines:
        connection.executemany("INSERT INTO problems (unit, text) VALUES (?, ?)", ((unit, line) for line in lines))
    return lines


def _encoded_aliases(index: VersionIndex) -> Iterator[tuple[bytes, int]]:
    for alias, version in index.aliases.items():
        with suppress(UnicodeEncodeError):  # no name that anybody could use; `visible_aliases` has reported it
            yield os.fsencode(alias), version


def _first(said: Number | None, otherwise: Number | None, default: Number) -> Number:
    if said is not None:
        return said
    return default if otherwise is None else otherwise

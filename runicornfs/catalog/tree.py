"""From what is known of one unit of the store to the nodes that the mount shows for it. Pure.

Every folder is as new as its newest child; an empty one is as new as what it was made from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from runicornfs.catalog.nodes import Kind, Node, inode_of
from runicornfs.store.layout import FILES_NAME
from runicornfs.store.observed import ObservedKind
from runicornfs.store.paths import parent_of


@dataclass(frozen=True, slots=True)
class Source:
    """A row of `sources`: a file or folder of the server. `document` is the id of its content."""

    path: str
    kind: ObservedKind
    size: int
    mtime_ns: int
    document: int | None


def version_nodes(folder: str, metadata: Source, manifest: Source, newest_ns: int | None) -> Iterator[Node]:
    """The nodes of a version's folder. What its manifest lists, the newest of it of `newest_ns`, is shown by naming
    the manifest as the document of the folder `files`."""
    files_folder = f"{folder}/{FILES_NAME}"
    files_ns = manifest.mtime_ns if newest_ns is None else newest_ns
    newest = max(metadata.mtime_ns, manifest.mtime_ns, files_ns)
    yield Node(folder, inode_of(folder), Kind.DIRECTORY, 0, newest)
    yield file_node(metadata)
    yield file_node(manifest)
    yield Node(files_folder, inode_of(files_folder), Kind.DIRECTORY, 0, files_ns, document=manifest.document)


def artifact_nodes(
    folder: str, files: Iterable[Source], aliases: Mapping[str, int], mtimes_ns: Mapping[int, int]
) -> tuple[list[Node], list[str]]:
    """The index and other files of an artifact's own folder, and its aliases as links; with a line for each problem.

    `mtimes_ns` tells when each version was last changed: a link is as new as what it points to. The folder itself is
    not among the nodes: it holds the versions, too.
    """
    nodes = {file.path: file_node(file) for file in files if file.kind is not ObservedKind.DIRECTORY}
    problems = []
    for alias, version in aliases.items():
        path = f"{folder}/{alias}"
        target = f"v{version}"
        if path in nodes:
            problems.append(f"alias {alias!r} of {target} is left out: there is a file of that name")
        else:
            nodes[path] = Node(path, inode_of(path), Kind.SYMLINK, len(target), mtimes_ns[version], target=target)
    return list(nodes.values()), problems


def folder_nodes(folder: str, sources: Iterable[Source]) -> Iterator[Node]:
    """The nodes of a folder that is shown as it was seen: a run's, or `sweeps`."""
    folders = Folders(folder)
    files = []
    for source in sources:
        if source.kind is ObservedKind.DIRECTORY:
            folders.make(source.path, source.mtime_ns)
        else:
            files.append(source)
            folders.note(source.path, source.mtime_ns)
    for file in files:
        if file.path not in folders:  # a scan that met a change may have seen both a file and a folder
            yield file_node(file)
    yield from folders.nodes()


def file_node(source: Source) -> Node:
    """A document whose content could not be read is shown as a file: reading it asks the server, which says why."""
    kind = Kind.PLAIN if source.document is None else Kind.DOCUMENT
    return Node(source.path, inode_of(source.path), kind, source.size, source.mtime_ns, document=source.document)


# Older than any time of a file: a folder in which nothing was seen yet.
_NEVER = -(2**63)


class Folders:
    """The folders of one unit, or of one manifest, and the newest time of what is in each."""

    def __init__(self, top: str) -> None:
        self._top = top
        self._newest: dict[str, int] = {}  # folder: mtime_ns of its newest file
        self._own: dict[str, int] = {}  # folders that may be empty: their own mtime_ns, 0 where it is not known

    def __contains__(self, path: str) -> bool:
        return path in self._newest

    def make(self, folder: str, mtime_ns: int) -> None:
        """There is this folder, even where nothing is in it."""
        self._own[folder] = mtime_ns
        self.note_in(folder, _NEVER)

    def note(self, path: str, mtime_ns: int) -> None:
        """There is a file, so all the folders above it are there, too."""
        self.note_in(parent_of(path), mtime_ns)

    def note_in(self, folder: str, mtime_ns: int) -> None:
        """There is a file of that time in this folder."""
        known = self._newest.get(folder)
        self._newest[folder] = mtime_ns if known is None else max(known, mtime_ns)
        while known is None and folder != self._top:
            folder = parent_of(folder)
            known = self._newest.get(folder)
            self._newest.setdefault(folder, _NEVER)

    def dated(self) -> Iterator[tuple[str, int]]:
        """Every folder and its time."""
        newest = self._newest
        newest_of_all = max((time for time in newest.values() if time != _NEVER), default=0)
        for folder in sorted(newest, key=lambda path: path.count("/"), reverse=True):
            mtime_ns = newest[folder]
            if mtime_ns == _NEVER:
                mtime_ns = self._own.get(folder) or newest_of_all
            if folder != self._top:
                parent = parent_of(folder)
                newest[parent] = max(newest[parent], mtime_ns)
            yield folder, mtime_ns

    def nodes(self) -> Iterator[Node]:
        for folder, mtime_ns in self.dated():
            yield Node(folder, inode_of(folder), Kind.DIRECTORY, 0, mtime_ns)


def name_bytes(path: str) -> bytes:
    """The last component of a path, as the database has it."""
    return os.fsencode(path.rpartition("/")[2])

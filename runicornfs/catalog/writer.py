"""Writes nodes: compares what a unit should be with what is there, and touches only what differs.

Tells afterwards which paths changed and by how much the totals did. Belongs to one transaction of the writer.
Memory: the nodes of one unit at a time, and the changed paths, but for those that came with a whole manifest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from runicornfs.catalog.ancestry import path_of
from runicornfs.catalog.manifests import differing, inventory_of, paths_in
from runicornfs.catalog.nodes import ROOT_INODE, Kind, Node, inode_of
from runicornfs.catalog.tree import name_bytes
from runicornfs.store.layout import ARTIFACTS, DEDUP
from runicornfs.store.paths import parent_of

FILE_KINDS = (Kind.DOCUMENT, Kind.PLAIN)
# The folders above the units belong together: to the root.
ANCESTORS_UNIT = ROOT_INODE

_UPSERT = """
INSERT INTO nodes (inode, parent, name, kind, size, mtime_ns, document, target, unit)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (inode) DO UPDATE SET
    kind = excluded.kind, size = excluded.size, mtime_ns = excluded.mtime_ns,
    document = excluded.document, target = excluded.target
WHERE parent = excluded.parent AND name = excluded.name  -- not another path, whose number collides
"""
_UNIT = "SELECT inode, kind, size, mtime_ns, document, target FROM nodes WHERE unit = ?"


class NodeWriter:
    """`changed` is what the mount has to forget, and so is everything in the folders of `came` (path and manifest);
    `files` and `bytes` are what the totals grew by."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changed: dict[str, None] = {}  # a set that keeps its order
        self.came: list[tuple[str, int]] = []
        self.files = 0
        self.bytes = 0

    def replace(self, unit: str, nodes: Iterable[Node]) -> None:
        """The unit has these nodes and no others from now on."""
        number = inode_of(unit)
        wanted = {node.inode: node for node in nodes}
        before: dict[int, _Attributes] = {}
        gone = []
        for inode, *attributes in self._connection.execute(_UNIT, (number,)).fetchall():
            node = wanted.get(inode)
            before[inode] = _Attributes(*attributes)
            if node is None:
                gone.append(inode)
            elif _attributes(node) == before[inode]:
                del wanted[inode]
        if gone:
            self._remove({inode: before[inode] for inode in gone})
        # In the order of the primary key: rows that follow each other in the tree's pages.
        for inode in sorted(wanted):
            self._changes(wanted[inode].path, before.get(inode), _attributes(wanted[inode]))
        self._connection.executemany(_UPSERT, (_row(wanted[inode], number) for inode in sorted(wanted)))

    def refresh_ancestors(self, folders: Iterable[str], artifacts_seen: bool) -> None:
        """Makes, dates or removes the folders above units: there where something is in them, as new as the newest.

        `artifacts_seen`: the folder of artifacts is there even if nothing is in it.
        """
        for folder in sorted(set(folders), key=lambda path: (path.count("/"), path), reverse=True):
            if folder:
                self._refresh(folder, keep=artifacts_seen and folder == ARTIFACTS)
            if folder == ARTIFACTS:
                self._refresh_dedup()
        self._refresh("", keep=True)

    def _refresh(self, folder: str, keep: bool) -> None:
        # The pool's empty stand-in is no reason for `artifacts` to be there.
        ignored = DEDUP.encode() if folder == ARTIFACTS else b""
        newest: int | None
        (newest,) = self._connection.execute(
            "SELECT max(mtime_ns) FROM nodes WHERE parent = ? AND name <> ?", (inode_of(folder), ignored)
        ).fetchone()
        self._replace_one(folder, newest if newest is not None or not keep else 0)

    def _refresh_dedup(self) -> None:
        there = self._connection.execute("SELECT 1 FROM nodes WHERE inode = ?", (inode_of(ARTIFACTS),)).fetchone()
        self._replace_one(f"{ARTIFACTS}/{DEDUP}", 0 if there else None)

    def _replace_one(self, folder: str, mtime_ns: int | None) -> None:
        """One folder above units, None: it is not there."""
        inode = inode_of(folder)
        found = self._connection.execute("SELECT mtime_ns FROM nodes WHERE inode = ?", (inode,)).fetchone()
        if mtime_ns is None:
            if found is not None:
                self._connection.execute("DELETE FROM nodes WHERE inode = ?", (inode,))
                self._note(folder, listing=True)
        elif found is None or found[0] != mtime_ns:
            node = Node(folder, inode, Kind.DIRECTORY, 0, mtime_ns)
            self._connection.execute(_UPSERT, _row(node, ANCESTORS_UNIT))
            self._note(folder, listing=found is None)

    def _remove(self, gone: dict[int, _Attributes]) -> None:
        """Paths are read off the tree before any of it goes."""
        paths: dict[int, str] = {}
        for inode, before in gone.items():
            self._changes(path_of(self._connection, inode, paths), before, None)
        self._connection.executemany("DELETE FROM nodes WHERE inode = ?", ((inode,) for inode in gone))

    def _changes(self, path: str | None, before: _Attributes | None, after: _Attributes | None) -> None:
        """A node changes, comes or goes; one whose path cannot be found (see `path_of`) counts only."""
        for attributes, sign in ((before, -1), (after, 1)):
            if attributes is not None:
                self._count(attributes, sign)
        if path is None:
            return
        if before is None or after is None or before.shown != after.shown:
            self._note(path, listing=before is None or after is None)
        old = before and before.manifest
        new = after and after.manifest
        if old is None and new is not None:
            self.came.append((path, new))
        elif old is not None and new is None:
            for name in paths_in(self._connection, old):
                self._note(f"{path}/{name}", listing=True)
        elif old is not None and new is not None and old != new:
            for name, alone in differing(self._connection, old, new):
                self._note(f"{path}/{name}", listing=alone)

    def _note(self, path: str, listing: bool) -> None:
        self.changed[path] = None
        if listing:
            self.changed[parent_of(path)] = None

    def _count(self, attributes: _Attributes, sign: int) -> None:
        if attributes.kind in FILE_KINDS:
            self.files += sign
            self.bytes += sign * attributes.size
        inventory = attributes.manifest and inventory_of(self._connection, attributes.manifest)
        if inventory:
            self.files += sign * inventory.files
            self.bytes += sign * inventory.bytes


class _Attributes(NamedTuple):
    """A row of `nodes` without what its path says."""

    kind: int
    size: int
    mtime_ns: int
    document: int | None
    target: str | None

    @property
    def manifest(self) -> int | None:
        return self.document if self.kind == Kind.DIRECTORY else None

    @property
    def shown(self) -> tuple[object, ...]:
        """What a reader can see of it. Which document the folder `files` names shows in what is below it."""
        return self if self.manifest is None else (self.kind, self.size, self.mtime_ns)


def _attributes(node: Node) -> _Attributes:
    return _Attributes(node.kind, node.size, node.mtime_ns, node.document, node.target)


def _row(node: Node, unit: int) -> tuple[object, ...]:
    parent = inode_of(parent_of(node.path)) if node.path else 0
    return (node.inode, parent, name_bytes(node.path), *_attributes(node), unit)

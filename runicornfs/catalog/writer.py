"""Writes nodes: compares what a unit should be with what is there, and touches only what differs.

Tells afterwards which paths changed and by how much the totals did. Belongs to one transaction of the writer.
Memory: the nodes of one unit at a time, and the changed paths.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from runicornfs.catalog.ancestry import path_of
from runicornfs.catalog.nodes import ROOT_INODE, Kind, Node, inode_of
from runicornfs.catalog.tree import name_bytes
from runicornfs.store.layout import ARTIFACTS, DEDUP
from runicornfs.store.paths import parent_of

FILE_KINDS = (Kind.DOCUMENT, Kind.CONTENT, Kind.PLAIN)
# The folders above the units belong together: to the root.
ANCESTORS_UNIT = ROOT_INODE

_UPSERT = """
INSERT INTO nodes (inode, parent, name, kind, size, mtime_ns, digest, document, target, unit)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (inode) DO UPDATE SET
    kind = excluded.kind, size = excluded.size, mtime_ns = excluded.mtime_ns,
    digest = excluded.digest, document = excluded.document, target = excluded.target
WHERE parent = excluded.parent AND name = excluded.name  -- not another path, whose number collides
"""
_UNIT = "SELECT inode, kind, size, mtime_ns, digest, document, target FROM nodes WHERE unit = ?"


class NodeWriter:
    """`changed` is what the mount has to forget, `files` and `bytes` are what the totals grew by."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changed: dict[str, None] = {}  # a set that keeps its order
        self.files = 0
        self.bytes = 0

    def replace(self, unit: str, nodes: Iterable[Node]) -> None:
        """The unit has these nodes and no others from now on."""
        number = inode_of(unit)
        wanted = {node.inode: node for node in nodes}
        created = set(wanted)
        gone = []
        rows = self._connection.execute(_UNIT, (number,))
        for inode, *attributes in rows:
            node = wanted.get(inode)
            if node is None:
                gone.append((inode, attributes[0], attributes[1]))
                continue
            created.discard(inode)
            if _attributes(node) == tuple(attributes):
                del wanted[inode]
            else:
                self._count(attributes[0], attributes[1], -1)
        self._remove(gone)
        # In the order of the primary key: rows that follow each other in the tree's pages.
        for inode in sorted(wanted):
            node = wanted[inode]
            self._count(node.kind, node.size, 1)
            self._note(node.path, listing=inode in created)
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

    def _remove(self, gone: list[tuple[int, int, int]]) -> None:
        """`gone`: inode, kind and size of each. Paths are read off the tree before any of it goes."""
        paths: dict[int, str] = {}
        for inode, kind, size in gone:
            self._count(kind, size, -1)
            path = path_of(self._connection, inode, paths)
            if path is not None:
                self._note(path, listing=True)
        self._connection.executemany("DELETE FROM nodes WHERE inode = ?", ((inode,) for inode, _, _ in gone))

    def _note(self, path: str, listing: bool) -> None:
        self.changed[path] = None
        if listing:
            self.changed[parent_of(path)] = None

    def _count(self, kind: int, size: int, sign: int) -> None:
        if kind in FILE_KINDS:
            self.files += sign
            self.bytes += sign * size


def _attributes(node: Node) -> tuple[object, ...]:
    return (node.kind, node.size, node.mtime_ns, node.digest, node.document, node.target)


def _row(node: Node, unit: int) -> tuple[object, ...]:
    parent = inode_of(parent_of(node.path)) if node.path else 0
    return (node.inode, parent, name_bytes(node.path), *_attributes(node), unit)

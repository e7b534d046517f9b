"""What programs have open in the mount, and by which number the kernel knows each path.

The kernel keeps pages, size and open files per number, not per open file. A path's number is that of its inode, until
a program has the path open through the kernel's pages while it gets another identity (a version number that came back
with other bytes): the path gets another number then, and who opens it finds an inode of its own. So the old one keeps
its bytes and its pages, and nobody has to know of the other.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import Protocol

from runicornfs.catalog.nodes import Node
from runicornfs.content.contents import Interruption

# Inode numbers have 63 bits: those with the highest one set are free.
FIRST_NEW_NUMBER = 1 << 63


class Reader(Protocol):
    """An open file: a content of `runicornfs.content`, a file that may grow, or a document in memory."""

    def read(self, offset: int, size: int, interrupted: Interruption) -> bytes: ...

    def share(self) -> int | None: ...

    def close(self) -> None: ...


class DocumentReader:
    """A synced JSON document: its bytes are the snapshot's, held for as long as it is open."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, size: int, interrupted: Interruption) -> bytes:
        return self._content[offset : offset + size]

    def share(self) -> int | None:
        """It has no file."""
        return None

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True, slots=True)
class Handle:
    """One open file: the node as it was when it was opened, and how the kernel treats it."""

    handle: int
    number: int  # the kernel's, of the inode that it belongs to
    node: Node
    reader: Reader
    paged: bool  # reads go through the kernel's page cache
    partial: bool  # something of it was not on this machine when it was opened
    mismatches: int  # contents that had turned out to be bad when it was opened


class HandleTable:
    """Thread-safe. `_lock` protects `_by_inode`, `_numbers` and `_inodes`, which are also looked into without it;
    `_by_handle` is only changed an entry at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles = itertools.count(1)
        self._new_numbers = itertools.count(FIRST_NEW_NUMBER)
        self._by_handle: dict[int, Handle] = {}
        self._by_inode: dict[int, list[Handle]] = {}
        self._numbers: dict[int, int] = {}  # of inodes that have another one than their own
        self._inodes: dict[int, int] = {}  # the other way round

    def __len__(self) -> int:
        return len(self._by_handle)

    def get(self, handle: int) -> Handle:
        return self._by_handle[handle]

    def knows(self, inode: int) -> bool:
        """Whether a program has this path open, or its number is not that of the inode."""
        return inode in self._by_inode or inode in self._numbers

    def number_of(self, inode: int, digest: bytes | None) -> int:
        """By which number the kernel is to know the node with this inode and this identity (None: without a digest)."""
        if inode not in self._by_inode:
            return self._numbers.get(inode, inode)
        with self._lock:
            number = self._numbers.get(inode, inode)
            others = (other for other in self._by_inode.get(inode, ()) if other.number == number and other.paged)
            if any(other.node.digest != digest for other in others):
                return self._renumber(inode)
            return number

    def _renumber(self, inode: int) -> int:
        """Under the lock."""
        number = self._numbers[inode] = next(self._new_numbers)
        self._inodes[number] = inode
        return number

    def retire(self, inode: int, mismatches: int) -> set[int]:
        """So many contents have turned out to be bad: what was opened of this path before may be one of them, and the
        next one gets another number. Returns those by which the kernel may know it so far."""
        with self._lock:
            number = self._numbers.get(inode, inode)
            handles = self._by_inode.get(inode, ())
            opened = {other.number for other in handles if other.paged and other.mismatches < mismatches}
            if number in opened:
                self._renumber(inode)
            return {number, *opened}

    def inode_of(self, number: int) -> int:
        """The inode whose number this is, or was."""
        return self._inodes.get(number, number)

    def open_under(self, number: int) -> Handle | None:
        """Some open file of this number."""
        with self._lock:
            handles = self._by_inode.get(self.inode_of(number), ())
            return next((handle for handle in handles if handle.number == number), None)

    def add(
        self, number: int, node: Node, reader: Reader, paged: bool, partial: bool = False, mismatches: int = 0
    ) -> Handle:
        """Enters an open file."""
        handle = Handle(next(self._handles), number, node, reader, paged, partial, mismatches)
        with self._lock:
            self._by_inode.setdefault(node.inode, []).append(handle)
        self._by_handle[handle.handle] = handle
        return handle

    def remove(self, number: int) -> Handle:
        """Closes an open file."""
        handle = self._by_handle.pop(number)
        with self._lock:
            handles = self._by_inode[handle.node.inode]
            handles.remove(handle)
            if not handles:
                del self._by_inode[handle.node.inode]
        handle.reader.close()
        return handle

    def open_paths(self) -> list[str]:
        """Paths that a program has open now."""
        with self._lock:
            return [handles[0].node.path for handles in self._by_inode.values()]

    def readers(self, inode: int) -> list[Reader]:
        """Those of everybody who has this path open now."""
        with self._lock:
            return [handle.reader for handle in self._by_inode.get(inode, ())]

    def close_all(self) -> None:
        """At the end of the mount, when no operation runs any more."""
        for handle in list(self._by_handle):
            self._by_handle.pop(handle).reader.close()
        with self._lock:
            self._by_inode.clear()

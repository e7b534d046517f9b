"""What programs have open in the mount, and which of the kernel's pages belong to whom.

The kernel keeps pages and size per path, not per open file. When a path gets another identity (a version number that
came back with other bytes) while a program holds the old one open through the page cache, the path is *split*: the old
handle goes on through the page cache with its own bytes, every new open bypasses the cache, and sizes are asked for
each time. It ends when the last old handle is closed and the pages it left were dropped.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runicornfs.catalog.nodes import Node
from runicornfs.content.contents import Interruption


class Reader(Protocol):
    """An open file: a content of `runicornfs.content`, a file that may grow, or a document in memory."""

    def read(self, offset: int, size: int, interrupted: Interruption) -> bytes: ...

    def close(self) -> None: ...


class DocumentReader:
    """A synced JSON document: its bytes are the snapshot's, held for as long as it is open."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, size: int, interrupted: Interruption) -> bytes:
        return self._content[offset : offset + size]

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True, slots=True)
class Handle:
    """One open file: the node as it was when it was opened, and how the kernel treats it."""

    number: int
    node: Node
    reader: Reader
    paged: bool  # reads go through the kernel's page cache


class HandleTable:
    """Thread-safe. `_lock` protects `_by_path` and `_split`; `_by_number` is only changed an entry at a time.

    `dropping(path)` is called, outside the lock, when the kernel's pages of a path must be dropped; whoever drops them
    calls `dropped` afterwards.
    """

    def __init__(self, dropping: Callable[[str], None]) -> None:
        self._dropping = dropping
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._by_number: dict[int, Handle] = {}
        self._by_path: dict[str, list[Handle]] = {}
        self._split: set[str] = set()

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, number: int) -> Handle:
        return self._by_number[number]

    def add(self, node: Node, reader: Reader, pageable: bool) -> Handle:
        """Enters an open file; it is `paged` unless it may not be or its path is split."""
        with self._lock:
            handles = self._by_path.setdefault(node.path, [])
            if any(other.paged and other.node.digest != node.digest for other in handles):
                self._split.add(node.path)
            handle = Handle(next(self._numbers), node, reader, pageable and node.path not in self._split)
            handles.append(handle)
        self._by_number[handle.number] = handle
        return handle

    def remove(self, number: int) -> None:
        handle = self._by_number.pop(number)
        path = handle.node.path
        with self._lock:
            handles = self._by_path[path]
            handles.remove(handle)
            if not handles:
                del self._by_path[path]
            mended = path in self._split and not any(other.paged for other in handles)
        handle.reader.close()
        if mended:
            self._dropping(path)

    def replaced(self, path: str, digest: bytes | None) -> None:
        """The path now has this identity (None: none with a digest): split it if an older one is open."""
        with self._lock:
            if any(other.paged and other.node.digest != digest for other in self._by_path.get(path, ())):
                self._split.add(path)

    def dropped(self, path: str) -> None:
        """The kernel's pages of `path` are gone: where no old handle is left, the path is whole again."""
        with self._lock:
            if not any(other.paged for other in self._by_path.get(path, ())):
                self._split.discard(path)

    @property
    def any_split(self) -> bool:
        with self._lock:
            return bool(self._split)

    def open_paths(self) -> list[str]:
        """Paths that a program has open now."""
        with self._lock:
            return list(self._by_path)

    def readers(self, path: str) -> list[Reader]:
        """Those of everybody who has this path open now."""
        with self._lock:
            return [handle.reader for handle in self._by_path.get(path, ())]

    def close_all(self) -> None:
        """At the end of the mount, when no operation runs any more."""
        for number in list(self._by_number):
            self._by_number.pop(number).reader.close()
        with self._lock:
            self._by_path.clear()
            self._split.clear()

"""Open folders, and which listings the kernel may go on using.

The kernel keeps the names of a folder, and the attributes that came with them, until we say otherwise. It may use them
again as long as the snapshot shows the same there and no content's share on this machine has changed; else the next
reader of the folder brings both anew, so that what `du` and `ls -l` say is right without a question for each file.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from runicornfs.catalog.catalog import Row

# Folders of which it is remembered what the kernel has of them; some 100 bytes each. The others are read again.
REMEMBERED = 100_000

# Of each content by its key: bytes on this machine, and the state.
Shares = dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Listing:
    """What was in a folder at one moment, and what of it was here."""

    path: str
    inode: int
    mtime_ns: int
    rows: list[Row]
    shares: Shares


class OpenFolders:
    """Open folders by their handle. Thread-safe: `_listings` is only changed an entry at a time."""

    def __init__(self) -> None:
        self._handles = itertools.count(1)
        self._listings: dict[int, Listing | None] = {}

    def add(self) -> int:
        handle = next(self._handles)
        self._listings[handle] = None
        return handle

    def put(self, handle: int, listing: Listing) -> None:
        """From now on the reader of this folder sees this."""
        self._listings[handle] = listing

    def get(self, handle: int) -> Listing | None:
        return self._listings[handle]

    def remove(self, handle: int) -> None:
        del self._listings[handle]


class KeptListings:
    """Which folders the kernel has a listing of that is still right. Thread-safe: `_lock` protects everything."""

    def __init__(self, generation: int) -> None:
        self._lock = threading.Lock()
        self._generation = generation
        self._kept: dict[int, int] = {}  # inode of a folder: the contents' moves

    def taken(self, inode: int, generation: int, moves: int) -> None:
        """The kernel was given a listing that was read after the generation of the catalog and the contents' moves
        were. One that a sync has overtaken does not count."""
        with self._lock:
            if len(self._kept) >= REMEMBERED:
                self._kept.clear()
            if generation == self._generation:
                self._kept[inode] = moves
            else:
                self._kept.pop(inode, None)

    def usable(self, inode: int, moves: int) -> bool:
        """Whether the kernel may use what it has."""
        with self._lock:
            return self._kept.get(inode) == moves

    def changed(self, generation: int, inodes: Iterable[int]) -> None:
        """There is a new snapshot, in which these folders show something else."""
        with self._lock:
            self._generation = generation
            for inode in inodes:
                self._kept.pop(inode, None)

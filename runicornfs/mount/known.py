"""What the kernel knows by number: which name in which folder each number stands for, until the kernel forgets it.

It asks by number for whatever it has been told a name of. Numbers are hashes (see `catalog.nodes`), which nobody can
turn round, so places are kept here: some 250 bytes for each file that has been listed or looked up and that the kernel
still has in memory. It counts how often it was told of a number, and forgets as many times.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from runicornfs.catalog.nodes import ROOT_INODE

# Number, folder, name in it.
Told = tuple[int, str, bytes]


class KnownNumbers:
    """Thread-safe: `_lock` protects everything; `path` and `in` look without it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[int, tuple[str, bytes]] = {ROOT_INODE: ("", b"")}
        self._again: dict[int, int] = {}  # how many times more than once it was told

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def path(self, number: int) -> str | None:
        """Where it was last seen; None for what the kernel does not know."""
        place = self._places.get(number)
        if place is None:
            return None
        folder, name = place
        return f"{folder}/{os.fsdecode(name)}" if folder else os.fsdecode(name)

    def told(self, entries: Iterable[Told]) -> None:
        """The kernel is told of these, and will forget each of them by itself."""
        with self._lock:
            for number, folder, name in entries:
                if number in self._places:
                    self._again[number] = self._again.get(number, 0) + 1
                self._places[number] = folder, name

    def forget(self, number: int, times: int) -> None:
        """It forgets what it was told of a number so many times."""
        with self._lock:
            left = self._again.pop(number, 0) + 1 - times
            if left > 1:
                self._again[number] = left - 1
            elif left < 1 and number != ROOT_INODE:
                self._places.pop(number, None)

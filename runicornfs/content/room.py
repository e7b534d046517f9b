"""How much the contents take: the only place where it is counted.

A block is counted from when room for it is reserved, which is before it is asked of the server, so neither the limit of
the cache nor the room that others of this disk were promised is ever overshot. What is counted equals the bytes of the
blocks that are on the disk or on their way, of all contents.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Room:
    """Thread-safe: `_lock` protects the counts. All numbers are bytes; `free_bytes()` asks the disk."""

    def __init__(self, limit: int, min_free: int, used: int, free_bytes: Callable[[], int]) -> None:
        self.limit = limit
        self._min_free = min_free
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self._used = used
        self._coming = 0  # reserved, and not yet seen by the disk
        self.moves = time.monotonic_ns()  # what only counts up from there is never confused with another owner's

    @property
    def used(self) -> int:
        return self._used

    @property
    def coming(self) -> int:
        """Reserved bytes that are on their way."""
        return self._coming

    def reserve(self, size: int) -> int:
        """Reserves `size` bytes and returns 0, or reserves nothing and returns how many bytes have to go first."""
        with self._lock:
            lacking = self._lacking(size)
            if lacking > 0:
                return lacking
            self._used += size
            self._coming += size
            return 0

    def landed(self, size: int) -> None:
        """Reserved bytes have been written, and count as a part of their content."""
        with self._lock:
            self._coming -= size
            self.moves += 1

    def cancel(self, size: int) -> None:
        """Reserved bytes will not come."""
        with self._lock:
            self._coming -= size
            self._used -= size

    def release(self, size: int) -> None:
        """Bytes are not on the disk any more, nor a part of their content."""
        with self._lock:
            self._used -= size
            self.moves += 1

    def excess(self) -> int:
        """How many bytes are more than there may be, 0 or less if none are."""
        with self._lock:
            return self._lacking(0)

    def reason(self, size: int) -> str:
        """Why no room for `size` bytes can be made, in words."""
        with self._lock:
            if self._used + size > self.limit:
                return "the cache is full of files that are open or pinned"
            if self._used or not self._min_free:
                return "the disk is full, and what is cached is open or pinned"
            return f"the disk has {self._free_bytes()} bytes left, of which {self._min_free} are to stay free"

    def left(self) -> int:
        """What can be reserved now."""
        with self._lock:
            return max(0, min(self.limit - self._used, self._free_bytes() - self._coming - self._min_free))

    def _lacking(self, size: int) -> int:
        return max(self._used + size - self.limit, self._min_free + self._coming + size - self._free_bytes())

"""What the cache has done since it was opened, in numbers."""

from __future__ import annotations

import threading


class Counters:
    """Thread-safe: `_lock` protects the numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0
        self.bytes_served = 0
        self.bytes_fetched = 0
        self.evictions = 0
        self.mismatches = 0

    def served(self, hits: int, misses: int, size: int) -> None:
        """By a reader that is closed now."""
        with self._lock:
            self.hits += hits
            self.misses += misses
            self.bytes_served += size

    def fetched(self, size: int) -> None:
        with self._lock:
            self.bytes_fetched += size

    def evicted(self, contents: int) -> None:
        with self._lock:
            self.evictions += contents

    def mismatched(self) -> None:
        with self._lock:
            self.mismatches += 1

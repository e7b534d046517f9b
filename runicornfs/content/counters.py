"""What the cache has done since it was opened, in numbers."""

from __future__ import annotations

import bisect
import threading

# A read that waited is counted with the first of these (in seconds) that it did not exceed, or behind the last.
WAIT_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


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
        self.waits = [0] * (len(WAIT_BOUNDS_S) + 1)
        self.waited_s = 0.0

    def served(self, hits: int, misses: int, size: int) -> None:
        """By a reader that is closed now."""
        with self._lock:
            self.hits += hits
            self.misses += misses
            self.bytes_served += size

    def waited(self, seconds: float) -> None:
        """A read has waited for the server."""
        with self._lock:
            self.waits[bisect.bisect_left(WAIT_BOUNDS_S, seconds)] += 1
            self.waited_s += seconds

    def fetched(self, size: int) -> None:
        with self._lock:
            self.bytes_fetched += size

    def evicted(self, contents: int) -> None:
        with self._lock:
            self.evictions += contents

    def mismatched(self) -> None:
        with self._lock:
            self.mismatches += 1

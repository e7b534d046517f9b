"""One task on its way: what its threads count, and what ends them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from runicornfs.downloads.records import ACTIVE, CANCELLED, QUEUED, RUNNING, Counts, Download, Placed
from runicornfs.errors import Interrupted

# Over how many seconds the rate is measured.
RATE_S = 5.0
# How often a thread that waits asks whether it is to stop.
POLL_S = 0.1


class Task:
    """Thread-safe: `_lock` protects everything but the two events.

    `ended` is set when no thread is at it any more. `stopping()` says that the process ends: the task stays as it is,
    to be carried on by the next one.
    """

    def __init__(self, download: Download, stopping: Callable[[], bool]) -> None:
        self.order = download.order
        self.ended = threading.Event()
        self._stopping = stopping
        self._given_up = threading.Event()  # by the first thread that fails
        self._lock = threading.Lock()
        self._download = replace(download, status=QUEUED) if download.status in ACTIVE else download
        self._moved: deque[tuple[float, int]] = deque()
        self._passing: dict[str, int] = {}  # files on their way, and the bytes that were brought of each
        self._waiting: dict[str, str] = {}  # files that cannot go on just now, and why
        self._placed: list[Placed] = []
        if download.status not in ACTIVE:
            self.ended.set()

    def snapshot(self) -> Download:
        """How it stands now."""
        with self._lock:
            download = self._download
            if download.status != RUNNING:
                return download
            rate = self._rate()
            left = download.counts.total_bytes - download.counts.downloaded_bytes
            return replace(
                download,
                bytes_per_second=rate,
                eta_seconds=left / rate if rate else None,
                current_file=next(iter(self._passing), None),
                waiting=next(iter(self._waiting.values()), None),
            )

    def begin(self, total_files: int, total_bytes: int) -> None:
        """Its turn has come: everything is counted from zero, since what is there already counts as well."""
        with self._lock:
            self._download = replace(self._download, counts=Counts(total_files=total_files, total_bytes=total_bytes))

    def start(self) -> bool:
        """From queued to running; False if it was cancelled meanwhile."""
        with self._lock:
            if self._download.status != QUEUED:
                return False
            self._download = replace(self._download, status=RUNNING)
            return True

    def cancel(self) -> bool:
        """False if it has ended already."""
        return self.end(CANCELLED)

    def end(self, status: str, error: str | None = None) -> bool:
        """False if it has ended already, in whatever way."""
        with self._lock:
            if self._download.status not in ACTIVE:
                return False
            if self._download.status == QUEUED:
                self.ended.set()
            self._download = self._download.ended(status, error, time.time())
            return True

    def give_up(self) -> None:
        """One of its threads has failed, so the others stop."""
        self._given_up.set()

    def interrupted(self) -> bool:
        """Whether its threads are to stop."""
        return self._given_up.is_set() or self._stopping() or self._download.status != RUNNING

    def pause(self, seconds: float) -> None:
        """Returns after this time, or soon after its threads are to stop."""
        deadline = time.monotonic() + seconds
        while not self.interrupted() and (left := deadline - time.monotonic()) > 0:
            self._given_up.wait(min(POLL_S, left))

    def check(self) -> None:
        """Raises Interrupted where its threads are to stop."""
        if self.interrupted():
            raise Interrupted(f"the download of {self.order.artifact} was stopped")

    # Progress

    def found(self, placed: Placed) -> None:
        """A file is in its place already."""
        with self._lock:
            self._count(downloaded_files=1, downloaded_bytes=placed.size, from_cache_bytes=placed.size)
            self._placed.append(placed)

    def file_begins(self, path: str, cached_bytes: int) -> None:
        """Of this file so much is here already."""
        with self._lock:
            self._passing[path] = 0
            self._count(from_cache_bytes=cached_bytes)

    def advance(self, path: str, size: int) -> None:
        """Bytes of a file have been brought to where they belong. Raises Interrupted where its threads are to stop."""
        self.check()
        with self._lock:
            self._passing[path] += size
            self._moved.append((time.monotonic(), size))
            self._waiting.pop(path, None)
            self._count(downloaded_bytes=size)

    def file_begins_anew(self, path: str) -> None:
        """What was brought of it was not right."""
        with self._lock:
            self._count(downloaded_bytes=-self._passing[path])
            self._passing[path] = 0

    def file_ends(self, path: str, done: bool, placed: Placed | None = None) -> None:
        with self._lock:
            del self._passing[path]
            self._waiting.pop(path, None)
            self._count(downloaded_files=int(done))
            if placed is not None:
                self._placed.append(placed)

    def file_waits(self, path: str, reason: str) -> None:
        """A file cannot go on for this reason, until it does."""
        with self._lock:
            self._waiting[path] = reason

    def take_placed(self) -> list[Placed]:
        """What was placed since this was asked last."""
        with self._lock:
            placed, self._placed = self._placed, []
            return placed

    def _count(self, **more: int) -> None:
        counts = self._download.counts
        changed = {name: getattr(counts, name) + value for name, value in more.items()}
        self._download = replace(self._download, counts=replace(counts, **changed))

    def _rate(self) -> float:
        now = time.monotonic()
        while self._moved and self._moved[0][0] < now - RATE_S:
            self._moved.popleft()
        if not self._moved:
            return 0.0
        return max(0.0, sum(size for _, size in self._moved) / max(now - self._moved[0][0], 1.0))

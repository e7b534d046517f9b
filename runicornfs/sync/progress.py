"""How far a sync is, as the control API and the progress bar show it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace

# The list of errors is for a person to read; the catalog keeps the problems of the store.
ERRORS_LIMIT = 100


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """One state of a sync. Times in Unix seconds; files are documents whose content travels, bytes are theirs."""

    status: str = "idle"  # idle, running, completed, failed
    started_at: float | None = None
    completed_at: float | None = None
    total_files: int = 0
    synced_files: int = 0
    total_bytes: int = 0
    synced_bytes: int = 0
    current_file: str | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def progress_percent(self) -> float:
        """0 to 100; a sync with nothing to fetch is all done when it is completed."""
        if self.status == "completed":
            return 100.0
        return 100.0 * self.synced_bytes / self.total_bytes if self.total_bytes else 0.0


class ProgressTracker:
    """Written by the thread that syncs, read by any. The lock protects `_now`, which is replaced, never changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = SyncProgress()

    @property
    def now(self) -> SyncProgress:
        with self._lock:
            return self._now

    def start(self) -> None:
        with self._lock:
            self._now = SyncProgress(status="running", started_at=time.time())

    def plan(self, files: int, size_bytes: int) -> None:
        """So many files and bytes more are to come."""
        with self._lock:
            now = self._now
            self._now = replace(now, total_files=now.total_files + files, total_bytes=now.total_bytes + size_bytes)

    def received(self, path: str, size_bytes: int) -> None:
        with self._lock:
            now = self._now
            files, done = now.synced_files + 1, now.synced_bytes + size_bytes
            self._now = replace(
                now,
                synced_files=files,
                synced_bytes=done,
                total_files=max(files, now.total_files),
                total_bytes=max(done, now.total_bytes),
                current_file=path,
            )

    def problem(self, text: str) -> None:
        with self._lock:
            if len(self._now.errors) < ERRORS_LIMIT:
                self._now = replace(self._now, errors=[*self._now.errors, text])

    def finish(self, status: str) -> None:
        with self._lock:
            self._now = replace(self._now, status=status, completed_at=time.time(), current_file=None)

"""The vocabulary of downloads: what was asked for, and how far it is."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Final

QUEUED: Final = "queued"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

ACTIVE: Final = (QUEUED, RUNNING)


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for; it never changes, and with it a task can be carried on after a restart.

    Without a `target_dir` the files are brought into the cache alone. `own_target` says that a person named the folder.
    `patterns` choose files of the version; none means all.
    """

    task_id: str
    type: str
    name: str
    version: int
    target_dir: str | None
    own_target: bool = False
    overwrite: bool = False
    patterns: tuple[str, ...] = ()

    @property
    def artifact(self) -> str:
        """As people write it: `resnet50:v3`."""
        return f"{self.name}:v{self.version}"


@dataclass(frozen=True, slots=True)
class Counts:
    """Files and bytes of a task. `from_cache_bytes` needed no transfer."""

    total_files: int = 0
    downloaded_files: int = 0
    total_bytes: int = 0
    downloaded_bytes: int = 0
    from_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Download:
    """A task as it is at one moment. Times in Unix seconds, `eta_seconds` None while nobody can know it.

    `waiting` is why nothing moves just now although nothing has failed.
    """

    order: Order
    status: str
    error: str | None
    counts: Counts
    started_at: float
    completed_at: float | None
    bytes_per_second: float = 0.0
    eta_seconds: float | None = None
    current_file: str | None = None
    waiting: str | None = None

    @property
    def progress_percent(self) -> float:
        counts = self.counts
        if self.status == COMPLETED:
            return 100.0
        return 100.0 * counts.downloaded_bytes / counts.total_bytes if counts.total_bytes else 0.0

    def ended(self, status: str, error: str | None, when: float) -> Download:
        """The same task at its end."""
        return replace(
            self, status=status, error=error, completed_at=when, bytes_per_second=0.0, eta_seconds=None,
            current_file=None, waiting=None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placed:
    """A file that a task has placed and verified, as it was then: unchanged, it need not be read again."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Placed:
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)

    def is_still(self, status: os.stat_result | None) -> bool:
        """Whether what stands there now is this file."""
        return status is not None and self == Placed.of(self.path, status)


@dataclass(frozen=True, slots=True)
class FileHere:
    """A file of a version and how much of it is in the cache. `is_here` means whole, and verified where it can be."""

    path: str
    size: int
    cached_bytes: int
    is_here: bool

"""A store of this machine in numbers: what its records count, and what its content pool saves.

The pool is read off the disk: a file in it that is linked into two versions would take its size twice without it. Where
the file system has no hard links, the SDK copies, and nothing is saved. The numbers are kept for as long as the catalog
has the same snapshot, and `_lock` makes one thread at a time read a pool.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from runicornfs.store.layout import ARTIFACTS, DEDUP

if TYPE_CHECKING:
    from runicornfs.workspace.workspace import Workspace

# A pool of half a million files takes about this long; beyond it the rest is left uncounted.
POOL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class TypeStatistics:
    """The artifacts of one type that have a version to show."""

    count: int
    versions: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LocalStatistics:
    """Sizes in bytes. `dedup_ratio` is the share of what the versions' files would take that is saved, 0 to 1.
    `dedup_complete` is False where the pool was too large to be read to its end."""

    total_artifacts: int
    total_versions: int
    total_size_bytes: int
    total_files: int
    dedup_enabled: bool
    by_type: dict[str, TypeStatistics]
    dedup_pool_size_bytes: int
    space_saved_bytes: int
    dedup_ratio: float
    dedup_complete: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """Bytes that a pool's files take, and that they would take if each link to them were a file of its own."""

    is_there: bool
    size_bytes: int
    linked_bytes: int
    complete: bool


class LocalStore:
    """Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._known: tuple[Path, int, Pool] | None = None  # of which store and snapshot

    def statistics(self) -> LocalStatistics | None:
        """None where the store in use is not one of this machine."""
        store = self._workspace.store
        if store.local_root is None:
            return None
        by_type = store.catalog.totals_by_type()
        pool = self._pool(store.local_root, store.catalog.generation)
        saved = max(0, pool.linked_bytes - pool.size_bytes)
        return LocalStatistics(
            total_artifacts=sum(totals.artifacts for totals in by_type.values()),
            total_versions=sum(totals.versions for totals in by_type.values()),
            total_size_bytes=sum(totals.bytes for totals in by_type.values()),
            total_files=sum(totals.files for totals in by_type.values()),
            dedup_enabled=pool.is_there,
            by_type={
                type: TypeStatistics(totals.artifacts, totals.versions, totals.bytes)
                for type, totals in by_type.items()
            },
            dedup_pool_size_bytes=pool.size_bytes,
            space_saved_bytes=saved,
            dedup_ratio=saved / pool.linked_bytes if saved else 0.0,
            dedup_complete=pool.complete,
        )

    def _pool(self, root: Path, generation: int) -> Pool:
        with self._lock:
            if self._known is None or self._known[:2] != (root, generation):
                self._known = (root, generation, read_pool(root / ARTIFACTS / DEDUP))
            return self._known[2]


def read_pool(folder: Path) -> Pool:
    """Looks at every file of a pool, for POOL_SECONDS at most. Files that come or go meanwhile are no error."""
    size = linked = 0
    complete = True
    end = time.monotonic() + POOL_SECONDS
    for status in _files(folder):
        size += status.st_size
        linked += status.st_size * (status.st_nlink - 1)  # one link is the pool's own
        if time.monotonic() > end:
            complete = False
            break
    return Pool(folder.is_dir(), size, linked, complete)


def _files(folder: Path) -> Iterator[os.stat_result]:
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(here, name))
            except OSError:
                continue
            if S_ISREG(status.st_mode):
                yield status

"""The contents of a store on this machine: read where they lie, nothing is kept."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from runicornfs.content.contents import (
    CACHED,
    WHOLE,
    CachedFile,
    CacheStatus,
    Freed,
    Interruption,
    Pin,
    Verification,
    never,
)
from runicornfs.content.counters import Counters
from runicornfs.content.identity import NANOSECONDS, Identity
from runicornfs.errors import AccessDenied, MissingOnServer, NotFound, Refused, StaleFile

_BELOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalContents:
    """Implements `contents.Contents` for the store in `root`. Thread-safe. Follows no symbolic link below the root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._counters = Counters()

    def open(self, identity: Identity, given: bool = False) -> LocalReader:
        """Raises MissingOnServer, AccessDenied, StaleFile where it is not the file that the catalog knows, OSError."""
        fd = self._open(identity.path)
        try:
            self._check(fd, identity)
        except BaseException:
            os.close(fd)
            raise
        return LocalReader(fd, identity, self._counters)

    def cached_bytes(self, keys: list[str]) -> dict[str, tuple[int, str]]:
        """All of everything is here."""
        return dict.fromkeys(keys, (WHOLE, CACHED))

    def moves(self) -> int:
        """All of everything stays here."""
        return 0

    def free_bytes(self) -> int:
        """What the disk has left."""
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def status(self) -> CacheStatus:
        """Nothing is kept; only what was read is counted."""
        counters = self._counters
        return CacheStatus(
            size_bytes=0,
            limit_bytes=0,
            files=0,
            partial_files=0,
            verified_files=0,
            hits=counters.hits,
            misses=0,
            hit_ratio=1.0 if counters.hits else 0.0,
            bytes_fetched=0,
            bytes_served=counters.bytes_served,
            evictions=0,
            mismatches=0,
            waits=list(counters.waits),
            waited_s=counters.waited_s,
        )

    def mismatches(self) -> int:
        """Nothing is checked that is not kept."""
        return 0

    def on_dropped(self, callback: Callable[[str], None]) -> None:
        """Nothing is ever dropped."""

    def files(self, sort: str, limit: int) -> list[CachedFile]:
        """Nothing is kept."""
        return []

    def pin(self, label: str, sizes: dict[str, int]) -> None:
        """Raises Refused."""
        raise Refused(f"{label} need not be pinned: the store lies on this machine, and nothing of it is cached")

    def unpin(self, label: str) -> None:
        """Raises NotFound."""
        raise NotFound(f"{label} is not pinned: the store lies on this machine, and nothing of it is cached")

    def pins(self) -> list[Pin]:
        """Nothing is kept."""
        return []

    def cleanup(self) -> Freed:
        """Nothing is kept."""
        return Freed(0, 0)

    def demote(self, keys: list[str]) -> None:
        """Nothing is ever evicted."""

    def evict(self, keys: list[str]) -> Freed:
        """Nothing is kept."""
        return Freed(0, 0)

    def clear(self) -> Freed:
        """Nothing is kept."""
        return Freed(0, 0)

    def verify(self) -> Verification:
        """Raises Refused."""
        raise Refused("there is nothing to check: the store lies on this machine, and nothing of it is cached")

    def verification(self) -> Verification:
        """Nothing is ever checked."""
        return Verification()

    def close(self) -> None:
        """Readers stay readable until they are closed."""

    def _open(self, path: str) -> int:
        folder = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        *parents, name = path.split("/")
        try:
            for parent in parents:
                below = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = below
            # A FIFO that has taken the file's place must not hold us up before it is looked at.
            return os.open(name, _BELOW | os.O_NONBLOCK, dir_fd=folder)
        except FileNotFoundError as error:
            raise MissingOnServer(f"{path} is not in the store any more") from error
        except PermissionError as error:
            raise AccessDenied(f"the permissions of {path} do not let us read it") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # ENXIO: a socket
                raise StaleFile(f"{path} is not the file of the catalog any more: it is no regular file") from error
            raise
        finally:
            os.close(folder)

    @staticmethod
    def _check(fd: int, identity: Identity) -> None:
        status = os.fstat(fd)
        if identity.sha256 is not None:
            same = status.st_size == identity.size
        else:
            same = status.st_size > identity.size or (
                status.st_size == identity.size and status.st_mtime_ns // NANOSECONDS == identity.mtime_s
            )
        if not same or not stat.S_ISREG(status.st_mode):
            raise StaleFile(
                f"{identity.path} is not the file of the catalog any more: it has {status.st_size} bytes,"
                f" the catalog says {identity.size}"
            )


class LocalReader:
    """An open file of this machine; implements `contents.Reader`."""

    state = CACHED

    def __init__(self, fd: int, identity: Identity, counters: Counters) -> None:
        self._fd = fd
        self._identity = identity
        self._counters = counters

    def read(self, offset: int, size: int, interrupted: Interruption = never) -> bytes:
        """Raises StaleFile if the file has become shorter, OSError. The last reads end before `close`."""
        end = min(offset + size, self._identity.size)
        if offset >= end:
            return b""
        data = os.pread(self._fd, end - offset, offset)
        if len(data) < end - offset:
            raise StaleFile(f"{self._identity.path} has become shorter while it was open")
        self._counters.served(1, 0, len(data))
        return data

    def share(self) -> int | None:
        """Whoever has the store may write into its files."""
        return None

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

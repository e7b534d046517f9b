"""Contents that the kernel reads by itself, from the cache's own file: FUSE passthrough (Linux 6.9, CAP_SYS_ADMIN).

Only what is whole, since its file is never changed again. The kernel wants all open files of a number to be read the
same way, so the first one that is opened decides for those that come while it is open.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

log = logging.getLogger("runicornfs.mount")

CAP_SYS_ADMIN = 21


class Backings(Protocol):
    """The kernel's side. Both raise OSError."""

    def open_backing(self, fd: int) -> int: ...

    def close_backing(self, backing: int) -> None: ...


class Shared(Protocol):
    """An open content."""

    def share(self) -> int | None:
        """A descriptor of all of it, that the caller closes; None while it is not whole. Raises OSError."""
        ...


@dataclass(slots=True)
class _Way:
    """How the open files of a number are read."""

    backing: int | None
    users: int


class Passthrough:
    """Thread-safe: `_lock` protects everything, and is held while the kernel is asked, which waits for nothing."""

    def __init__(self, backings: Backings) -> None:
        self._backings = backings
        self._lock = threading.Lock()
        self._ways: dict[int, _Way] = {}
        self._refused = False

    def opened(self, number: int, content: Shared) -> int | None:
        """A file is opened under a number: what the kernel reads it from, None where it asks us."""
        with self._lock:
            way = self._ways.get(number)
            if way is None:
                way = self._ways[number] = _Way(self._backing_of(content), 0)
            way.users += 1
            return way.backing

    def closed(self, number: int) -> None:
        """One of them is closed."""
        with self._lock:
            way = self._ways[number]
            way.users -= 1
            if way.users:
                return
            del self._ways[number]
            if way.backing is not None:
                self._backings.close_backing(way.backing)

    def _backing_of(self, content: Shared) -> int | None:
        """Under the lock."""
        if self._refused:
            return None
        try:
            fd = content.share()
            if fd is None:
                return None
            try:
                return self._backings.open_backing(fd)
            finally:
                os.close(fd)
        except OSError as error:
            # EPERM: this account may not; ELOOP: the cache lies on a stacked file system. Neither will change.
            self._refused = error.errno in (errno.EPERM, errno.ELOOP, errno.EOPNOTSUPP)
            log.info("the kernel does not read from the cache by itself: %s", error.strerror)
            return None


def may_pass_through() -> bool:
    """Whether this account has the capability that the kernel asks for."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1)
    return False

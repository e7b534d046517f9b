"""An open content of a cache that another process owns: read from the owner's descriptor, or by asking the owner."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Protocol

from runicornfs.content.contents import REMOTE, Interruption, never
from runicornfs.content.identity import Identity
from runicornfs.content.owner import MAX_READ
from runicornfs.content.wire import Frame
from runicornfs.errors import RunicornFSError

log = logging.getLogger("runicornfs.content")


class Owner(Protocol):
    """Who is asked. Both raise what the owner's contents raise, and what `GuestContents` says."""

    def ask(self, header: dict[str, Any]) -> Frame: ...

    def read(self, header: dict[str, Any], interrupted: Interruption) -> Frame: ...

    def forget(self, reader: GuestReader) -> None:
        """It is closed."""
        ...

    def note_mismatches(self, count: int) -> None:
        """So many contents did not have their sha256 when this one was opened."""
        ...


class GuestReader:
    """An open content of the owner's; implements `contents.Reader`. Thread-safe.

    `_lock` protects `_direct`, `_epoch` and `_closed`. A read from the descriptor takes no lock: it looks at `_direct`,
    reads, and looks again. Whoever takes the descriptor away first takes it out of there. An answer that was asked for
    in an earlier epoch than the present one may be about bytes that were dropped meanwhile: it is asked for again.
    """

    def __init__(self, owner: Owner, identity: Identity) -> None:
        self.key = identity.key
        self.state = REMOTE
        self._owner = owner
        self._identity = identity
        self._size = identity.size
        self._hits = 0
        self._bytes_served = 0
        self._handle = -1
        self._lock = threading.Lock()
        self._direct: _Direct | None = None
        self._epoch = 0
        self._closed = False

    def open(self, given: bool) -> None:
        """Before anything else."""
        identity = self._identity
        header = {
            "op": "open",
            "key": identity.key,
            "path": identity.path,
            "size": identity.size,
            "sha256": None if identity.sha256 is None else identity.sha256.hex(),
            "mtime_s": identity.mtime_s,
            "given": given,
        }
        epoch = self._epoch
        answer = self._owner.ask(header)
        self._handle = answer.header["handle"]
        self._owner.note_mismatches(answer.header["mismatches"])
        self._take(answer, epoch)

    def read(self, offset: int, size: int, interrupted: Interruption = never) -> bytes:
        """See `contents.Reader`."""
        end = min(offset + size, self._size)
        if offset >= end:
            return b""
        direct = self._direct
        if direct is not None:
            data = self._pread(direct, offset, end)
            if len(data) == end - offset and self._direct is direct:
                self._hits += 1
                self._bytes_served += len(data)
                return data
        if end - offset <= MAX_READ:
            return self._ask(offset, end, interrupted)
        return b"".join(
            self._ask(start, min(start + MAX_READ, end), interrupted) for start in range(offset, end, MAX_READ)
        )

    def share(self) -> int | None:
        """See `contents.Reader`."""
        with self._lock:
            return None if self._direct is None else os.dup(self._direct.fd)

    def let_go(self) -> None:
        """What the descriptor shows is not the content any more, or not all of it."""
        with self._lock:
            self._epoch += 1
            direct, self._direct = self._direct, None
        if direct is not None:
            os.close(direct.fd)

    def close(self) -> None:
        """See `contents.Reader`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.let_go()
        self._owner.forget(self)
        header = {"op": "close", "handle": self._handle, "hits": self._hits, "bytes_served": self._bytes_served}
        try:
            self._owner.ask(header)
        except (RunicornFSError, OSError) as error:  # the owner closes it with our session
            log.info("%s is not given back: %s", self._identity.path, error)

    def _ask(self, offset: int, end: int, interrupted: Interruption) -> bytes:
        header = {"op": "read", "handle": self._handle, "offset": offset, "size": end - offset}
        while True:
            if self._closed:
                raise ValueError("read of a closed file")
            epoch = self._epoch
            answer = self._owner.read(header, interrupted)
            if self._take(answer, epoch):
                return answer.body

    def _take(self, answer: Frame, epoch: int) -> bool:
        """Takes over the descriptor; False if the content was dropped since it was asked for."""
        fd = answer.fd
        with self._lock:
            fresh = self._epoch == epoch
            if fresh:
                self.state = answer.header["state"]
                if fd is not None and self._direct is None and not self._closed:
                    self._direct = _Direct(fd)
                    fd = None
        if fd is not None:
            os.close(fd)
        return fresh

    def _pread(self, direct: _Direct, offset: int, end: int) -> bytes:
        try:
            return os.pread(direct.fd, end - offset, offset)
        except OSError:
            if self._direct is direct:
                raise
            return b""  # closed under our hands


class _Direct:
    """A descriptor. An object of its own, since the number of a closed one is given to the next."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

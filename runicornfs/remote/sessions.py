"""The SFTP sessions of one connection: opened when needed, up to four, lent to one thread at a time.

`_changed` protects everything here; nothing that waits for the server happens while it is held.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from runicornfs.errors import AccessDenied, ConnectionLost, TimedOut
from runicornfs.remote.connection import Connection
from runicornfs.remote.line import Line
from runicornfs.remote.sftp import SftpSession

_MOST_SESSIONS = 4  # as many files at once share a line well; sshd allows ten channels a connection (MaxSessions)


class Sessions:
    """A pool of sessions. Thread-safe."""

    def __init__(self, connection: Connection, line: Line, patience: float) -> None:
        self._connection = connection
        self._line = line
        self._patience = patience  # seconds to wait for a session to become free
        self._changed = threading.Condition()
        self._idle: list[SftpSession] = []  # the one used last stands at the end
        self._count = 0
        self._limit = _MOST_SESSIONS
        self._closed = False

    @contextlib.contextmanager
    def borrow(self, path: bytes | None = None) -> Iterator[SftpSession]:
        """A session, if possible one that has `path` open. One that was closed meanwhile is not lent again.

        Raises what opening one raises, and TimedOut if none becomes free in time.
        """
        session = None
        while session is None:
            session = self._take(path) or self._open()
        try:
            yield session
        finally:
            with self._changed:
                again = session.is_open and not self._closed
                if again:
                    self._idle.append(session)
                else:
                    self._count -= 1
                self._changed.notify()
            if not again:
                session.close()

    def close(self) -> None:
        """Forget the idle sessions; those that are lent end when they come back. The connection ends them all."""
        with self._changed:
            self._closed = True
            self._idle.clear()
            self._changed.notify_all()

    def _take(self, path: bytes | None) -> SftpSession | None:
        """An idle session; None says that the caller may open one, which is counted already."""
        deadline = time.monotonic() + self._patience
        with self._changed:
            while True:
                usable = [session for session in self._idle if session.is_open]  # the server may have ended some
                self._count -= len(self._idle) - len(usable)
                self._idle = usable
                if self._idle:
                    held = (at for at, session in enumerate(self._idle) if path is not None and session.holds(path))
                    return self._idle.pop(next(held, -1))
                if self._count < self._limit or self._closed:
                    self._count += 1
                    return None
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimedOut("all sessions to the server are busy, and none became free in time")
                self._changed.wait(left)

    def _open(self) -> SftpSession | None:
        """A new session, which the caller has counted. None if the server allows no more beside those there are."""
        try:
            session = SftpSession(self._connection.open_sftp(), self._line)
            session.start()
        except BaseException as error:
            with self._changed:
                self._count -= 1
                self._changed.notify()
                if isinstance(error, AccessDenied) and self._count > 0:
                    self._limit = self._count
                    return None
            if isinstance(error, ConnectionLost) and self._connection.has_ended():
                raise ConnectionLost("the connection broke while SFTP was asked for") from error
            if isinstance(error, AccessDenied):
                raise AccessDenied(f"{error}, without which no file can be read: have it switched on there") from error
            raise
        return session

"""Large transfers over `ssh` processes, where the line is short enough for that to be the faster way.

The rule, as measured (docs/performance.md, "Transport"): OpenSSH lets 2 MiB of a channel be on their way, so a process
cannot be faster than 2 MiB a round trip; paramiko takes 64 MiB, and pays for its decryption with Python's lock, for
which the readers of the mount wait. Below `NEAR_S` the process wins, above it paramiko does.

A process costs a login, so the first is started when transfers have shown to be large. It starts in the background:
nobody waits for it, and where it cannot be had everything goes on over our own connection.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal

from runicornfs.errors import ConnectionLost, ProtocolError, RunicornFSError, TimedOut, Unreachable
from runicornfs.remote.line import Line
from runicornfs.remote.sftp import SftpSession
from runicornfs.remote.sshprocess import SshProcess

log = logging.getLogger("runicornfs.remote.bulk")

Transport = Literal["auto", "paramiko", "ssh"]  # auto: by the rule; the others: on no line, on every line
StartProcess = Callable[[], AbstractContextManager[SshProcess]]

NEAR_S = 0.002  # seconds of a round trip
_LARGE = 8 << 20  # bytes in `_PERIOD` that are worth a login: at 100 MB/s they take as long as one
_PERIOD = 1.0  # seconds
_MOST = 2  # processes: the second serves a second file; more compete for the same cores


class Bulk:
    """The processes of one connection. Thread-safe.

    `start_process` starts one, for as long as it takes to begin a session over it; it raises RunicornFSError or OSError
    where it cannot. None: there can be no process. `always`: on any line. `_lock` protects all that changes, and is not
    held while a process begins or ends.
    """

    def __init__(
        self, start_process: StartProcess | None, line: Line, heard: Callable[[], None], *, always: bool = False
    ) -> None:
        self._start_process = start_process
        self._line = line
        self._heard = heard
        self._always = always
        self._lock = threading.Lock()
        self._idle: list[SftpSession] = []  # the one used last stands at the end
        self._channels: dict[SftpSession, SshProcess] = {}
        self._opener: threading.Thread | None = None
        self._since = 0.0
        self._moved = 0

    @property
    def ready(self) -> bool:
        """Whether a session is there to be borrowed."""
        return bool(self._idle)

    def moved(self, size: int) -> None:
        """So many bytes were asked for over another session. Starts a process where that becomes much."""
        start_process = self._start_process
        if start_process is None or not (self._always or self._is_near()):
            return
        now = time.monotonic()
        with self._lock:
            if now - self._since > _PERIOD:
                self._since, self._moved = now, 0
            self._moved += size
            opening = self._opener is not None and self._opener.is_alive()
            if self._moved < _LARGE or opening or self._idle or len(self._channels) >= _MOST:
                return
            self._opener = threading.Thread(
                target=self._open, args=(start_process,), name="runicornfs-bulk", daemon=True
            )
            self._opener.start()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[SftpSession | None]:
        """A session that is there; None if there is none now. After one has failed on its way there are no more."""
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            yield None
            return
        try:
            yield session
        except (Unreachable, TimedOut, ProtocolError) as error:
            self._give_up(error)
            raise
        finally:
            with self._lock:
                again = session.is_open and session in self._channels
                if again:
                    self._idle.append(session)
                else:
                    self._channels.pop(session, None)
            if not again:
                session.close()

    def close(self) -> None:
        """End all processes; whoever is in a transfer gets ConnectionLost."""
        with self._lock:
            self._start_process = None
            channels, self._channels = self._channels, {}
            idle, self._idle = self._idle, []
            opener = self._opener
        for channel in channels.values():
            channel.interrupt()
        for session in idle:
            session.close()
        if opener is not None:
            opener.join()

    def _is_near(self) -> bool:
        round_trip = self._line.round_trip()
        return round_trip is not None and round_trip <= NEAR_S

    def _open(self, start_process: StartProcess) -> None:
        try:
            session = self._begun(start_process)
        except (RunicornFSError, OSError) as error:
            self._give_up(error)
            return
        with self._lock:
            wanted = session in self._channels
            if wanted:
                self._idle.append(session)
        if not wanted:
            session.close()

    def _begun(self, start_process: StartProcess) -> SftpSession:
        with start_process() as channel:
            session = SftpSession(channel, self._line, self._heard)
            with self._lock:
                if self._start_process is None:
                    channel.interrupt()  # all was ended while it began
                self._channels[session] = channel
            try:
                session.start()
            except RunicornFSError as error:
                with self._lock:
                    self._channels.pop(session, None)
                session.close()
                raise ConnectionLost(channel.last_words() or str(error)) from error
            return session

    def _give_up(self, why: object) -> None:
        if self._start_process is not None:
            log.info("large transfers stay on the connection that there is: %s", why)
        self._start_process = None

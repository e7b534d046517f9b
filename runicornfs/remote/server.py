"""One server in use: everything that the parts above ask of it, whatever happens to the line meanwhile.

Guarantees: no call waits without end; errors are those of `runicornfs.errors` (and OSError from the local file);
nothing but the store below the root is named to the server. `lifeline` keeps the connection, `sessions` lends its SFTP
sessions, `transfer` moves the bytes.

Locks: none here but that of Counters, which protects its numbers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from runicornfs.errors import ConnectionLost, RunicornFSError, StaleFile, StoreUnusable, TimedOut
from runicornfs.remote import connection as ssh
from runicornfs.remote.address import ServerAddress, check_root
from runicornfs.remote.batch import Batch, LookFirst
from runicornfs.remote.bulk import Bulk, Transport
from runicornfs.remote.execution import ExecChannel
from runicornfs.remote.expected import check_expected
from runicornfs.remote.hostkeys import Confirm, HostKeyPolicy
from runicornfs.remote.identities import Credentials
from runicornfs.remote.lifeline import Lifeline, State
from runicornfs.remote.line import Line
from runicornfs.remote.sessions import Sessions
from runicornfs.remote.sftp import OpenFile, SftpSession
from runicornfs.remote.sshconfig import HostSettings
from runicornfs.remote.sshprocess import Entrance, SshProcess, started
from runicornfs.remote.structure import StructureReport, inspect
from runicornfs.remote.timeouts import Timeouts
from runicornfs.remote.transfer import Transfer
from runicornfs.store.files import Job, RemoteFile
from runicornfs.store.paths import check_relative

__all__ = ["Counters", "ExecChannel", "RemoteFile", "Server", "Timeouts"]

_INSPECTION_S = 120.0  # seconds of a look at the store's root, which is some 30 listings at most
_UNKNOWN_LINE = (0.05, 0.0)  # s and bytes/s that `line` answers before anything was measured


class Counters:
    """What has been asked of the server so far. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.connections = 0
        self.sftp_opens = 0
        self.sftp_reads = 0
        self.sftp_bytes = 0
        self.ssh_processes = 0  # that took over large transfers
        self.execs = 0
        self.exec_bytes_in = 0

    def add(self, **amounts: int) -> None:
        """Raise the counters that are named."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)


class _Link:
    """A connection with the sessions and the measurements that belong to it."""

    def __init__(self, connection: ssh.Connection, sessions: Sessions, bulk: Bulk, line: Line) -> None:
        self.connection = connection
        self.sessions = sessions
        self.bulk = bulk
        self.line = line
        self.runs_helper: bool | None = None
        self.careful = False  # a pipe was met where a file should be: every session looks before it opens

    @contextlib.contextmanager
    def borrow(self, path: bytes | None = None) -> Iterator[tuple[SftpSession, bool]]:
        """A session for a transfer, and whether there may come a better one while it runs."""
        with self.bulk.borrow() as session:
            if session is not None:
                with self._with_care(session):
                    yield session, False
                return
        with self.sessions.borrow(path) as session, self._with_care(session):
            yield session, True

    @contextlib.contextmanager
    def _with_care(self, session: SftpSession) -> Iterator[None]:
        session.careful = session.careful or self.careful
        try:
            yield
        finally:
            self.careful = self.careful or session.careful

    @property
    def is_alive(self) -> bool:
        return self.connection.is_alive

    def warm_up(self) -> None:
        """Open the first session ahead of the first read, which it would cost four round trips."""
        with contextlib.suppress(RunicornFSError), self.sessions.borrow():  # whoever needs a session gets the error
            pass

    def wait_closed(self) -> None:
        self.connection.wait_closed()

    def close(self) -> None:
        self.sessions.close()
        self.connection.close()
        self.bulk.close()


class _Portion(Iterator[tuple[int, int]]):
    """What is wanted, as far as it is asked for over one session: all, or until there is a better one for the rest."""

    def __init__(self, wanted: Iterator[tuple[int, int]]) -> None:
        self.bulk: Bulk | None = None  # where a better session may come from
        self.exhausted = False
        self._wanted = wanted

    def __next__(self) -> tuple[int, int]:
        if self.bulk is not None and self.bulk.ready:
            raise StopIteration
        self.exhausted = True
        offset, length = next(self._wanted)
        self.exhausted = False
        if self.bulk is not None:
            self.bulk.moved(length)
        return offset, length


class Server:
    """The server that has the store. Thread-safe. Nothing happens before `connect`.

    `confirm` is asked about a host key that no known_hosts file has; without it such a key is refused. `transport` says
    what carries large transfers: see `bulk`.
    """

    def __init__(
        self,
        settings: HostSettings,
        root: str,
        credentials: Credentials | None = None,
        *,
        confirm: Confirm | None = None,
        timeouts: Timeouts | None = None,
        transport: Transport = "auto",
    ) -> None:
        self.address: ServerAddress = settings.address(check_root(root))
        self.counters = Counters()
        self._settings = settings
        self._credentials = credentials or Credentials()
        self._policy = HostKeyPolicy(settings, confirm)
        self._timeouts = timeouts or Timeouts()
        self._transport = transport
        self._lifeline: Lifeline[_Link] = Lifeline(settings.host, self._open_link, self._timeouts.connect)

    @property
    def state(self) -> State:
        """`disconnected`, `connecting`, `connected` or `reconnecting`."""
        return self._lifeline.state

    @property
    def last_error(self) -> RunicornFSError | None:
        """Why the line is down; None while it is up."""
        return self._lifeline.last_error

    def on_state(self, callback: Callable[[State], None]) -> None:
        """Have `callback` called after each change of state, on the thread that caused it. It must return soon."""
        self._lifeline.on_state(callback)

    def connect(self) -> None:
        """Connect and log in; a server that is connected stays so.

        Raises Unreachable, TimedOut, HostKeyUnknown, HostKeyChanged, AuthenticationFailed, InvalidInput, ProtocolError.
        """
        self._lifeline.connect()

    def log_in_as(self, settings: HostSettings, credentials: Credentials, confirm: Confirm | None) -> None:
        """With what the next connection is made. It has to lead to the same machine and account."""
        self._settings, self._credentials = settings, credentials
        self._policy = HostKeyPolicy(settings, confirm)

    def pursue(self) -> None:
        """Connect in the background, trying again while that may help; returns at once."""
        self._lifeline.pursue()

    def close(self) -> None:
        """Disconnect. Calls that wait end with ConnectionLost or Unreachable; no thread is left."""
        self._lifeline.close()

    def line(self) -> tuple[float, float]:
        """(round trip in seconds, bytes a second) of the line as measured; (0.05, 0) where unknown."""
        link = self._lifeline.link
        if link is None:
            return _UNKNOWN_LINE
        round_trip = link.line.round_trip()
        return (_UNKNOWN_LINE[0] if round_trip is None else round_trip), link.line.rate()

    @property
    def runs_helper(self) -> bool | None:
        """Whether this account can run the helper; None: not tried on this connection. Whoever tries it sets it."""
        link = self._lifeline.link
        return None if link is None else link.runs_helper

    @runs_helper.setter
    def runs_helper(self, runs: bool) -> None:
        link = self._lifeline.link
        if link is not None:
            link.runs_helper = runs

    def inspect_store(self) -> StructureReport:
        """What is at the root. Raises Unreachable, TimedOut, AccessDenied (no SFTP there)."""
        with self._link() as link, link.sessions.borrow() as session, session.within(_INSPECTION_S):
            report = inspect(session, self.address.host, self.address.root)
            return replace(report, python3=link.runs_helper)

    @contextlib.contextmanager
    def session(self) -> Iterator[SftpSession]:
        """An SFTP session of one's own, for as long as the context. Raises Unreachable, TimedOut, AccessDenied."""
        with self._link() as link, link.sessions.borrow() as session:
            yield session

    def verify_store(self) -> StructureReport:
        """As `inspect_store`; raises StoreUnusable with a sentence if there is no usable store."""
        report = self.inspect_store()
        if report.problem is not None:
            raise StoreUnusable(report.problem)
        return report

    @contextlib.contextmanager
    def exec(self, command: str, *, timeout: float | None = None) -> Iterator[ExecChannel]:
        """Run `command` (a constant: no name may ever become part of it) on the server.

        `timeout` in seconds bounds each wait for progress, by default the read time-out. Raises Unreachable, TimedOut,
        AccessDenied (the account may not run commands).
        """
        with self._link() as link:
            channel = link.connection.open_exec(command)
            if timeout is not None:
                channel.settimeout(timeout)
            self.counters.add(execs=1)

            with ExecChannel(channel, lambda size: self.counters.add(exec_bytes_in=size)) as running:
                yield running

    def fill(
        self, file: RemoteFile, wanted: Iterator[tuple[int, int]], fd: int, received: Callable[[int, int], None]
    ) -> None:
        """Copy the (offset, length) ranges that `wanted` yields from `file` to the same places in `fd`.

        Ranges are taken from `wanted` only when there is room for more on the line; while something is on its way, one
        that had nothing is asked again. `received(offset, length)` is called, on this thread, when a whole range has
        been written, or as much of it from its start as there was when the line broke. Returns when all has been
        written and `wanted` has nothing.

        Raises StaleFile (the file there is not this one), MissingOnServer, AccessDenied, TimedOut (no progress for the
        read time-out), Unreachable or ConnectionLost, ProtocolError, OSError (writing failed), and whatever `wanted`
        and `received` raise. What had been received by then stays.
        """
        root = os.fsencode(self.address.root.rstrip("/"))
        path = root + b"/" + os.fsencode(check_relative(file.path))
        portion = _Portion(iter(wanted))
        with self._link() as link:
            while not portion.exhausted:
                with link.borrow(path) as (session, may_change):
                    portion.bulk = link.bulk if may_change else None
                    self._fill_over(session, root, path, file, portion, fd, received)

    def _fill_over(
        self,
        session: SftpSession,
        root: bytes,
        path: bytes,
        file: RemoteFile,
        wanted: Iterator[tuple[int, int]],
        fd: int,
        received: Callable[[int, int], None],
    ) -> None:
        opens = session.opens
        try:
            opened = _open_checked(session, root, path, file)
        finally:
            self.counters.add(sftp_opens=session.opens - opens)
        transfer = Transfer(session, path, opened.handle, fd, received)
        try:
            transfer.run(wanted)
        finally:
            self.counters.add(sftp_reads=transfer.reads, sftp_bytes=transfer.bytes)

    def fill_many(self, jobs: Sequence[Job]) -> list[Exception | None]:
        """Do all these jobs, of small files, in about two round trips; what went wrong with each, None if nothing.

        `received` is called on this thread. The errors are those of `fill`, each of the job that it concerns; one of
        the line concerns all that had not ended. What had been received by then stays.
        """
        errors: list[Exception | None] = [None] * len(jobs)
        left = set(range(len(jobs)))
        crowded: list[int] = []
        try:
            with self._link() as link, link.borrow() as (session, may_change):
                batch = Batch(session, self.address.root, jobs)
                errors, left, crowded = batch.errors, batch.left, batch.crowded
                try:
                    batch.run()
                finally:
                    self.counters.add(sftp_opens=batch.opens, sftp_reads=batch.reads, sftp_bytes=batch.bytes)
                if may_change:
                    link.bulk.moved(batch.bytes)
        except LookFirst:
            again = sorted(left)
            for number, outcome in zip(again, self.fill_many([jobs[number] for number in again]), strict=True):
                errors[number] = outcome
        except Exception as error:
            for number in left:
                errors[number] = error
        else:
            for number in crowded:
                errors[number] = self._alone(jobs[number])
        return errors

    def _alone(self, job: Job) -> Exception | None:
        try:
            self.fill(job.file, iter(job.ranges), job.fd, job.received)
        except Exception as error:
            return error
        return None

    @contextlib.contextmanager
    def _link(self) -> Iterator[_Link]:
        """The link to use. If it turns out to be dead it is closed, so that the next call gets another."""
        link = self._lifeline.usable()
        began = time.monotonic()
        try:
            yield link
        except ConnectionLost:  # perhaps of one session, which says nothing about the line
            if link.connection.has_ended():
                link.close()
            raise
        except TimedOut:
            silence = time.monotonic() - max(began, link.connection.last_heard)  # before, nobody had asked
            if link.connection.has_ended() or silence >= self._timeouts.read:
                link.close()
            raise

    def _open_link(self, started: Callable[[socket.socket], None]) -> _Link:
        connection = ssh.connect(self._settings, self._credentials, self._policy, self._timeouts, started)
        self.counters.add(connections=1)
        line = Line()
        entrance = None if self._transport == "paramiko" else connection.entrance
        start = None if entrance is None else partial(self._start_process, self._settings, entrance)
        bulk = Bulk(start, line, connection.note_progress, always=self._transport == "ssh")
        return _Link(connection, Sessions(connection, line, self._timeouts.read), bulk, line)

    @contextlib.contextmanager
    def _start_process(self, settings: HostSettings, entrance: Entrance) -> Iterator[SshProcess]:
        with started(settings, entrance, self._timeouts) as process:
            yield process
        self.counters.add(ssh_processes=1)


def _open_checked(session: SftpSession, root: bytes, path: bytes, file: RemoteFile) -> OpenFile:
    """`file` open in this session, the same as the catalog describes. Raises StaleFile otherwise."""
    opened = session.open(path, file.content, root)
    try:
        check_expected(opened.attributes, file)
    except StaleFile:
        session.forget(path)
        raise
    return opened

"""The socket in a cache folder, through which other processes of the user read what the owner of the folder keeps.

A *session* is one guest process. It lives as long as the guest's first connection, over which it only hears of events;
further connections, which name the session's token, bring one request after the other. When the session ends, however
the guest did, all that it had open is closed.

While a content is partial its bytes travel over the socket, so that everything about partial contents is decided in one
process. Once it is whole its guests get a descriptor of the file and ask no more (decision 7).

A thread serves each connection. `_lock` protects the sessions and connections, a session's own lock what it has open;
no lock is held while contents are asked or a guest is waited for. A guest that does not take its events is let go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from runicornfs.content import wire
from runicornfs.content.contents import Contents, Reader
from runicornfs.content.identity import Identity
from runicornfs.content.reader import CachedReader
from runicornfs.content.session import Session
from runicornfs.content.wire import Connection, Frame
from runicornfs.errors import InvalidInput, OwnerGone, ProtocolError, Refused, RunicornFSError

log = logging.getLogger("runicornfs.content")

Handler = Callable[[dict[str, Any]], object]

# What a guest may ask of contents, besides reading. All of it takes and returns plain data and flat records.
METHODS = frozenset(
    [
        "cached_bytes",
        "moves",
        "free_bytes",
        "status",
        "files",
        "pin",
        "unpin",
        "pins",
        "cleanup",
        "demote",
        "evict",
        "clear",
        "verify",
        "verification",
    ]
)

# An event of ours: a content was dropped.
DROPPED = "dropped"
# The most that one read may ask for.
MAX_READ = 2 << 20
# Some dozens of guests with some requests each. Each connection costs a thread and a descriptor.
MAX_CONNECTIONS = 512
# A guest hears this often that we are there, also over each connection on which it waits for an answer.
BEAT_S = 5.0
# Whoever has connected says within this time who it is.
GREETING_S = 10.0
# What waits for the server when the socket is closed is not waited for any longer.
CLOSING_S = 5.0
# Without descriptors nobody can be let in; tried again so often.
PAUSE_S = 0.25

T = TypeVar("T")


class OwnerSocket:
    """Serves `contents`, and `handlers` by name, to guests at the socket in `folder`. Thread-safe.

    The caller has the folder's lock for as long as this is open. A handler takes and returns what JSON can say.
    """

    def __init__(self, folder: Path, contents: Contents, handlers: Mapping[str, Handler]) -> None:
        """Raises Refused where there can be no socket in the folder."""
        self._folder = folder
        self._contents = contents
        self._handlers = dict(handlers)
        self._requests: dict[str, Callable[[Session, Connection, Frame], None]] = {
            "open": self._open,
            "read": self._read,
            "close": self._close,
            "call": self._call,
        }
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._connections: dict[Connection, threading.Thread] = {}
        self._busy: set[Connection] = set()
        self._closing = threading.Event()
        self._listener = wire.listen(folder)
        contents.on_dropped(lambda key: self.announce(DROPPED, {"key": key}))
        self._threads = [
            threading.Thread(target=self._let_in, name="runicornfs-owner-door", daemon=True),
            threading.Thread(target=self._beat, name="runicornfs-owner-beat", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def announce(self, event: str, data: dict[str, Any]) -> None:
        """Tells all guests, without waiting for any."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            if not session.events.post({"event": event, "data": data}):
                log.info("a guest does not take what it is told and is let go")
                session.events.end()

    def dismiss(self) -> None:
        """Lets nobody in any more and ends all sessions: the guests look for another owner. Waits for none of them; a
        second time does nothing."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        with contextlib.suppress(OSError):
            (self._folder / wire.SOCKET_NAME).unlink()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                connection.end()

    def close(self) -> None:
        """Ends all sessions, and what they wait for. A second time does nothing."""
        self.dismiss()
        with self._lock:
            threads = list(self._connections.values())
        deadline = time.monotonic() + CLOSING_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # Letting guests in

    def _let_in(self) -> None:
        while not self._closing.is_set():
            try:
                connected, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    log.warning("no other process can be let in: %s", error.strerror)
                self._closing.wait(PAUSE_S)
                continue
            if not wire.is_ours(connected):
                log.warning("a process of another user was refused at the cache's socket")
                connected.close()
                continue
            self._admit(Connection(connected))

    def _admit(self, connection: Connection) -> None:
        thread = threading.Thread(target=self._serve, args=[connection], name="runicornfs-owner", daemon=True)
        with self._lock:
            if len(self._connections) < MAX_CONNECTIONS:
                with contextlib.suppress(RuntimeError):  # there can be no more threads
                    thread.start()
                    self._connections[connection] = thread
                    return
        refusal = Refused(f"the process that owns {self._folder} serves as many readers as it can: try again later")
        connection.post({"error": wire.described(refusal)})
        connection.close()

    def _serve(self, connection: Connection) -> None:
        try:
            if connection.readable(GREETING_S) and (frame := connection.receive()):
                self._greet(connection, frame.header)
        except RunicornFSError as error:
            log.info("a connection of a guest ends: %s", error)
        except Exception:
            log.exception("a guest could not be served")
        finally:
            with self._lock:
                self._connections.pop(connection)
            connection.close()

    def _greet(self, connection: Connection, header: dict[str, Any]) -> None:
        """Serves a connection by what it says first."""
        try:
            if header.get("version") != wire.VERSION:
                raise Refused(
                    f"the process that owns {self._folder} (process {os.getpid()}) is another version of runicornfs:"
                    " use the same, or end it"
                )
            if header.get("op") == "hello":
                self._live(Session(connection))
            else:
                self._work(connection, self._session(header))
        except (Refused, OwnerGone) as error:
            connection.send({"error": wire.described(error)})

    def _session(self, header: dict[str, Any]) -> Session:
        with self._lock:
            session = self._sessions.get(_field(header, "token", str))
        if session is None:
            raise OwnerGone("the session has ended")
        return session

    def _live(self, session: Session) -> None:
        """One session, from its beginning to its end."""
        with self._lock:
            self._sessions[session.token] = session
        try:
            mismatches = self._contents.mismatches()
            session.events.send({"token": session.token, "pid": os.getpid(), "mismatches": mismatches})
            if session.events.receive() is not None:
                raise ProtocolError("a guest speaks where it should listen")
        finally:
            with self._lock:
                del self._sessions[session.token]
            session.end()

    # Requests

    def _work(self, connection: Connection, session: Session) -> None:
        """One connection of a session: an answer to each request, until either ends."""
        with session.joined_by(connection):
            connection.send({})
            while (frame := connection.receive()) is not None:
                answer = self._requests.get(_field(frame.header, "op", str))
                if answer is None:
                    raise ProtocolError("a guest asks for what there is not")
                with self._lock:
                    self._busy.add(connection)
                try:
                    answer(session, connection, frame)
                finally:
                    with self._lock:
                        self._busy.discard(connection)

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_S):
            with self._lock:
                listening = [*self._busy, *(session.events for session in self._sessions.values())]
            for connection in listening:
                connection.beat()

    def _open(self, session: Session, connection: Connection, frame: Frame) -> None:
        identity, given = _identity(frame.header), _field(frame.header, "given", bool)
        try:
            reader = self._contents.open(identity, given)
            handle = session.add(reader)
        except Exception as error:
            connection.send(_refusal(error))
            return
        with _shared(reader) as fd:
            answer = {"handle": handle, "state": reader.state, "mismatches": self._contents.mismatches()}
            connection.send(answer, fd=fd)

    def _read(self, session: Session, connection: Connection, frame: Frame) -> None:
        reader = session.reader(_field(frame.header, "handle", int))
        offset, size = _field(frame.header, "offset", int), _field(frame.header, "size", int)
        if offset < 0 or not 0 <= size <= MAX_READ:
            raise ProtocolError(f"a guest reads {size} bytes at {offset}")
        try:
            data = reader.read(offset, size, connection.gone)
        except Exception as error:
            connection.send(_refusal(error))
            return
        with _shared(reader) as fd:
            connection.send({"state": reader.state}, data, fd)

    def _close(self, session: Session, connection: Connection, frame: Frame) -> None:
        reader = session.remove(_field(frame.header, "handle", int))
        if isinstance(reader, CachedReader):
            reader.also_served(_field(frame.header, "hits", int), _field(frame.header, "bytes_served", int))
        reader.close()
        connection.send({})

    def _call(self, session: Session, connection: Connection, frame: Frame) -> None:
        name = _field(frame.header, "name", str)
        arguments = _parsed(frame.body)
        try:
            if name in METHODS:
                result = getattr(self._contents, name)(**arguments)
            elif name in self._handlers:
                result = self._handlers[name](arguments)
            else:
                raise InvalidInput(f"the process that owns the cache does not know how to {name}")
            body = json.dumps(result, default=dataclasses.asdict).encode()
        except Exception as error:
            connection.send(_refusal(error))
            return
        connection.send({}, body)


def _field(header: dict[str, Any], name: str, kind: type[T]) -> T:
    value = header.get(name)
    if not isinstance(value, kind):
        raise ProtocolError(f"a guest sends no {name}")
    return value


def _identity(header: dict[str, Any]) -> Identity:
    sha256, mtime_s = header.get("sha256"), header.get("mtime_s")
    try:
        return Identity(
            key=_field(header, "key", str),
            path=_field(header, "path", str),
            size=_field(header, "size", int),
            sha256=None if sha256 is None else bytes.fromhex(sha256),
            mtime_s=None if mtime_s is None else int(mtime_s),
        )
    except (TypeError, ValueError) as error:
        raise ProtocolError("a guest opens what is no identity") from error


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the arguments of a guest are no JSON") from error
    if not isinstance(arguments, dict):
        raise ProtocolError("the arguments of a guest are no JSON object")
    return arguments


def _refusal(error: Exception) -> dict[str, Any]:
    if not isinstance(error, RunicornFSError | OSError):
        log.error("what a guest asked for failed in a way that is not known", exc_info=error)
    return {"error": wire.described(error)}


@contextlib.contextmanager
def _shared(reader: Reader) -> Iterator[int | None]:
    """A descriptor of what is open, to be sent away; None while there is none to be had."""
    fd = None
    if isinstance(reader, CachedReader):
        with contextlib.suppress(OSError, RunicornFSError):  # out of descriptors, a full disk: the bytes travel instead
            fd = reader.share()
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)

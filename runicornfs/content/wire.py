"""What goes between the process that owns a cache folder and its guests: frames over a Unix stream socket.

A frame is two lengths, a header (a JSON object) and a body (bytes); a file descriptor may come with it. An error
travels as its code and message and comes out as the same class. Both ends belong to the same user, who is checked.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runicornfs.errors import ConnectionLost, OwnerGone, ProtocolError, Refused, RunicornFSError, TimedOut

# Changes with anything that is said over the socket. Both ends must have the same.
VERSION = 2
SOCKET_NAME = "owner.sock"

# Headers are short. The longest bodies are lists of all that is cached, at some 200 bytes a content.
MAX_HEADER = 1 << 20
MAX_BODY = 64 << 20
# A frame that has begun goes on at least this soon, or the other end is stuck.
STALL_S = 20.0
# How often a full backlog is tried again.
BACKLOG = 128
BACKLOG_POLL_S = 0.05

_LENGTHS = struct.Struct("!II")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_FD = array.array("i").itemsize


class Frame(NamedTuple):
    """What was received. The descriptor, if there is one, is the receiver's to close."""

    header: dict[str, Any]
    body: bytes
    fd: int | None


class Connection:
    """One end of a connected socket. One thread at a time receives; any may send, and `_sending` lets them take turns.

    Raises ConnectionLost where the other end is gone, TimedOut where it does not go on with a frame, ProtocolError for
    what is no frame. After any of them the connection is good for nothing but to be closed.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._sending = threading.Lock()

    def send(self, header: dict[str, Any], body: bytes = b"", fd: int | None = None) -> None:
        """Raises ProtocolError, with nothing sent, where it is too long."""
        parts = [memoryview(_packed(header, body)), memoryview(body)]
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        with self._sending, _losses():
            while parts:
                try:
                    sent = self._socket.sendmsg(parts, rights)
                except BlockingIOError:
                    self._wait(select.POLLOUT)
                    continue
                rights = []
                while parts and sent >= len(parts[0]):
                    sent -= len(parts.pop(0))
                if parts:
                    parts[0] = parts[0][sent:]

    def post(self, header: dict[str, Any]) -> bool:
        """Sends without waiting; False if the other end takes nothing any more, which is the end of the connection."""
        frame = _packed(header, b"")
        with self._sending:
            try:
                return self._socket.send(frame) == len(frame)
            except OSError:
                return False

    def beat(self) -> None:
        """Says, without waiting, that the answer is being worked on. Not if something else is just being sent."""
        if self._sending.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError):  # who takes nothing does not miss it; it is too short to be torn
                    self._socket.send(_BEAT)
            finally:
                self._sending.release()

    def receive(self) -> Frame | None:
        """The next frame, waiting for as long as none begins; None where the other end has closed the connection."""
        self.readable(None)
        with _losses():
            prefix, fd = self._prefix()
        try:
            if not prefix:
                return None
            header_size, body_size = _LENGTHS.unpack(prefix)
            if header_size > MAX_HEADER or body_size > MAX_BODY:
                raise ProtocolError(f"a frame of {header_size} and {body_size} bytes is too long")
            with _losses():
                header = _parsed(self._exactly(header_size))
                frame = Frame(header, self._exactly(body_size), fd)
            fd = None
            return frame
        finally:
            if fd is not None:
                os.close(fd)

    def readable(self, timeout_s: float | None) -> bool:
        """Waits so long for something to receive, be it the end; None: for ever."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def gone(self) -> bool:
        """Whether the other end has closed the connection."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end(self) -> None:
        """Wakes whoever waits on either end; closing it is left to the thread that has it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.end()
        with self._sending:  # nobody sends into a descriptor that is somebody else's by then
            self._socket.close()

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(STALL_S * 1000):
            raise TimedOut("the process at the other end of the cache's socket does not go on: it may be stopped")

    def _prefix(self) -> tuple[bytes, int | None]:
        """The lengths and the descriptor that came with them; empty at the end of the connection."""
        data = b""
        fd: int | None = None
        while len(data) < _LENGTHS.size:
            try:
                more, ancillary, _, _ = self._socket.recvmsg(
                    _LENGTHS.size - len(data), socket.CMSG_LEN(_FD), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            for level, kind, rights in ancillary:
                if (level, kind, len(rights)) == (socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD) and fd is None:
                    (fd,) = array.array("i", rights)
            if not more:
                if data:
                    raise ConnectionLost("the cache's socket was closed in the middle of a frame")
                break
            data += more
        return data, fd

    def _exactly(self, size: int) -> bytes:
        buffer = bytearray(size)
        left = memoryview(buffer)
        while left:
            try:
                received = self._socket.recv_into(left)
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            if not received:
                raise ConnectionLost("the cache's socket was closed in the middle of a frame")
            left = left[received:]
        return bytes(buffer)


def listen(folder: Path) -> socket.socket:
    """The socket of the process that owns `folder`, in place of what an earlier one has left. Raises Refused."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = folder / SOCKET_NAME
        if path.is_socket():
            path.unlink()
        with _address(folder) as address:
            listener.bind(address)
            os.chmod(address, stat.S_IRUSR | stat.S_IWUSR)  # before `listen` nobody can connect
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Refused(f"{folder} cannot be shared with other processes: {error}") from error
    return listener


def connect(folder: Path) -> Connection:
    """Connects to the owner of `folder`. Raises OwnerGone where there is none, TimedOut, Refused, OSError."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    deadline = time.monotonic() + STALL_S
    try:
        with _address(folder) as address:
            while True:
                try:
                    connecting.connect(address)
                    break
                except BlockingIOError:  # more than the backlog are waiting to be let in
                    if time.monotonic() > deadline:
                        raise TimedOut(f"the process that owns {folder} lets nobody in: it may be stopped") from None
                    time.sleep(BACKLOG_POLL_S)
        if not is_ours(connecting):
            raise Refused(f"the process that owns {folder} belongs to another user")
    except (ConnectionError, FileNotFoundError) as error:
        connecting.close()
        raise OwnerGone(f"no process shares the cache folder {folder}") from error
    except BaseException:
        connecting.close()
        raise
    return Connection(connecting)


def is_ours(connected: socket.socket) -> bool:
    """Whether the process at the other end runs as the same user."""
    _, uid, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(uid == os.geteuid())


def described(error: Exception) -> dict[str, Any]:
    """An error as it travels. What is not ours and no OSError travels without its text: that is in the log."""
    if isinstance(error, RunicornFSError):
        details = {name: value for name, value in vars(error).items() if not name.startswith("_")}
        return {"code": error.code, "message": str(error), "details": details}
    if isinstance(error, OSError) and error.errno:
        return {"errno": error.errno, "message": os.strerror(error.errno)}
    return {"code": RunicornFSError.code, "message": "the process that owns the cache failed: its log says how"}


def error_of(description: dict[str, Any]) -> Exception:
    """The error that was `described`."""
    if "errno" in description:
        return OSError(description["errno"], description["message"])
    kind = _KINDS.get(description["code"], RunicornFSError)
    return kind(description["message"], **description.get("details", {}))


def _packed(header: dict[str, Any], body: bytes) -> bytes:
    """Lengths and header."""
    text = json.dumps(header).encode()
    if len(text) > MAX_HEADER or len(body) > MAX_BODY:
        raise ProtocolError(f"a message of {len(text)} and {len(body)} bytes is too long for the cache's socket")
    return _LENGTHS.pack(len(text), len(body)) + text


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the header of a frame is no JSON") from error
    if not isinstance(header, dict):
        raise ProtocolError("the header of a frame is no JSON object")
    return header


@contextlib.contextmanager
def _losses() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConnectionLost(f"the cache's socket was closed: {error.strerror}") from error


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    """A path of the socket that is short whatever the folder's is: Unix sockets take 107 bytes."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


def _family(kind: type[RunicornFSError]) -> Iterator[type[RunicornFSError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


_KINDS = {kind.code: kind for kind in _family(RunicornFSError)}
_BEAT = _packed({"beat": True}, b"")

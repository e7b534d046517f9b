"""SFTP version 3 on the wire: packets out of bytes, bytes out of packets.

After draft-ietf-secsh-filexfer-02 and OpenSSH's PROTOCOL. Nothing here waits or decides. Every length that the other
side names is checked before it is used; what does not fit is a ProtocolError. The data of a file is handed on as views
of what was received: it is never copied on its way.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from runicornfs.errors import ProtocolError, ServerError

VERSION = 3  # the version that every server speaks
LARGEST_PACKET = (256 << 10) + 1024  # bytes: OpenSSH's largest, 256 KiB, and some room; a larger one is nonsense
LARGEST_HANDLE = 256  # bytes, by the protocol
READ_FOR_READING = 0x01  # SSH_FXF_READ
_UINT32 = struct.Struct(">I")
_RANGE = struct.Struct(">QI")  # offset, length
_HEAD = struct.Struct(">IBI")  # length, kind, id (in VERSION: the version)
_KIND_AND_ID = struct.Struct(">BI")  # what of the head follows the length
_HEAD_REST = _HEAD.size - _UINT32.size  # bytes of the head that count into the packet's length


class Kind(IntEnum):
    """The packets in use."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Code(IntEnum):
    """The codes of a STATUS that mean something of their own to us."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the server says about a file; None where it does not."""

    size: int | None = None
    mode: int | None = None
    mtime_s: int | None = None
    owner: tuple[int, int] | None = None  # uid and gid, the server's

    @property
    def are_complete(self) -> bool:
        """Whether the server has said what it is and, where that matters, which size and time it has."""
        return self.mode is not None and (self.is_directory or None not in (self.size, self.mtime_s))

    @property
    def is_directory(self) -> bool:
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return self.mode is not None and stat.S_ISLNK(self.mode)

    @property
    def may_block(self) -> bool:
        """Whether a server that opens it may wait for somebody else: a pipe, a device, a link to one."""
        kind = 0 if self.mode is None else stat.S_IFMT(self.mode)
        return kind not in (0, stat.S_IFREG, stat.S_IFDIR)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, or may be one: a server need not say."""
        return self.mode is None or stat.S_IFMT(self.mode) == 0 or stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet from the server. Of DATA `body` is the file's data alone, else all that follows the id."""

    kind: int
    id: int
    body: list[memoryview]
    size: int

    def fields(self) -> Fields:
        """The body for taking apart (not for DATA)."""
        return Fields(b"".join(self.body))


class Fields:
    """Takes the body of a packet apart, front to back."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def uint64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        return self._take(self.uint32())

    def attributes(self) -> Attributes:
        flags = self.uint32()
        size = self.uint64() if flags & 0x01 else None
        owner = (self.uint32(), self.uint32()) if flags & 0x02 else None
        mode = self.uint32() if flags & 0x04 else None
        mtime_s = None
        if flags & 0x08:
            self._take(4)  # time of the last access
            mtime_s = self.uint32()
        if flags & 0x80000000:
            for _ in range(self.uint32()):
                self.string()
                self.string()
        return Attributes(size, mode, mtime_s, owner)

    def names(self) -> list[tuple[bytes, Attributes]]:
        """The body of NAME: names of a directory with their attributes."""
        found = []
        for _ in range(self.uint32()):
            name = self.string()
            self.string()  # the line that `ls -l` would show
            found.append((name, self.attributes()))
        return found

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """The body of VERSION: extensions and their data, to the end."""
        found = []
        while not self.at_end:
            found.append((self.string(), self.string()))
        return found

    def limits(self) -> tuple[int, int]:
        """The answer to limits@openssh.com: bytes of the largest READ and number of open handles; 0: no limit known."""
        self.uint64()  # the largest packet
        largest_read = self.uint64()
        self.uint64()  # the largest WRITE
        return largest_read, self.uint64()

    @property
    def at_end(self) -> bool:
        return self._position >= len(self._body)

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._body):
            raise ProtocolError("the server sent an SFTP packet that ends too early")
        part = self._body[self._position : end]
        self._position = end
        return part


class PacketReader:
    """Cuts a stream of bytes into packets. `receive` returns the next piece of it, never b"": it raises at the end.

    `cut` is the file data in the middle of which it has raised, if it has: what of it came before.
    """

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self.cut: Packet | None = None
        self._receive = receive
        self._chunk = memoryview(b"")

    def next(self) -> Packet:
        """The next packet, waited for. Raises ProtocolError and what `receive` raises."""
        (length,) = _UINT32.unpack(self._exactly(_UINT32.size))
        if not _HEAD_REST <= length <= LARGEST_PACKET:
            raise ProtocolError(f"the server sent an SFTP packet with an impossible length ({length} bytes)")
        kind, packet_id = _KIND_AND_ID.unpack(self._exactly(_HEAD_REST))
        rest = length - _HEAD_REST
        if kind == Kind.DATA:
            if rest < _UINT32.size:
                raise ProtocolError("the server sent file data without a length")
            (size,) = _UINT32.unpack(self._exactly(_UINT32.size))
            if size != rest - _UINT32.size:
                raise ProtocolError(f"the server announced {size} bytes of file data and sent {rest - _UINT32.size}")
            rest = size
        body: list[memoryview] = []
        try:
            self._take(rest, body)
        except ServerError:
            if kind == Kind.DATA:
                self.cut = Packet(kind, packet_id, body, sum(map(len, body)))
            raise
        return Packet(kind, packet_id, body, rest)

    def _exactly(self, count: int) -> bytes:
        chunk = self._chunk
        if len(chunk) >= count:
            self._chunk = chunk[count:]
            return bytes(chunk[:count])
        parts: list[memoryview] = []
        self._take(count, parts)
        return b"".join(parts)

    def _take(self, count: int, parts: list[memoryview]) -> None:
        """The next bytes, appended piece by piece."""
        while count:
            chunk = self._chunk
            if not chunk:
                chunk = memoryview(self._receive())
            part = chunk[:count]
            self._chunk = chunk[len(part) :]
            count -= len(part)
            parts.append(part)


def packet(kind: Kind, packet_id: int, *fields: bytes) -> bytes:
    """A packet for the server."""
    return _HEAD.pack(_HEAD_REST + sum(map(len, fields)), kind, packet_id) + b"".join(fields)


def string(value: bytes) -> bytes:
    """A string with its length in front."""
    return _UINT32.pack(len(value)) + value


def uint32(value: int) -> bytes:
    return _UINT32.pack(value)


def read_packet(packet_id: int, handle: bytes, offset: int, length: int) -> bytes:
    """A READ of `length` bytes at `offset`."""
    return packet(Kind.READ, packet_id, read_body(handle, offset, length))


def read_body(handle: bytes, offset: int, length: int) -> bytes:
    return string(handle) + _RANGE.pack(offset, length)

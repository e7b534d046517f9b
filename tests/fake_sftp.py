"""An SFTP server in memory that misbehaves as told: the other end of a session's channel, without threads or time."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping

from runicornfs.remote.packets import Code, Fields, Kind, packet, string, uint32

Answer = tuple[Kind, int, bytes]


class FakeChannel:
    """What is sent is answered at once; `recv` hands the answers out. With nothing left to say it times out.

    files: path → content; a path that ends in "/" is a folder. limits: the largest READ it takes, None: it knows no
    limits. handles: how many it lets be open; says_handles: how many it says that it does. tells_attributes: whether
    the names in a folder come with them. refuses: paths that are not opened, and the code of the answer. short: how
    many bytes it returns for a READ of this length. piece: how many bytes `recv` returns at most.
    shuffle: answers come in any order. tamper: makes of each answer the packets that are really sent.
    """

    def __init__(
        self,
        files: Mapping[bytes, bytes],
        *,
        limits: int | None = 255 << 10,
        handles: int = 1000,
        says_handles: int | None = None,
        tells_attributes: bool = True,
        refuses: Mapping[bytes, int] | None = None,
        short: Callable[[int], int] = lambda length: length,
        piece: Callable[[], int] = lambda: 1 << 20,
        shuffle: random.Random | None = None,
        tamper: Callable[[Kind, int, bytes], list[bytes]] = lambda kind, id_, body: [packet(kind, id_, body)],
    ) -> None:
        self.files = dict(files)
        self.requests: list[Kind] = []
        self.reads: list[tuple[int, int]] = []
        self.open_handles: dict[bytes, bytes] = {}
        self.mtime_s = 1_700_000_000
        self.largest_queue = 0  # bytes of file data that waited to be received, at most
        self.ends = False  # nothing left to say means the end of the stream, not silence
        self.closed = False
        self.tamper = tamper
        self.most_handles = 0  # that were open at once
        self._limits = limits
        self.handles = handles
        self._says_handles = handles if says_handles is None else says_handles
        self._tells_attributes = tells_attributes
        self._refuses = dict(refuses or {})
        self._short = short
        self._piece = piece
        self._shuffle = shuffle
        self._sent = b""
        self._answers: list[Answer] = []
        self._stream = b""
        self._opened = 0
        self._listed: set[bytes] = set()

    def send(self, s: bytes) -> int:
        if self.closed:
            raise OSError("Socket is closed")
        taken = s[: max(self._piece(), 1)]
        self._sent += taken
        while len(self._sent) >= 4 and len(self._sent) >= 4 + int.from_bytes(self._sent[:4], "big"):
            length, kind, id_ = struct.unpack_from(">IBI", self._sent)
            body, self._sent = self._sent[9 : 4 + length], self._sent[4 + length :]
            self.requests.append(Kind(kind))
            self._answers.append(self._answer(Kind(kind), id_, Fields(body)))
        waiting = sum(len(body) for kind, _, body in self._answers if kind == Kind.DATA)
        self.largest_queue = max(self.largest_queue, waiting)
        return len(taken)

    def recv(self, nbytes: int) -> bytes:
        if self.closed:
            return b""
        while not self._stream:
            if not self._answers:
                if self.ends:
                    return b""
                raise TimeoutError
            at = self._shuffle.randrange(len(self._answers)) if self._shuffle else 0
            self._stream = b"".join(self.tamper(*self._answers.pop(at)))
        size = min(max(self._piece(), 1), nbytes)
        part, self._stream = self._stream[:size], self._stream[size:]
        return part

    def close(self) -> None:
        self.closed = True

    def _answer(self, kind: Kind, id_: int, fields: Fields) -> Answer:
        if kind == Kind.INIT:
            extensions = string(b"posix-rename@openssh.com") + string(b"1")
            if self._limits is not None:
                extensions += string(b"limits@openssh.com") + string(b"1")
            return Kind.VERSION, 3, extensions
        if kind == Kind.EXTENDED:
            return (
                Kind.EXTENDED_REPLY,
                id_,
                struct.pack(">QQQQ", 256 << 10, self._limits or 0, 255 << 10, self._says_handles),
            )
        if kind in (Kind.OPEN, Kind.OPENDIR, Kind.STAT, Kind.LSTAT):
            path = fields.string()
            wanted = path + b"/" if path + b"/" in self.files else path
            if wanted not in self.files:
                return self._status(id_, Code.NO_SUCH_FILE)
            if kind in (Kind.STAT, Kind.LSTAT):
                return Kind.ATTRS, id_, self._attributes(wanted)
            if path in self._refuses:
                return self._status(id_, self._refuses[path])
            if len(self.open_handles) >= self.handles:
                return self._status(id_, 4)
            self._opened += 1
            handle = b"handle %d" % self._opened
            self.open_handles[handle] = wanted
            self.most_handles = max(self.most_handles, len(self.open_handles))
            return Kind.HANDLE, id_, string(handle)
        handle = fields.string()
        if handle not in self.open_handles:
            return self._status(id_, 4)
        if kind == Kind.CLOSE:
            del self.open_handles[handle]
            return self._status(id_, Code.OK)
        path = self.open_handles[handle]
        if kind == Kind.FSTAT:
            return Kind.ATTRS, id_, self._attributes(path)
        if kind == Kind.READDIR:
            return self._names(id_, handle, path)
        assert kind == Kind.READ
        offset, length = fields.uint64(), fields.uint32()
        self.reads.append((offset, length))
        data = self.files[path][offset : offset + max(self._short(length), 1)][:length]
        return (Kind.DATA, id_, string(data)) if data else self._status(id_, Code.EOF)

    def _names(self, id_: int, handle: bytes, folder: bytes) -> Answer:
        if handle in self._listed:
            return self._status(id_, Code.EOF)
        self._listed.add(handle)
        names = {path[len(folder) :] for path in self.files if path.startswith(folder) and path != folder}
        entries = [(name.rstrip(b"/"), folder + name) for name in sorted(names) if b"/" not in name.rstrip(b"/")]
        body = b"".join(string(name) + string(b"-rw-r--r--") + self._told(path) for name, path in entries)
        dots = b"".join(string(name) + string(b"") + uint32(0) for name in (b".", b".."))
        return Kind.NAME, id_, uint32(len(entries) + 2) + dots + body

    def _told(self, path: bytes) -> bytes:
        return self._attributes(path) if self._tells_attributes else uint32(0)

    def _attributes(self, path: bytes) -> bytes:
        mode = 0o040755 if path.endswith(b"/") else 0o100644
        return struct.pack(">IQIIIII", 0x0F, len(self.files[path]), 0, 0, mode, self.mtime_s, self.mtime_s)

    def _status(self, id_: int, code: int) -> Answer:
        return Kind.STATUS, id_, uint32(code) + string(b"a message") + string(b"")

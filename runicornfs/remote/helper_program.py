"""The program that runs on the server: walks the store and tells what changed.

It travels to the server, behind `runicornfs.remote.walk`, over the standard input of a constant command (see
`runicornfs.remote.helper`) and leaves nothing there; local mode calls `scan` in our own process. So it knows the
standard library and the walk, and nothing else, and runs on Python 3.8.

What it promises: it only reads; a document's token belongs to exactly the bytes that are sent with it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import sys
import time
import zlib
from itertools import islice

from runicornfs.remote.walk import (
    ALIVE,
    DOCUMENT,
    GONE,
    INDEX,
    NAMES_LIMIT,
    ONLY,
    PLAN,
    READ_TRIES,
    WARNING,
    Status,
    Step,
    StoreMissing,
    Walk,
    check_document,
)

TYPE_CHECKING = False  # typing.TYPE_CHECKING without loading typing on the server
if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from typing import BinaryIO

    from runicornfs.remote.walk import Entry, Event

# Further kinds on the wire, beside those of the walk's events; `runicornfs.remote.helper` reads them.
END, FAILED = range(20, 22)
FRAME = struct.Struct(">BII")  # kind, length of the header (a JSON list), length of the body
ENTRY = struct.Struct(">HB")  # in the list of what is known: length of the path, length of the token
# A long walk over a slow disk in which nothing changed has nothing to tell: this often it says that it is at work.
ALIVE_EVERY_S = 2.0
PIECE = 64 * 1024  # bytes of what is known that are taken at a time


def token_of(status: os.stat_result) -> bytes:
    """Changes when the file does: an alias can move without the size changing, a file be replaced within one tick."""
    facts = struct.pack(
        ">QqqQ",
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino & 0xFFFFFFFFFFFFFFFF,
    )
    return hashlib.blake2b(facts, digest_size=8).digest()


def status_of(status: os.stat_result) -> Status:
    return Status(stat.S_ISREG(status.st_mode), status.st_size, status.st_mtime_ns, token_of(status))


class DiskEntry:
    """A name in a folder of this machine."""

    __slots__ = ("folder", "is_folder", "is_link", "name")

    def __init__(self, folder: bytes, name: bytes, is_folder: bool, is_link: bool) -> None:
        self.folder = folder
        self.name = name
        self.is_folder = is_folder
        self.is_link = is_link

    def status(self) -> Status:
        return status_of(os.lstat(os.path.join(self.folder, self.name)))


class Scan:
    """A walk over the store at `root` on a disk of this machine."""

    def __init__(self, root: bytes, known: dict[bytes, bytes], artifact: bytes | None = None) -> None:
        self.root = root
        self.walk = Walk(root, known, artifact)
        self.told = time.monotonic()

    def events(self) -> Iterator[Event]:
        """Yields `(kind, …)`, lists and indexes first, then a PLAN with the totals, then all other documents."""
        walk = self.walk
        while walk.steps:
            if time.monotonic() - self.told > ALIVE_EVERY_S:
                self.told = time.monotonic()
                yield (ALIVE,)
            step = walk.steps.pop()
            yield from self.document(step) if step.place == INDEX else self.folder(step)
        yield walk.plan()
        for step in walk.postponed:
            yield from self.document(step)
        yield from walk.gone()

    def folder(self, step: Step) -> Iterator[Event]:
        try:
            entries = self.entries(step)
        except OSError as error:
            return self.walk.not_listed(step, error)
        return self.walk.listed(step, entries)

    def entries(self, step: Step) -> list[Entry]:
        folder = self.local(step.path)
        if step.place in ONLY:
            name = ONLY[step.place]
            mode = os.lstat(os.path.join(folder, name)).st_mode
            return [DiskEntry(folder, name, stat.S_ISDIR(mode), stat.S_ISLNK(mode))]
        with os.scandir(folder) as entries:
            found: list[Entry] = [
                DiskEntry(folder, entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink())
                for entry in islice(entries, NAMES_LIMIT + 1)
            ]
        if len(found) > NAMES_LIMIT:
            raise OSError(errno.EFBIG, f"it has more than {NAMES_LIMIT} entries")
        return found

    def document(self, step: Step) -> Iterator[Event]:
        try:
            content, status = self.content(self.local(step.path))
        except OSError as error:
            return self.walk.not_read(step, error)
        return self.walk.read(step, content, status)

    def content(self, path: bytes) -> tuple[bytes, Status]:
        """The content of a file and the status that belongs to it: read again if it changed meanwhile."""
        for _ in range(READ_TRIES):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                before = status_of(os.fstat(descriptor))
                check_document(path, before)
                content = read_up_to(descriptor, before.size + 1)
                after = status_of(os.fstat(descriptor))
            finally:
                os.close(descriptor)
            if before.token == after.token and len(content) == after.size:
                return content, after
        raise OSError(errno.EBUSY, "it changes all the time")

    def local(self, path: bytes) -> bytes:
        return os.path.join(self.root, path)


def read_up_to(descriptor: int, size: int) -> bytes:
    """So many bytes of a file, or all that it has. Asks for no more: Python makes room for all that it asks for."""
    content = b""
    while len(content) < size:
        piece = os.read(descriptor, size - len(content))
        if not piece:
            break
        content = content + piece if content else piece
    return content


def scan(root: bytes, known: dict[bytes, bytes]) -> Iterator[Event]:
    """Walks the store at `root`; consumes `known`. Raises StoreMissing where there is nothing to walk."""
    return Scan(root, known).events()


class FrameWriter:
    """Writes frames as one compressed stream."""

    # Bytes before compression. The receiver should see at once that there is a store, and then progress; a compressor
    # works best on more than a line. Each piece is twice the one before.
    FIRST_FLUSH, LAST_FLUSH = 4 * 1024, 256 * 1024

    def __init__(self, output: BinaryIO) -> None:
        self.output = output
        self.compressor = zlib.compressobj(3)
        self.pending = 0
        self.piece = self.FIRST_FLUSH

    def write(self, kind: int, header: list[str | int], body: bytes = b"") -> None:
        text = json.dumps(header).encode("ascii")
        for part in (FRAME.pack(kind, len(text), len(body)), text, body):
            self.output.write(self.compressor.compress(part))
            self.pending += len(part)
        if self.pending >= self.piece or kind == ALIVE:
            self.flush()
            self.piece = min(2 * self.piece, self.LAST_FLUSH)

    def flush(self) -> None:
        self.output.write(self.compressor.flush(zlib.Z_SYNC_FLUSH))
        self.output.flush()
        self.pending = 0

    def close(self) -> None:
        self.output.write(self.compressor.flush())
        self.output.flush()


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        sys.exit("the request ended early")
    return data


def read_patiently(stream: BufferedReader, size: int, frames: FrameWriter) -> bytes:
    """As `read_exactly`, of what may take long to come: who waits for an answer sees that it does come."""
    pieces, left, told = [], size, time.monotonic()
    while left:
        piece = stream.read1(min(left, PIECE))
        if not piece:
            sys.exit("the request ended early")
        pieces.append(piece)
        left -= len(piece)
        if time.monotonic() - told > ALIVE_EVERY_S:
            told = time.monotonic()
            frames.write(ALIVE, [])
    return b"".join(pieces)


def unpack_known(packed: bytes) -> dict[bytes, bytes]:
    """What the client knows, out of the compressed list of it: path and token, again and again."""
    known = {}
    data = zlib.decompress(packed)
    at = 0
    while at < len(data):
        path_length, token_length = ENTRY.unpack_from(data, at)
        at += ENTRY.size
        known[data[at : at + path_length]] = data[at + path_length : at + path_length + token_length]
        at += path_length + token_length
    return known


def text_of(path: bytes) -> str:
    """A path as it travels: the other side takes it for UTF-8, whatever the locale of this server is."""
    return path.decode("utf-8", "surrogateescape")


def header_of(event: Event) -> list[str | int]:
    """The fields of an event as JSON takes them: paths as text with escapes, tokens in hexadecimal."""
    kind = event[0]
    if kind == ALIVE:
        return []
    if kind == PLAN:
        return [event[1], event[2]]
    if kind == WARNING:
        return [text_of(event[1]), event[2]]
    if kind == GONE:
        return [text_of(event[1])]
    return [text_of(event[1]), event[2].hex()] + list(event[3:5])


def main() -> None:
    """Reads one request from standard input, writes the marker and then the frames to standard output."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    request = json.loads(stdin.readline().decode("ascii"))
    stdout.write(request["marker"].encode("ascii"))
    stdout.flush()
    frames = FrameWriter(stdout)
    known = unpack_known(read_patiently(stdin, request["known_bytes"], frames))  # type: ignore[arg-type]
    try:
        for event in scan(request["root"].encode("utf-8", "surrogateescape"), known):
            frames.write(event[0], header_of(event), event[5] if event[0] == DOCUMENT else b"")
        frames.write(END, [])
    except StoreMissing as error:
        frames.write(FAILED, [str(error)])
    frames.close()

"""Runs the helper program on the server and turns what it streams back into events.

The program goes over the exec channel's standard input, started by a command that is a constant: nothing is installed
on the server and no name ever becomes part of a command. Its answer begins behind a marker that was chosen for this one
call, since login scripts print banners; what follows is one compressed stream of frames. All of it is untrusted: sizes
are bounded before memory is used for them, and what is not as it should be is a `ProtocolError`.
"""

from __future__ import annotations

import inspect
import json
import os
import secrets
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runicornfs.errors import ProtocolError, ServerError, StoreUnusable, UnsafePath
from runicornfs.remote import helper_program
from runicornfs.remote.server import ExecChannel, Server
from runicornfs.store.observed import Observed, ObservedKind
from runicornfs.store.paths import check_relative

# Reads its own text from standard input (`python3 -` would swallow the data behind it). -I: nobody's environment, user
# site or working directory changes what it imports.
COMMAND = (
    "python3 -I -c 'import sys; i = sys.stdin.buffer; "
    'exec(compile(i.read(int(i.readline())), "runicornfs-helper", "exec"), {"__name__": "__main__"})\''
)
# What login scripts may print before the marker; more than this is no banner.
BANNER_LIMIT = 1024 * 1024
BANNER_TAIL = 500  # bytes of it that are kept: enough for a message, and more than the marker
# A path has at most 4096 bytes, written with escapes of six characters each at worst.
HEADER_LIMIT = 64 * 1024
TIMEOUT_S = 30.0  # a busy server may take its time to start Python; after that the helper shows that it is alive
CHUNK = 256 * 1024  # bytes asked of the channel, and bytes decompressed, at a time
KINDS = {
    helper_program.DOCUMENT: ObservedKind.DOCUMENT,
    helper_program.FILE: ObservedKind.FILE,
    helper_program.DIRECTORY: ObservedKind.DIRECTORY,
}


@dataclass(frozen=True, slots=True)
class Gone:
    """A path of the last sync that is not there any more."""

    path: str


@dataclass(frozen=True, slots=True)
class Notice:
    """The scan could not use something; `text` names it."""

    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How many documents, of how many bytes together, are still to come."""

    documents: int
    size_bytes: int


Event = Observed | Gone | Notice | Plan
Known = Iterable[tuple[bytes, bytes]]


class ByteSource(Protocol):
    """Where the helper's answer comes from."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end."""


def scan_server(server: Server, root: str, known: Known) -> Iterator[Event]:
    """Yields what changed on the server against `known` (path and token of the last sync), in one round trip.

    Raises StoreUnusable where there is no store or no Python, ServerError where the line or the answer is bad.
    """
    marker = f"runicornfs-{secrets.token_hex(16)}\n"
    with server.exec(COMMAND, timeout=TIMEOUT_S) as channel:
        sender = threading.Thread(target=_send, args=(channel, root, marker, known), name="helper-request", daemon=True)
        sender.start()
        try:
            _skip_banner(channel, marker.encode())
            yield from _events(Frames(channel))
        finally:
            channel.close()
            sender.join()


def check_folder(root: Path) -> None:
    """Raises StoreUnusable where a folder of this machine is no store."""
    if not root.is_dir():
        raise StoreUnusable(f"there is no folder {root} (a store on a server is written as host:/absolute/path)")
    if not any((root / name).is_dir() for name in ("artifacts", "runs")) and not any(root.glob("*/*/runs")):
        raise StoreUnusable(f"{root} is no Runicorn store: it has neither a folder artifacts nor any runs")


def scan_folder(root: str, known: Known) -> Iterator[Event]:
    """The same walk over a store on this machine, in our own process."""
    try:
        for kind, *fields in helper_program.scan(os.fsencode(root), dict(known)):
            yield from _event(kind, fields)
    except helper_program.StoreMissing as error:
        raise StoreUnusable(str(error).replace(" on the server", "")) from None


def _send(channel: ExecChannel, root: str, marker: str, known: Known) -> None:
    """The whole request; a server that does not want it says so on the reading side."""
    program = inspect.getsource(helper_program).encode()
    packed = _pack(known)
    request = json.dumps({"root": root, "marker": marker, "known_bytes": len(packed)})
    try:
        channel.write(b"%d\n" % len(program) + program + request.encode() + b"\n" + packed)
    except ServerError:
        return  # the reader of the channel meets the same end and reports it


def _pack(known: Known) -> bytes:
    compressor = zlib.compressobj(3)
    parts = []
    for path, token in known:
        parts.append(compressor.compress(helper_program.ENTRY.pack(len(path), len(token)) + path + token))
    parts.append(compressor.flush())
    return b"".join(parts)


def _skip_banner(channel: ExecChannel, marker: bytes) -> None:
    """Leaves the channel just behind the marker: asks for no more bytes than the marker still lacks."""
    seen, count = b"", 0  # the end of what was printed, and how much it was
    while not seen.endswith(marker):
        begun = max(length for length in range(len(marker)) if seen.endswith(marker[:length]))
        data = channel.read(len(marker) - begun)
        if not data:
            raise _did_not_start(channel, seen)
        seen = (seen + data)[-BANNER_TAIL:]
        count += len(data)
        if count > BANNER_LIMIT:
            raise ProtocolError("the server prints without end before it runs the helper")


def _did_not_start(channel: ExecChannel, seen: bytes) -> ServerError:
    status = channel.exit_status()
    said = (channel.stderr_tail() or seen).decode(errors="replace").strip().splitlines()
    if status == 127 or any("python3" in line and "not found" in line for line in said):
        return StoreUnusable("the server has no python3 (3.8 or newer), which the metadata sync needs")
    detail = f": {said[-1]}" if said else ""
    return ProtocolError(f"the helper did not start on the server (exit status {status}){detail}")


class Frames:
    """Cuts the compressed stream into frames, with bounded memory."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._decompressor = zlib.decompressobj()
        self._buffer = bytearray()

    def next(self) -> tuple[int, list[Any], bytes]:
        """Kind, header and body of the next frame. Raises ProtocolError."""
        kind, header_length, body_length = helper_program.FRAME.unpack(self._take(helper_program.FRAME.size))
        if header_length > HEADER_LIMIT or body_length > helper_program.DOCUMENT_LIMIT:
            raise ProtocolError("the helper sent an oversized frame")
        try:
            header = json.loads(self._take(header_length))
        except (ValueError, RecursionError):
            raise ProtocolError("the helper sent a frame that is not readable") from None
        if not isinstance(header, list):
            raise ProtocolError("the helper sent a frame that is not readable")
        return kind, header, self._take(body_length)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken

    def _fill(self) -> None:
        data = self._decompressor.unconsumed_tail or self._source.read(CHUNK)
        if not data or self._decompressor.eof:
            raise ProtocolError("the helper's answer ended early")
        try:
            self._buffer += self._decompressor.decompress(data, CHUNK)
        except zlib.error:
            raise ProtocolError("the helper's answer is damaged") from None


def _events(frames: Frames) -> Iterator[Event]:
    while True:
        kind, header, body = frames.next()
        if kind == helper_program.END:
            return
        try:
            if kind == helper_program.FAILED:
                raise StoreUnusable(str(header[0]))
            if kind in KINDS:
                path, token, *numbers = header
                yield from _event(kind, [os.fsencode(path), bytes.fromhex(token), *numbers, body])
            elif kind in (helper_program.GONE, helper_program.WARNING):
                path, *rest = header
                yield from _event(kind, [os.fsencode(path), *rest])
            else:
                yield from _event(kind, header)
        except (ValueError, TypeError, IndexError) as error:
            raise ProtocolError(f"the helper sent a frame that makes no sense: {error}") from None


def _event(kind: int, fields: list[Any]) -> Iterator[Event]:
    """The typed event of one frame, if it has one; a path that may not be one becomes a notice."""
    if kind == helper_program.ALIVE:
        return
    if kind == helper_program.PLAN:
        documents, size_bytes = fields
        yield Plan(_count(documents), _count(size_bytes))
        return
    path: str = os.fsdecode(fields[0])
    try:
        check_relative(path)
    except UnsafePath as error:
        yield Notice(str(error))
        return
    if kind == helper_program.GONE:
        yield Gone(path)
    elif kind == helper_program.WARNING:
        yield Notice(f"{path}: {str(fields[1])[:500]}")
    elif kind == helper_program.DIRECTORY:
        yield Observed(path, ObservedKind.DIRECTORY, fields[1], 0, 0, None)
    elif kind in KINDS:
        _, token, size, mtime_ns, *content = fields
        document = kind == helper_program.DOCUMENT
        yield Observed(
            path,
            KINDS[kind],
            token,
            _count(size),
            max(0, min(int(mtime_ns), 2**62)),
            content[0] if document else None,
        )
    else:
        raise ValueError(f"unknown kind {kind}")


def _count(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 2**62:
        raise ValueError(f"{number!r} is no count")
    return number

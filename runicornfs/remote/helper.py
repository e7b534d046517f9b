"""Runs the helper program on the server and turns what it streams back into events.

The program goes over the exec channel's standard input, started by a command that is a constant: nothing is installed
on the server and no name ever becomes part of a command. Its answer begins behind a marker that was chosen for this one
call, since login scripts print banners; what follows is one compressed stream of frames. All of it is untrusted: sizes
are bounded before memory is used for them, and what is not as it should be is a `ProtocolError`.

Up to the marker everything may go wrong because the account may run no program, or finds no Python: that is
`HelperUnavailable`, and there is another way. What goes wrong behind it is an error.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import secrets
import threading
import time
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol

from runicornfs.errors import (
    AccessDenied,
    OutcomeUnknown,
    ProtocolError,
    ServerError,
    StoreUnusable,
    TimedOut,
    Unreachable,
)
from runicornfs.remote import helper_program, walk
from runicornfs.remote.events import Event, Known, typed
from runicornfs.remote.server import ExecChannel, Server
from runicornfs.store.paths import printable

# Reads the text of a program from standard input and runs it (`python3 -` would swallow the data behind it). -I:
# nobody's environment, user site or working directory changes what it imports. csh and fish understand it as sh does.
# Compressed, the text and what is known of a small store fit into what TCP sends before the first acknowledgement.
COMMAND = "python3 -I -c 'import sys, zlib; i = sys.stdin.buffer; exec(zlib.decompress(i.read(int(i.readline()))))'"
# What login scripts may print before the marker; more than this is no banner.
BANNER_LIMIT = 8 * 1024 * 1024
BANNER_TAIL = 500  # bytes of it that are kept: enough for a message, and more than the marker
BANNER_S = 60.0  # seconds that they may take for it all
# A path has at most 4096 bytes, written with escapes of six characters each at worst.
HEADER_LIMIT = 64 * 1024
LONGEST_MESSAGE = 500  # characters of what the helper says of the store that are shown
TIMEOUT_S = 30.0  # a busy server may take its time to start Python; after that the helper shows that it is alive
# For so long a helper may do nothing but show that it is alive: a walk over millions of files on a slow disk.
QUIET_S = 3600.0
CHUNK = 256 * 1024  # bytes asked of the channel, and bytes decompressed, at a time


class HelperUnavailable(Exception):
    """This account cannot run the helper on this server; the message says why."""


class ByteSource(Protocol):
    """Where the helper's answer comes from."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end."""


def scan_by_helper(server: Server, root: str, packed: bytes) -> Iterator[Event]:
    """Yields what changed on the server against what is known (`pack`), in one round trip.

    Raises HelperUnavailable before the first event or never, StoreUnusable where there is no store, and ServerError
    where the line or the answer is bad.
    """
    with answering(server, program(walk, helper_program), {"root": root}, packed, QUIET_S) as frames:
        yield from events(frames, QUIET_S)


@contextlib.contextmanager
def answering(
    server: Server, text: bytes, request: dict[str, Any], packed: bytes, within_s: float, *, changes: bool = False
) -> Iterator[Frames]:
    """Runs a program on the server, as `program` makes it, for as long as the context; yields what it answers, for so
    many seconds: see `Frames`.

    Raises HelperUnavailable where no program has run, and ServerError where the line is bad. With `changes` the request
    is for a change: then whatever else goes wrong once it was sent, also in the context, becomes OutcomeUnknown.
    """
    marker = f"runicornfs-{secrets.token_hex(16)}\n"
    header = json.dumps(request | {"marker": marker, "known_bytes": len(packed)})
    data = b"%d\n" % len(text) + text + header.encode() + b"\n" + packed
    with contextlib.ExitStack() as stack:
        try:
            channel = stack.enter_context(server.exec(COMMAND, timeout=TIMEOUT_S))
        except AccessDenied as error:
            raise HelperUnavailable(str(error)) from error
        sender = threading.Thread(target=_send, args=(channel, data), name="helper-request", daemon=True)
        sender.start()
        try:
            with uncertain() if changes else contextlib.nullcontext():
                _skip_banner(channel, marker.encode(), silence_is_refusal=not changes)
                yield Frames(channel, within_s)
        finally:
            channel.close()
            sender.join()


@contextlib.contextmanager
def uncertain() -> Iterator[None]:
    """A change has been asked for: an answer that does not come, or makes no sense, says nothing about it. Raises
    OutcomeUnknown in place of the errors that say so."""
    try:
        yield
    except (Unreachable, TimedOut, ProtocolError) as error:
        raise OutcomeUnknown(
            f"{error}: whether the change was made is not known, and shows after the next sync"
        ) from error


def pack(known: Known) -> bytes:
    """What is known, compressed for the way."""
    compressor = zlib.compressobj(3)
    parts = []
    for path, token in known:
        parts.append(compressor.compress(helper_program.ENTRY.pack(len(path), len(token)) + path + token))
    parts.append(compressor.flush())
    return b"".join(parts)


def program(*modules: ModuleType) -> bytes:
    """Modules that travel, as one text that makes them there, in order, and runs the last one's `main`; compressed, as
    COMMAND reads it."""
    lines = ["import sys, types"]
    for module in modules:
        name, source = module.__name__, inspect.getsource(module)
        lines.append(f"module = sys.modules[{name!r}] = types.ModuleType({name!r})")
        lines.append(f"exec(compile({source!r}, {name!r}, 'exec'), vars(module))")
    lines.append("module.main()")
    return zlib.compress("\n".join(lines).encode())


def _send(channel: ExecChannel, data: bytes) -> None:
    """The whole request; a server that does not want it says so on the reading side."""
    try:
        channel.write(data)
    except ServerError:
        return  # the reader of the channel meets the same end and reports it


def _skip_banner(channel: ExecChannel, marker: bytes, silence_is_refusal: bool = True) -> None:
    """Leaves the channel just behind the marker: asks for no more bytes than the marker still lacks.

    A shell that neither runs the program nor ends is silent; so is a line behind which the program runs.
    """
    deadline = time.monotonic() + BANNER_S
    seen, count = b"", 0  # the end of what was printed, and how much it was
    while not seen.endswith(marker):
        begun = max(length for length in range(len(marker)) if seen.endswith(marker[:length]))
        try:
            data = channel.read(len(marker) - begun)
        except TimedOut:
            if not silence_is_refusal:
                raise
            # If it is the line that is silent, whoever tries the other way will meet that.
            raise HelperUnavailable(f"the account's shell ran no program within {TIMEOUT_S:g} s") from None
        if not data:
            raise _did_not_start(channel, seen)
        seen = (seen + data)[-BANNER_TAIL:]
        count += len(data)
        if count > BANNER_LIMIT or time.monotonic() > deadline:
            raise HelperUnavailable("the account's shell prints without end and runs no program")


def _did_not_start(channel: ExecChannel, seen: bytes) -> HelperUnavailable:
    status = channel.exit_status()
    said = (channel.stderr_tail() or seen).decode(errors="replace").strip().splitlines()
    if status == 127 or any("python3" in line and "not found" in line for line in said):
        return HelperUnavailable("there is no python3")
    detail = f" and said {printable(said[-1])!r}" if said else ""
    return HelperUnavailable(f"starting python3 (3.8 or newer) ended with status {status}{detail}")


class Frames:
    """Cuts the compressed stream into frames, with bounded memory, for `within_s` seconds: then it is TimedOut."""

    def __init__(self, source: ByteSource, within_s: float = QUIET_S) -> None:
        self._source = source
        self.within(within_s)
        self._decompressor = zlib.decompressobj()
        self._buffer = bytearray()

    def within(self, seconds: float) -> None:
        """So long they may go on from now."""
        self._deadline = time.monotonic() + seconds

    def next(self) -> tuple[int, list[Any], bytes]:
        """Kind, header and body of the next frame. Raises ProtocolError and TimedOut."""
        self._check_time()
        kind, header_length, body_length = helper_program.FRAME.unpack(self._take(helper_program.FRAME.size))
        if header_length > HEADER_LIMIT or body_length > walk.DOCUMENT_LIMIT:
            raise ProtocolError("the helper sent an oversized frame")
        try:
            header = json.loads(self._take(header_length))
        except (ValueError, RecursionError):
            raise ProtocolError("the helper sent a frame that is not readable") from None
        if not isinstance(header, list):
            raise ProtocolError("the helper sent a frame that is not readable")
        return kind, header, self._take(body_length)

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimedOut("the helper on the server goes on answering and does not come to an end")

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken

    def _fill(self) -> None:
        self._check_time()
        data = self._decompressor.unconsumed_tail or self._source.read(CHUNK)
        if not data or self._decompressor.eof:
            raise ProtocolError("the helper's answer ended early")
        try:
            self._buffer += self._decompressor.decompress(data, CHUNK)
        except zlib.error:
            raise ProtocolError("the helper's answer is damaged") from None


def events(frames: Frames, quiet_s: float | None = None) -> Iterator[Event]:
    """The events of a scan, to its end; `quiet_s`: so long each may take. Raises StoreUnusable and what `next` does."""
    for _ in range(walk.STORE_LIMIT):
        kind, header, body = frames.next()
        if quiet_s is not None and kind != walk.ALIVE:
            frames.within(quiet_s)
        try:
            if kind == helper_program.END:
                return
            if kind == helper_program.FAILED:
                raise StoreUnusable(printable(str(header[0])[:LONGEST_MESSAGE]))
            if kind not in (walk.PLAN, walk.ALIVE):
                header[0] = os.fsencode(header[0])
            if kind in (walk.DOCUMENT, walk.UNREADABLE, walk.FILE, walk.DIRECTORY):
                header[1] = bytes.fromhex(header[1])
            yield from typed([(kind, *header, body) if kind == walk.DOCUMENT else (kind, *header)])
        except (ValueError, TypeError, IndexError) as error:
            raise ProtocolError(f"the helper sent a frame that makes no sense: {printable(str(error))}") from None
    raise ProtocolError(f"the helper told of more than {walk.STORE_LIMIT} things and did not come to an end")

"""The loop that this project exists for: ranges of a remote file into a local one, with requests always in flight.

New ranges are taken only when there is room for them, so whoever yields them decides as late as possible what comes
next; one that has nothing now is asked again after each answer. Between ranges nothing is drained: the line never runs
dry while there is something to ask for. Data goes from the
packets as they were received straight to the file (`pwritev`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runicornfs.errors import StaleFile, TimedOut, Unreachable
from runicornfs.remote.line import Stamp
from runicornfs.remote.packets import Code, Fields, Kind, Packet, read_packet
from runicornfs.remote.sftp import SftpSession
from runicornfs.store.paths import shown

_ALIGNMENT = 4 << 10  # bytes: requests end on pages where possible, so that no page of the file is written twice


@dataclass(slots=True)
class _Range:
    """A range of `wanted` and how many of its bytes have not been written yet."""

    offset: int
    length: int
    missing: int


@dataclass(slots=True)
class _Read:
    """One READ on its way."""

    range: _Range
    offset: int
    length: int
    stamp: Stamp


class Transfer:
    """One run over `wanted`. Used once, by the thread that owns the session."""

    def __init__(
        self, session: SftpSession, path: bytes, handle: bytes, fd: int, received: Callable[[int, int], None]
    ) -> None:
        self._session = session
        self._line = session.line
        self._path = path
        self._handle = handle
        self._fd = fd
        self._received = received
        self._pending: dict[int, _Read] = {}
        self._in_flight = 0
        self._requests = bytearray()
        self.reads = 0
        self.bytes = 0

    def run(self, wanted: Iterator[tuple[int, int]]) -> None:
        """Fetch every (offset, length) that `wanted` yields; returns when all has been written and it has no more.

        Raises what the session raises, StaleFile if the file ends too early, OSError if writing fails, and what
        `wanted` and `received` raise. The session is closed then, unless no answer is outstanding. Of a range that was
        under way when the line broke or fell silent, `received` is told as much as had come from its start.
        """
        self._line.transfer_begins()
        try:
            while True:
                while self._in_flight < self._line.share():
                    next_range = next(wanted, None)
                    if next_range is None:
                        break
                    self._ask_for(*next_range)
                if self._requests:
                    requests, self._requests = bytes(self._requests), bytearray()
                    self._session.send(requests)
                if not self._pending:
                    return
                self._take(self._next_answer())
        finally:
            self._line.transfer_ends()
            if self._pending:
                self._line.abandoned(self._in_flight)
                self._session.close()

    def _next_answer(self) -> Packet:
        try:
            return self._session.receive()
        except (Unreachable, TimedOut):
            self._keep_what_came()
            raise

    def _keep_what_came(self) -> None:
        """Tells of the starts of ranges, before the first byte that is still to come: they need not come again."""
        missing: dict[int, tuple[int, _Range]] = {}  # by range, where that byte is
        for id_, read in self._pending.items():
            at = read.offset + self._came_of(id_, read)
            known, _ = missing.get(id(read.range), (at, None))
            missing[id(read.range)] = min(at, known), read.range
        for at, whole in missing.values():
            if at > whole.offset:
                self._received(whole.offset, at - whole.offset)

    def _came_of(self, id_: int, read: _Read) -> int:
        """Bytes of an answer in the middle of which the line broke; they are written."""
        cut = self._session.cut
        if cut is None or cut.id != id_ or not 0 < cut.size <= read.length:
            return 0
        try:
            write_at(self._fd, cut.body, read.offset, cut.size)
        except OSError:  # the error of the line is the one to tell
            return 0
        return cut.size

    def _ask_for(self, offset: int, length: int) -> None:
        whole = _Range(offset, length, length)
        for part in parts(offset, length, self._session.read_limit):
            self._request(whole, *part)

    def _request(self, whole: _Range, offset: int, length: int) -> None:
        id_ = self._session.next_id()
        self._pending[id_] = _Read(whole, offset, length, self._line.sent(length, time.monotonic()))
        self._in_flight += length
        self.reads += 1
        self._requests += read_packet(id_, self._handle, offset, length)

    def _take(self, answer: Packet) -> None:
        read = self._pending.pop(answer.id, None)
        if read is None:
            raise self._session.nonsense(f"answered request {answer.id}, which was not made")
        self._in_flight -= read.length
        size = answer.size if answer.kind == Kind.DATA else 0
        self._line.answered(read.stamp, read.length, size, time.monotonic())
        if answer.kind != Kind.DATA:
            raise read_refused(self._session, answer, self._path)
        if not 0 < size <= read.length:
            raise self._session.nonsense(f"sent {size} bytes where {read.length} were asked for")
        write_at(self._fd, answer.body, read.offset, size)
        self.bytes += size
        whole = read.range
        whole.missing -= size
        if size < read.length:  # allowed anywhere, not only at the end of the file: ask for the rest
            self._request(whole, read.offset + size, read.length - size)
        elif not whole.missing:
            self._received(whole.offset, whole.length)


def parts(offset: int, length: int, limit: int) -> Iterator[tuple[int, int]]:
    """A range as READs of equal size: five of 205 KiB, rather than four of 255 and one of 4, for 1 MiB."""
    size = -(-length // max(-(-length // limit), 1))
    size = min(-(-size // _ALIGNMENT) * _ALIGNMENT, limit)
    end = offset + length
    while offset < end:
        part = min(size, end - offset)
        yield offset, part
        offset += part


def read_refused(session: SftpSession, answer: Packet, path: bytes) -> Exception:
    """The error to raise for an answer to a READ that is no data."""
    if answer.kind == Kind.STATUS and answer.size >= 4 and Fields(b"".join(answer.body)).uint32() == Code.EOF:
        return StaleFile(f"{shown(os.fsdecode(path))} on the server ends before the size that it should have")
    return session.refused(answer, path)


def write_at(fd: int, views: list[memoryview], offset: int, size: int) -> None:
    """Write all of the views, one after the other, at `offset`."""
    written = os.pwritev(fd, views, offset)
    if written < size:
        rest = memoryview(b"".join(views))[written:]
        while rest:
            offset += written
            written = os.pwrite(fd, rest, offset)
            rest = rest[written:]

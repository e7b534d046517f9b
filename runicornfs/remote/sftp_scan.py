"""The walk over a store by SFTP, for accounts that may run no program on the server, or whose server has no Python.

The rules are those of `walk`; this module answers the walk's questions, as many at once as the server takes: what a
line costs is bytes, not round trips for each file.

SFTP tells times in whole seconds, and neither inode nor change time. So a document that was read in the very second of
its last change may change once more without looking any different. Which second it is on the server's clock we cannot
ask, and the newest time of any file proves nothing, since files may be dated into the future. But time passes there as
it does here: if a scan that began more than two seconds after an earlier one had seen a file's size and time still
finds the same, then the file's second was over when the scan read it, and every later change shows. Until then its
token is unsettled: it has the time of the first sight in it, equals no token that a listing makes, and the document is
read again. Documents older than a day by our clock are settled at once: no two clocks that anybody uses are that far
apart. So what was changed on the last day is read twice, and everything else once.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from runicornfs.errors import AccessDenied, ConnectionLost, MissingOnServer, ProtocolError, ServerError, StoreUnusable
from runicornfs.remote.events import Event, typed
from runicornfs.remote.packets import READ_FOR_READING, Attributes, Kind, Packet, read_body, string, uint32
from runicornfs.remote.pipeline import Conversation, Pipeline
from runicornfs.remote.sftp import DOTS, SftpSession
from runicornfs.remote.walk import NAMES_LIMIT, ONLY, READ_TRIES, Status, Step, StoreMissing, Walk, check_document
from runicornfs.store.paths import PATH_LIMIT

MOST_AT_ONCE = 128  # folders and documents: at 50 ms that many make 2,500 a second, more than we can take in
MOST_BYTES = 32 << 20  # of documents under way together; a larger one goes alone
LARGEST = 2**62  # bytes: no file is larger
MOST_TWICE = 1000  # names that stand twice in one listing: one that is changed meanwhile may have some
MOST_READS = 16  # requests under way for one long document or folder
CERTAIN_S = 2.0  # seconds within which a change may not show: a time is a whole second, on FAT an even one
OLD_S = 24 * 3600.0  # seconds: a document that is older was not changed just now, whatever the clocks say
_SETTLED, _UNSETTLED = b"s", b"u"
_FACTS = struct.Struct(">Qq")  # size in bytes, mtime in seconds
_SIGHT = struct.Struct(">d")  # when an unsettled document was seen first like this: our clock, seconds since 1970

Told = list[tuple[Any, ...]]  # events as the walk tells them
T = TypeVar("T")


class _NoRoom(OSError):
    """The server opens no other file or folder, for a reason that it does not name."""


class SftpEntry:
    """A name in a folder of the server."""

    __slots__ = ("_attributes", "is_folder", "is_link", "name")

    def __init__(self, name: bytes, attributes: Attributes) -> None:
        self.name = name
        self.is_folder = attributes.is_directory
        self.is_link = attributes.is_link
        self._attributes = attributes

    def status(self) -> Status:
        return status_of(self._attributes)


def scan_by_sftp(
    session: SftpSession, root: str, known: dict[bytes, bytes], artifact: bytes | None = None
) -> Iterator[Event]:
    """Yields what changed on the server against `known` (path and token of the last scan), which is consumed; with
    `artifact`, the path of its folder, what changed there.

    Raises StoreUnusable where there is no store, ServerError where the line is bad; the session is closed then.
    """
    try:
        yield from typed(SftpScan(session, os.fsencode(root), known, artifact).events())
    except StoreMissing as error:
        raise StoreUnusable(str(error)) from None


def status_of(attributes: Attributes) -> Status:
    """Raises OSError where the server does not say enough."""
    if attributes.size is None or attributes.mtime_s is None or attributes.mode is None:
        raise OSError(errno.ENODATA, "the server does not tell its size and time")
    if attributes.size >= LARGEST:
        raise OSError(errno.EFBIG, f"no file has {attributes.size} bytes")
    token = _SETTLED + _FACTS.pack(attributes.size, attributes.mtime_s)
    return Status(attributes.is_file, attributes.size, attributes.mtime_s * 1_000_000_000, token)


def token_after_reading(status: Status, known: bytes | None, began: float) -> bytes:
    """The token of a document that was read, with this status, by a scan that began at `began` (our clock).

    `known`: the token it had before, if any.
    """
    facts = status.token[len(_SETTLED) :]
    first_seen = time.time()
    if known is not None and known.startswith(_UNSETTLED + facts):
        first_seen = min(first_seen, *_SIGHT.unpack(known[-_SIGHT.size :]))
    if began - first_seen > CERTAIN_S or began - status.mtime_ns / 1e9 > OLD_S:
        return status.token
    return _UNSETTLED + facts + _SIGHT.pack(first_seen)


class SftpScan:
    """One walk over the store at `root`."""

    def __init__(
        self, session: SftpSession, root: bytes, known: dict[bytes, bytes], artifact: bytes | None = None
    ) -> None:
        self._session = session
        self._root = root.rstrip(b"/")
        self._walk = Walk(root, known, artifact)
        self._began = time.time()
        most = min(MOST_AT_ONCE, max(1, session.handle_limit // 2))  # the other half is for who reads meanwhile
        self._pipeline: Pipeline[Told] = Pipeline(session, most)
        self._pending: list[Step] = []  # to be begun when there is room, the last one first
        self._alone: list[Step] = []  # to be tried once more with nothing else open
        self._open = 0  # handles
        self._bytes = 0  # of documents under way

    def events(self) -> Iterator[tuple[Any, ...]]:
        """Yields `(kind, …)`, lists and indexes first, then a PLAN with the totals, then all other documents."""
        walk = self._walk
        self._pending = walk.steps
        yield from self._told()
        yield walk.plan()
        self._pending = walk.postponed[::-1]
        yield from self._told()
        yield from walk.gone()

    def _told(self) -> Iterator[tuple[Any, ...]]:
        for events in self._pipeline.run(self._next):
            yield from events

    def _next(self) -> Conversation[Told] | None:
        idle = not self._pipeline.active
        steps = self._pending or (self._alone if idle else [])
        if not steps or (not idle and self._bytes + _size_of(steps[-1]) > MOST_BYTES):
            return None
        retried = steps is self._alone
        step = steps.pop()
        return self._folder(step, retried) if step.status is None else self._document(step, retried)

    def _folder(self, step: Step, retried: bool) -> Conversation[Told]:
        try:
            entries = yield from self._entries(step)
        except _NoRoom as error:
            if not retried:
                return self._try_alone(step)
            return list(self._walk.not_listed(step, error))
        except OSError as error:
            return list(self._walk.not_listed(step, error))
        return list(self._walk.listed(step, entries))

    def _document(self, step: Step, retried: bool) -> Conversation[Told]:
        self._bytes += _size_of(step)
        try:
            content, status = yield from self._content(step)
        except _NoRoom as error:
            if not retried:
                return self._try_alone(step)
            return list(self._walk.not_read(step, error))
        except OSError as error:
            return list(self._walk.not_read(step, error))
        finally:
            self._bytes -= _size_of(step)
        status.token = token_after_reading(status, self._walk.unseen.get(step.path), self._began)
        return list(self._walk.read(step, content, status))

    def _try_alone(self, step: Step) -> Told:
        """A server that has no room for another handle does not say so: it may as well be the file that is bad."""
        self._alone.append(step)
        self._pipeline.room = max(1, self._open)
        return []

    def _entries(self, step: Step) -> Conversation[list[SftpEntry]]:
        """The names in a folder. Raises OSError."""
        path = self._place(step.path)
        if step.place in ONLY:
            name = ONLY[step.place]
            (answer,) = yield [(Kind.LSTAT, string(path + b"/" + name))]
            return [SftpEntry(name, self._taken(self._session.attributes, answer, path))]
        handle = yield from self._opened(path, Kind.OPENDIR, string(path))
        found: dict[bytes, Attributes] = {}
        told = 0
        try:
            more, ended = 2, False  # the second one usually says already that this was all
            while not ended:
                for answer in (yield [(Kind.READDIR, string(handle))] * more):
                    ended = ended or self._session.is_end(answer)
                    if not ended:
                        some = self._taken(self._session.names, answer, path)
                        found.update(some)
                        told += len(some)
                if told > 2 * len(found) + MOST_TWICE:
                    raise OSError(errno.EBADMSG, "the server names the same entries again and again")
                if len(found) > NAMES_LIMIT:
                    raise OSError(errno.EFBIG, f"it has more than {NAMES_LIMIT} entries")
                more = min(2 * more, MOST_READS)
        finally:
            self._close(handle)
        for dots in DOTS:
            found.pop(dots, None)
        silent = [name for name, attributes in found.items() if not attributes.are_complete]
        while silent:  # what a server does not tell of its own accord it may tell when it is asked
            names, silent = silent[:MOST_READS], silent[MOST_READS:]
            answers = yield [(Kind.LSTAT, string(path + b"/" + name)) for name in names]
            for name, answer in zip(names, answers, strict=True):
                if answer.kind == Kind.ATTRS:
                    found[name] = self._session.attributes(answer, path)
        return [SftpEntry(name, attributes) for name, attributes in found.items()]

    def _content(self, step: Step) -> Conversation[tuple[bytes, Status]]:
        """The content of a document and the status that belongs to it: read again if it changed. Raises OSError."""
        path = self._place(step.path)
        for _ in range(READ_TRIES):
            handle = yield from self._opened(path, Kind.OPEN, string(path) + uint32(READ_FOR_READING) + uint32(0))
            try:
                look = (Kind.FSTAT, string(handle))
                start = (Kind.READ, read_body(handle, 0, self._session.read_limit))
                seen, first, seen_again = yield [look, start, look]
                before = status_of(self._taken(self._session.attributes, seen, path))
                check_document(step.path, before)
                if before.size > _size_of(step) + MOST_BYTES:
                    raise OSError(errno.EBUSY, "it grows faster than it can be read")
                content = bytearray(self._taken(self._session.data, first, path))
                if len(content) < before.size:
                    yield from self._rest(handle, path, content, before.size)
                    (seen_again,) = yield [look]
                after = status_of(self._taken(self._session.attributes, seen_again, path))
            finally:
                self._close(handle)
            if before.token == after.token and len(content) == after.size:
                return bytes(content), after
        raise OSError(errno.EBUSY, "it changes all the time")

    def _rest(self, handle: bytes, path: bytes, content: bytearray, size: int) -> Conversation[None]:
        """Reads on to `size` or to the end of the file, in pieces of the length that the server gave the first time.

        An answer may be shorter still: then what lies behind it is asked for again.
        """
        part = len(content)
        while 0 < len(content) < size:
            offsets = range(len(content), size, part)[:MOST_READS]
            answers = yield [(Kind.READ, read_body(handle, offset, min(part, size - offset))) for offset in offsets]
            for offset, answer in zip(offsets, answers, strict=True):
                data = self._taken(self._session.data, answer, path)
                if offset == len(content):
                    content += data
                if not data:
                    return

    def _opened(self, path: bytes, kind: Kind, body: bytes) -> Conversation[bytes]:
        """A handle. Raises OSError, and _NoRoom where the reason may be that others are open."""
        if len(path) > PATH_LIMIT:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        (answer,) = yield [(kind, body)]
        try:
            handle = self._taken(self._session.handle, answer, path)
        except OSError as error:
            if error.errno == errno.EIO:
                raise _NoRoom(*error.args) from None
            raise
        self._open += 1
        return handle

    def _close(self, handle: bytes) -> None:
        self._open -= 1
        self._pipeline.forget(Kind.CLOSE, string(handle))

    def _taken(self, take: Callable[[Packet, bytes], T], answer: Packet, path: bytes) -> T:
        """What `take` makes of an answer, its refusals as the OSErrors that a disk of our own would raise."""
        try:
            return take(answer, path)
        except (ConnectionLost, ProtocolError):
            raise
        except MissingOnServer:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        except AccessDenied:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES)) from None
        except ServerError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _place(self, path: bytes) -> bytes:
        return self._root + b"/" + path if path else self._root or b"/"


def _size_of(step: Step) -> int:
    return 0 if step.status is None else step.status.size

"""One SFTP session: requests, answers, and open files. The loop that reads ranges is `transfer`.

Ours and not paramiko's SFTPClient because of what that loop needs: requests always in flight, answers in any order,
data that goes to the file without a copy, and a bound on every wait.

A session belongs to one thread at a time. After an error that leaves answers outstanding it is closed, never reused.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from runicornfs.errors import (
    AccessDenied,
    ConnectionLost,
    MissingOnServer,
    ProtocolError,
    ServerError,
    StaleFile,
    TimedOut,
)
from runicornfs.remote.channels import BROKEN, close_channel
from runicornfs.remote.containment import Containment
from runicornfs.remote.line import Line
from runicornfs.remote.packets import (
    LARGEST_HANDLE,
    READ_FOR_READING,
    VERSION,
    Attributes,
    Code,
    Fields,
    Kind,
    Packet,
    PacketReader,
    packet,
    string,
    uint32,
)
from runicornfs.store.paths import NAME_LIMIT, printable, shown

DEFAULT_HANDLES = 100  # open files and folders that a server lets us have if it does not say how many
DEFAULT_READ = 32 << 10  # bytes of one READ that every server takes (draft-ietf-secsh-filexfer-02, section 3)
LARGEST_READ = 255 << 10  # bytes: OpenSSH's limit; what it says is believed up to this, so that packets stay bounded
_LEAST_READ = 4 << 10  # bytes: a server that says less is not believed; a short answer is allowed anyway
_LARGEST_RECEIVE = 1 << 20  # bytes taken from the channel at once: any of its packets whole
_KEPT_HANDLES = 16  # open files a session keeps: servers allow some hundred, and a reader comes back to few files
_MOST_NAMES = 100_000  # entries of one directory that are taken: a store's have some thousand
# A server that answers in drops is as good as silent: of a minute of waiting this much must have come (one small answer
# in seven seconds).
_TRICKLE_S = 60.0
_TRICKLE_BYTES = 256
DOTS = (b".", b"..")  # what every listing has and nobody asks for
_MOST_OF_A_MESSAGE = 200  # characters of the server's own words that are shown

T = TypeVar("T")


class ByteChannel(Protocol):
    """What a session needs of paramiko.Channel: tests give it one in memory."""

    @property
    def closed(self) -> bool: ...
    def send(self, s: bytes) -> int: ...
    def recv(self, nbytes: int) -> bytes: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class OpenFile:
    """A file open on the server, the content it was opened for, and what was at its path then."""

    handle: bytes
    content: str
    attributes: Attributes


class SftpSession:
    """Requests over one channel. `heard` is called whenever something arrives."""

    def __init__(self, channel: ByteChannel, line: Line, heard: Callable[[], None] = lambda: None) -> None:
        self.line = line
        self.read_limit = DEFAULT_READ
        self.handle_limit = DEFAULT_HANDLES
        self.extensions: frozenset[bytes] = frozenset()  # names of what the server can do beyond the protocol
        self.careful = False  # to look at what is to be opened, and open it in another round trip
        self.opens = 0  # OPEN requests so far
        self._channel = channel
        self._heard = heard
        self._packets = PacketReader(self._receive)
        self._last_id = 0
        self._unheeded: set[int] = set()  # requests whose answers do not matter: CLOSE
        self._files: OrderedDict[bytes, OpenFile] = OrderedDict()
        self._containment = Containment()
        self._deadline: float | None = None  # of what is asked for `within` a time
        self._waited = 0.0  # seconds since progress was looked at, and the bytes that they brought
        self._came = 0

    def start(self) -> None:
        """Agree on the version and ask for the server's limits: two round trips."""
        self.send(packet(Kind.INIT, VERSION))
        try:
            hello = self.receive()
        except ConnectionLost as error:
            raise ConnectionLost("the SFTP session ended as soon as it began: can this account use SFTP?") from error
        except ProtocolError as error:
            raise ProtocolError(f"{error}: does a start-up file of the account's shell print something?") from error
        if hello.kind != Kind.VERSION or hello.id != VERSION:  # we offered no other
            raise self.nonsense("did not answer as an SFTP server of version 3")
        self.extensions = frozenset(name for name, _ in self._parsed(hello, Fields.pairs))
        if b"limits@openssh.com" in self.extensions:
            answer = self.ask(Kind.EXTENDED, string(b"limits@openssh.com"))
            if answer.kind == Kind.EXTENDED_REPLY:
                largest_read, handles = self._parsed(answer, Fields.limits)
                if largest_read:
                    self.read_limit = min(max(largest_read, _LEAST_READ), LARGEST_READ)
                if handles:
                    self.handle_limit = handles

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """All that is asked in this context takes no longer than this, and one wait for progress: TimedOut then.

        For what would otherwise end only when the server wants it to.
        """
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = None

    @property
    def is_open(self) -> bool:
        """Whether neither side has ended the session yet."""
        return not self._channel.closed

    def close(self) -> None:
        """End the session and with it its open files."""
        self._files.clear()
        close_channel(self._channel)

    def stat(self, path: bytes) -> Attributes:
        """What is at `path`, symlinks followed. Raises MissingOnServer, AccessDenied, ServerError."""
        return self.attributes(self.ask(Kind.STAT, string(path)), path)

    def fstat(self, handle: bytes) -> Attributes:
        """The attributes of an open file."""
        return self.attributes(self.ask(Kind.FSTAT, string(handle)), b"an open file")

    def holds(self, path: bytes) -> bool:
        """Whether `path` is open in this session."""
        return path in self._files

    def open(self, path: bytes, content: str = "", root: bytes | None = None) -> OpenFile:
        """`path` open for reading: kept open from before if that was for the same `content`, else opened (one round
        trip). With `root`, below which it lies, no link is followed there: StaleFile then."""
        kept = self._files.get(path)
        if kept is not None and kept.content == content:
            self._files.move_to_end(path)
            return kept
        self.forget(path)
        self.opens += 1
        if self.careful:
            self._look(self.ask(*self.looking(path)), path)
        seen, opened, *places = self.ask_all(
            self.looking(path), *self.opening(path, root), heard=lambda answer: self._look(answer, path)
        )
        handle = self.handle(opened, path)
        try:
            attributes = self.attributes(seen, path)
            self.check_place(path, root, places)
        except ServerError:
            self._close_handle(handle)
            raise
        file = OpenFile(handle, content, attributes)
        self._files[path] = file
        if len(self._files) > _KEPT_HANDLES:
            self.forget(next(iter(self._files)))
        return file

    def looking(self, path: bytes) -> tuple[Kind, bytes]:
        """The request for the attributes of `path`, a link's own.

        It goes before the one that opens it: a server opens a pipe only when somebody writes into it, and until then
        answers nothing else. So the answer to this one says whether the other's is worth waiting for.
        """
        return Kind.LSTAT, string(path)

    def opening(self, path: bytes, root: bytes | None) -> list[tuple[Kind, bytes]]:
        """The requests that open `path`: answered with a handle and with what `check_place` takes."""
        places = [] if root is None else self._containment.questions(root, path)
        return [(Kind.OPEN, string(path) + uint32(READ_FOR_READING) + uint32(0)), *places]

    def _look(self, answer: Packet, path: bytes) -> None:
        """Raises StaleFile for attributes of what the server might not come back from opening."""
        if answer.kind != Kind.ATTRS or not self.attributes(answer, path).may_block:
            return
        if not self.careful:
            self.careful = True
            self.close()  # it is being opened
        raise StaleFile(f"{shown(os.fsdecode(path))} on the server is no regular file")

    def check_place(self, path: bytes, root: bytes | None, answers: list[Packet]) -> None:
        """Raises StaleFile where `path` lies behind a link below `root`."""
        if root is not None:
            try:
                self._containment.check(root, path, answers)
            except ProtocolError:
                self.close()
                raise

    def forget(self, path: bytes) -> None:
        """Close `path` if it is open here. Does not wait."""
        file = self._files.pop(path, None)
        if file is not None and self.is_open:
            self._close_handle(file.handle)

    def list_folder(self, path: bytes) -> list[tuple[bytes, Attributes]]:
        """Names in a directory with what the server says about each (symlinks not followed), without `.` and `..`."""
        handle = self.handle(self.ask(Kind.OPENDIR, string(path)), path)
        found: list[tuple[bytes, Attributes]] = []
        told = 0
        try:
            while True:
                more = (Kind.READDIR, string(handle))
                for answer in self.ask_all(more, more):  # the second one usually says already that this was all
                    if self.is_end(answer):
                        return found
                    names = self.names(answer, path)
                    found += [entry for entry in names if entry[0] not in DOTS]
                    told += len(names)  # of those that say nothing, too: a server could go on with them for ever
                    if told > _MOST_NAMES:
                        raise ServerError(
                            f"{shown(os.fsdecode(path))} on the server has more than {_MOST_NAMES} entries"
                        )
        finally:
            if self.is_open:
                self._close_handle(handle)

    def ask(self, kind: Kind, body: bytes) -> Packet:
        """One request and its answer."""
        return self.ask_all((kind, body))[0]

    def ask_all(
        self, *requests: tuple[Kind, bytes], heard: Callable[[Packet], None] = lambda answer: None
    ) -> list[Packet]:
        """Several requests in one round trip; their answers in the order of the requests. `heard` is told of each at
        once; the session has to be closed if it raises."""
        ids = [self.next_id() for _ in requests]
        answers: dict[int, Packet] = {}
        stamp = self.line.sent(0, time.monotonic())
        self.send(b"".join(packet(kind, id_, body) for id_, (kind, body) in zip(ids, requests, strict=True)))
        while len(answers) < len(ids):
            answer = self.receive()
            if answer.id not in ids or answer.id in answers:
                raise self.nonsense(f"answered request {answer.id}, which was not made")
            if not answers:
                self.line.answered(stamp, 0, 0, time.monotonic())
            answers[answer.id] = answer
            heard(answer)
        return [answers[id_] for id_ in ids]

    def next_id(self) -> int:
        """A number for a request that no outstanding one has."""
        self._last_id = (self._last_id + 1) & 0xFFFFFFFF
        return self._last_id

    def send(self, data: bytes) -> None:
        """Send all of `data`. Raises TimedOut or ConnectionLost; the session is closed then."""
        try:
            while data:
                sent = self._channel.send(data)
                if sent == 0:
                    raise EOFError
                data = data[sent:]
        except TimeoutError as error:
            self.close()
            raise TimedOut("the server takes no more requests: it made no progress for too long") from error
        except BROKEN as error:
            self.close()
            raise ConnectionLost("the connection to the server broke") from error

    def receive(self) -> Packet:
        """The next answer that matters. Raises TimedOut, ConnectionLost, ProtocolError; the session is closed then."""
        while True:
            try:
                answer = self._packets.next()
            except ProtocolError:
                self.close()
                raise
            if answer.id not in self._unheeded:
                return answer
            self._unheeded.discard(answer.id)

    @property
    def cut(self) -> Packet | None:
        """File data in the middle of which the session has ended: as much of it as came."""
        return self._packets.cut

    def nonsense(self, what: str) -> ProtocolError:
        """The error to raise for an answer that the protocol does not allow. The session is closed."""
        self.close()
        return ProtocolError(f"the server {what}")

    def refused(self, answer: Packet, path: bytes) -> ServerError:
        """The error to raise for an answer that is not the one hoped for, usually a STATUS."""
        if answer.kind != Kind.STATUS:
            return self.nonsense(f"gave an answer of the wrong kind ({answer.kind}) for {shown(os.fsdecode(path))}")
        try:
            fields = answer.fields()
            code = fields.uint32()
            message = "" if fields.at_end else fields.string().decode(errors="replace")
        except ProtocolError:
            self.close()
            raise
        if code == Code.NO_SUCH_FILE:
            return MissingOnServer(f"{shown(os.fsdecode(path))} is not on the server any more")
        if code == Code.PERMISSION_DENIED:
            return AccessDenied(f"the server does not let this account read {shown(os.fsdecode(path))}")
        if code in (Code.NO_CONNECTION, Code.CONNECTION_LOST):
            self.close()
            return ConnectionLost("the server says that the connection is lost")
        said = printable(message[:_MOST_OF_A_MESSAGE])
        return ServerError(
            f"the server cannot read {shown(os.fsdecode(path))}: {said or 'it gives no reason'} (code {code})"
        )

    def _receive(self) -> bytes:
        began = time.monotonic()
        try:
            data = self._channel.recv(_LARGEST_RECEIVE)
        except TimeoutError as error:
            self.close()
            raise TimedOut("the server made no progress for too long") from error
        except BROKEN as error:
            self.close()
            raise ConnectionLost("the connection to the server broke") from error
        if not data:
            self.close()
            raise ConnectionLost("the connection to the server broke")
        self._heard()
        self._check_progress(began, len(data))
        return data

    def _check_progress(self, began: float, size: int) -> None:
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline:
            self.close()
            raise TimedOut("the server goes on answering and does not come to an end")
        self._waited += now - began
        self._came += size
        if self._waited > _TRICKLE_S:
            came, self._waited, self._came = self._came, 0.0, 0
            if came < _TRICKLE_BYTES:
                self.close()
                raise TimedOut(f"the server sent {came} bytes in a minute: it makes next to no progress")

    def is_end(self, answer: Packet) -> bool:
        """Whether an answer says that the file or the folder ends there."""
        return answer.kind == Kind.STATUS and self._parsed(answer, Fields.uint32) == Code.EOF

    def handle(self, answer: Packet, path: bytes) -> bytes:
        """The handle that an OPEN or OPENDIR brought. Raises what `refused` makes of another answer."""
        if answer.kind != Kind.HANDLE:
            raise self.refused(answer, path)
        handle = self._parsed(answer, Fields.string)
        if len(handle) > LARGEST_HANDLE:
            raise self.nonsense("gave a handle that is too long")
        return handle

    def attributes(self, answer: Packet, path: bytes) -> Attributes:
        """The attributes that were asked for. Raises what `refused` makes of another answer."""
        if answer.kind != Kind.ATTRS:
            raise self.refused(answer, path)
        return self._parsed(answer, Fields.attributes)

    def names(self, answer: Packet, path: bytes) -> list[tuple[bytes, Attributes]]:
        """The names that a READDIR brought, `DOTS` among them, at least one.

        Raises ServerError for a name that no file can have, and what `refused` makes of another answer.
        """
        if answer.kind != Kind.NAME:
            raise self.refused(answer, path)
        names = self._parsed(answer, Fields.names)
        if not names:
            raise ServerError(f"the server lists {shown(os.fsdecode(path))} and neither names anything nor ends")
        if any(not name or len(name) > NAME_LIMIT or b"/" in name or b"\0" in name for name, _ in names):
            raise ServerError(f"the server names an entry of {shown(os.fsdecode(path))} as no file can be named")
        return names

    def data(self, answer: Packet, path: bytes) -> bytes:
        """The bytes that a READ brought, none at the end of the file. Raises what `refused` makes of another answer."""
        if self.is_end(answer):
            return b""
        if answer.kind != Kind.DATA:
            raise self.refused(answer, path)
        return b"".join(answer.body)

    def unheeded(self, kind: Kind, body: bytes) -> bytes:
        """The packet of a request that is still to be sent and whose answer does not matter."""
        id_ = self.next_id()
        self._unheeded.add(id_)
        return packet(kind, id_, body)

    def _parsed(self, answer: Packet, take: Callable[[Fields], T]) -> T:
        try:
            return take(answer.fields())
        except ProtocolError:
            self.close()
            raise

    def _close_handle(self, handle: bytes) -> None:
        self.send(self.unheeded(Kind.CLOSE, string(handle)))

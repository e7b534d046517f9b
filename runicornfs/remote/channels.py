"""What we need otherwise of paramiko's channels: a buffer that does not copy, an end that does not fail, and nothing
behind the end.

What arrives over a slow line is of no use before its packet is whole, which may take longer than anybody is to wait in
silence: 32 KiB at 1 kB/s take half a minute. But silence it is not: `ChunkPipe` waits on while packets trickle in.

paramiko's own `BufferedPipe` copies every packet into one array and out of it again. `ChunkPipe` hands the packets on
as they came: 512 MiB over loopback took 0.50 s of processor time instead of 0.62 s (medians of five).

paramiko lets go of a channel's lock before it sends, so its own thread, or whoever closes the channel, may say CLOSE in
between. OpenSSH ends the whole connection for data that comes behind that. `Mouth` keeps the order.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import paramiko
from paramiko import SSHException
from paramiko.buffered_pipe import BufferedPipe, PipeTimeout
from paramiko.common import cMSG_CHANNEL_CLOSE

MOST_WAITING = 80 << 20  # bytes: the window of a channel is 64 MiB
BROKEN = (OSError, EOFError, SSHException)  # what paramiko raises when the channel or the line has ended

if TYPE_CHECKING:
    _Base = BufferedPipe[bytes]  # generic for the type checker only
else:
    _Base = BufferedPipe


# Bytes. Of the answers in front of one, no more than this is between the server's programs and us at a time: the
# buffers of sshd and of its system. When more has come since, what is waited for is late for a reason of its own.
_MOST_IN_FRONT = 8 << 20


class Incoming(Protocol):
    """What has come over the line of a channel: see `reach.Wire`."""

    @property
    def heard(self) -> int: ...
    @property
    def trickled_at(self) -> float: ...


class Closable(Protocol):
    """A channel, as far as ending it goes."""

    def close(self) -> None: ...


def close_channel(channel: Closable) -> None:
    """End a channel, also if the line that would have to tell the other side has ended already."""
    with contextlib.suppress(*BROKEN):
        channel.close()


class Mouth:
    """What one channel speaks through, in place of its transport: as much of it as a channel asks for.

    `_lock` is held while a message goes out, by the transport's own thread only where that need not wait.
    """

    server_object = None  # we are none

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._closed = False

    def give_to(self, channel: paramiko.Channel) -> None:
        """From now on the channel speaks through it."""
        channel.transport = self  # type: ignore[assignment]

    def get_exception(self) -> Exception | None:
        return self._transport.get_exception()

    def _send_user_message(self, message: paramiko.Message) -> None:
        if threading.current_thread() is self._transport and not self._transport.clear_to_send.is_set():
            # Keys are being exchanged, which is this thread's work: it would wait for itself. What it has to say here
            # is that the server's CLOSE was heard; EOF may be left out before that.
            threading.Thread(target=self._send, args=(message,), name="channel-close", daemon=True).start()
        else:
            self._send(message)

    def _send(self, message: paramiko.Message) -> None:
        """Raises SSHException, after the transport's own time-out, if keys are exchanged and that does not end."""
        with self._lock:
            if not self._closed:
                self._closed = message.asbytes()[:1] == cMSG_CHANNEL_CLOSE
                self._transport._send_user_message(message)  # type: ignore[attr-defined]

    def _unlink_channel(self, number: int) -> None:
        self._transport._unlink_channel(number)  # type: ignore[attr-defined]


class ChunkPipe(_Base):
    """A BufferedPipe that keeps its chunks. The lock protects the chunks, the size and the closed flag.

    paramiko takes whatever comes, also from a server that does not keep to the channel's window. Here more than
    `MOST_WAITING` bytes that nobody has read are the end of the pipe, and are let go.
    """

    def __init__(self, incoming: Incoming | None = None) -> None:
        super().__init__()
        self._incoming = incoming
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._ready: threading.Event | None = None

    def set_event(self, event: threading.Event) -> None:
        """See BufferedPipe: `event` is set while a read would not block."""
        with self._changed:
            self._ready = event
            self._tell()

    def feed(self, data: bytes) -> None:
        """Append what arrived."""
        if not data:
            return
        with self._changed:
            if self._ended:
                return
            self._chunks.append(data)
            self._size += len(data)
            if self._size > MOST_WAITING:
                self._chunks.clear()
                self._size = 0
                self._ended = True
            self._tell()
            self._changed.notify_all()

    def read_ready(self) -> bool:
        """Whether a read would return data at once."""
        return self._size > 0

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """At most `nbytes`, b"" at the end. Raises PipeTimeout after `timeout` seconds in which nothing came, of this
        channel or of a packet that may be its."""
        with self._changed:
            if not self._chunks and not self._ended:
                heard = 0 if self._incoming is None else self._incoming.heard
                deadline = None if timeout is None else time.monotonic() + timeout
                while not self._chunks and not self._ended:
                    left = None if deadline is None else deadline - time.monotonic()
                    if timeout is not None and left is not None and left <= 0:
                        left = self._still_coming(heard, timeout)
                        if left <= 0:
                            raise PipeTimeout
                    self._changed.wait(left)
            if not self._chunks:
                return b""
            chunk = self._chunks.popleft()
            if len(chunk) > nbytes:
                self._chunks.appendleft(chunk[nbytes:])
                chunk = chunk[:nbytes]
            self._size -= len(chunk)
            self._tell()
            return chunk

    def empty(self) -> bytes:
        """Take out everything."""
        with self._changed:
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._size = 0
            self._tell()
            return data

    def close(self) -> None:
        """No more will come: readers get what is there and then the end."""
        with self._changed:
            self._ended = True
            self._tell()
            self._changed.notify_all()

    def __len__(self) -> int:
        return self._size

    def _still_coming(self, heard: int, timeout: float) -> float:
        """Seconds to wait on, since something may be on its way; none or less: it is not."""
        incoming = self._incoming
        if incoming is None or incoming.heard - heard > _MOST_IN_FRONT:
            return 0
        return incoming.trickled_at + timeout - time.monotonic()

    def _tell(self) -> None:
        if self._ready is not None:
            if self._chunks or self._ended:
                self._ready.set()
            else:
                self._ready.clear()

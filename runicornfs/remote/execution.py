"""A command on the server: its input, its output, how it ended. Every wait has an end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import paramiko

from runicornfs.errors import ConnectionLost, TimedOut
from runicornfs.remote.channels import BROKEN, close_channel

_STDERR_TAIL = 8 << 10  # bytes of standard error that are kept for a message
_MOST_PIECES = 10_000  # of so much: all that a window holds; a command could write faster than we read
_LARGEST_SEND = 256 << 10  # bytes handed to paramiko at once, which copies what is left over


class ExecChannel:
    """One running command. Use it as a context manager; leaving it ends the channel.

    One thread may write while another reads.
    """

    def __init__(self, channel: paramiko.Channel, heard: Callable[[int], None]) -> None:
        self._channel = channel
        self._heard = heard  # told the number of bytes of each piece of output
        self._lock = threading.Lock()  # protects _stderr
        self._stderr = b""

    def write(self, data: bytes) -> None:
        """Give `data` to the command's standard input. Raises TimedOut or ConnectionLost."""
        view = memoryview(data)
        try:
            while view:
                sent = self._channel.send(bytes(view[:_LARGEST_SEND]))
                if sent == 0:
                    raise EOFError
                view = view[sent:]
        except TimeoutError as error:
            raise TimedOut("the command on the server took no more input for too long") from error
        except BROKEN as error:
            raise ConnectionLost("the command on the server ended before it had taken its input") from error

    def end_input(self) -> None:
        """Close the command's standard input: it reads its end."""
        try:
            self._channel.shutdown_write()
        except BROKEN as error:
            raise ConnectionLost("the connection to the server broke") from error

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of standard output as soon as there are some, b"" at its end.

        Raises TimedOut if nothing comes for the time-out, ConnectionLost if the line breaks before the output's end.
        """
        try:
            data = self._channel.recv(count)
        except TimeoutError as error:
            raise TimedOut("the command on the server made no progress for too long") from error
        except BROKEN as error:
            raise ConnectionLost("the connection to the server broke") from error
        self._drain_stderr()
        if not data and not self._channel.eof_received:
            raise ConnectionLost("the connection to the server broke before the command's output had ended")
        self._heard(len(data))
        return data

    def exit_status(self) -> int | None:
        """How the command ended, waited for (read its output first); None if the server does not say it.

        Raises TimedOut.
        """
        if not self._channel.status_event.wait(self._channel.gettimeout()):
            raise TimedOut("the command on the server has not ended")
        status = self._channel.exit_status
        return status if status >= 0 else None

    def stderr_tail(self) -> bytes:
        """The end of what the command wrote to standard error, as far as it has arrived."""
        self._drain_stderr()
        with self._lock:
            return self._stderr

    def close(self) -> None:
        """End the channel; sshd then ends the command's input and output."""
        close_channel(self._channel)

    def __enter__(self) -> ExecChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drain_stderr(self) -> None:
        """Take what is there, or the server would stop the command when 64 MiB wait to be read."""
        with self._lock:
            for _ in range(_MOST_PIECES):
                if not self._channel.recv_stderr_ready():
                    return
                self._stderr = (self._stderr + self._channel.recv_stderr(_STDERR_TAIL))[-_STDERR_TAIL:]

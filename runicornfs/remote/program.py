"""A program whose standard input and output are a line to a server: a proxy's, or ssh(1) itself.

The program gets one end of a socket pair, we have the other: a real socket, with time-outs and `shutdown`. It has a
session of its own, so that Ctrl-C reaches us alone and its whole group can be ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence

from runicornfs.errors import Unreachable

log = logging.getLogger("runicornfs.remote.program")

_LAST_WORDS_TIME = 1.0  # seconds that a program whose line has ended may take to say why
_FAREWELL_TIME = 2.0  # seconds that a program may take to end before it is killed
_LAST_WORDS = 2048  # bytes of its standard error that are kept
_LAST_LINES = 3  # of it that are shown: ssh(1) says first what went wrong and then what it gives up


class Program:
    """A program while it runs. `line` is our end of the connection; whoever takes it closes it.

    `close` may be called at any time, from any thread, and more than once. Raises Unreachable if it cannot be started.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name  # what people call it, for messages
        self._said = b""
        self.line, theirs = socket.socketpair()
        self._errors, errors = socket.socketpair()
        with theirs, errors:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=errors.fileno(),
                    start_new_session=True,
                )
            except OSError as error:
                self.line.close()
                self._errors.close()
                raise Unreachable(f"{command[0]} of {name} cannot be started: {error.strerror}") from error
        self._listener = threading.Thread(target=self._listen, name="runicornfs-program", daemon=True)
        self._listener.start()

    def last_words(self) -> str | None:
        """What a program whose line has ended says of it, for a message; None if it goes on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_TIME)
        if self._process.poll() is None:
            return None
        self._listener.join(_LAST_WORDS_TIME)
        lines = ("".join(filter(str.isprintable, line)) for line in self._said.decode(errors="replace").splitlines())
        words = "; ".join([line.strip(" .") for line in lines if line.strip()][-_LAST_LINES:])
        return words or f"it ended with status {self._process.returncode} and said nothing"

    def close(self) -> None:
        """End the program with everything that it has started, and wait until it has ended."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_FAREWELL_TIME)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        with contextlib.suppress(OSError):
            self._errors.shutdown(socket.SHUT_RDWR)  # something that outlives it may have the other end still
        self._listener.join()
        self._errors.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while heard := self._errors.recv(_LAST_WORDS):
                self._said = (self._said + heard)[-_LAST_WORDS:]
                log.debug("%s: %s", self.name, heard.decode(errors="replace").strip())

"""A program on a terminal of its own: what it shows is read, keys are typed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.waiting import PATIENCE_S


class Terminal:
    """The other end of a program's terminal."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # a new one has no width at all
        # setsid gives the program the terminal as its own, so that Ctrl-C reaches it.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command], env=environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)

    def read_until(self, expected: bytes) -> bytes:
        """What is shown from now on, up to and with `expected`."""
        seen = b""
        deadline = time.monotonic() + PATIENCE_S
        while expected not in seen:
            assert select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0], seen
            data = self._read()
            assert data, f"ended before {expected!r}: {seen!r}"
            seen += data
        return seen

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self) -> int:
        """Lets the program say what it still has to say; its status."""
        while select.select([self._master], [], [], PATIENCE_S)[0] and self._read():
            pass
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.type(b"\x03")
            self.wait()
        os.close(self._master)

    def _read(self) -> bytes:
        try:
            return os.read(self._master, 4096)
        except OSError:
            return b""  # the program has closed its end


@contextmanager
def on_terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Runs a program until the end of the block at the latest, where Ctrl-C is typed."""
    terminal = Terminal(command, environment)
    try:
        yield terminal
    finally:
        terminal.close()

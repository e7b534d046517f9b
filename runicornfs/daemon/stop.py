"""Ctrl-C, SIGTERM and a closed terminal end the program in order.

An exception that a signal handler raises can strike between any two steps, also while a lock of the standard library
is held, and leave it held for ever. So handlers do nothing here: the C level writes the signal's number to a pipe, a
thread reads it and sets an event, and whoever waits looks at the event.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How soon Ctrl-C is repeated to a question that it has not ended: it came just before the program began to read.
NUDGE_S = 0.1

_asking = threading.Event()  # the main thread is within `interruptible`


class Stopped(BaseException):
    """Somebody wants the program to end. No `except Exception` on the way may hold it up."""


class Stop:
    """The wish to end. Thread-safe, but for `watching`, which belongs to the main thread."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    def on_request(self, callback: Callable[[], None]) -> None:
        """`callback` is called, on a thread of its own, when the end is wished: to wake what would wait for long."""
        self._callbacks.append(callback)

    def wait(self, timeout_s: float) -> bool:
        """True as soon as the end is wished, False after the time."""
        return self._requested.wait(timeout_s)

    def check(self) -> None:
        """Raises Stopped if the end is wished."""
        if self._requested.is_set():
            raise Stopped

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within it the ending signals become a wish; leaving it by Stopped is no error. Signals that whoever started
        us wants ignored (nohup) stay ignored."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        before = {number: signal.getsignal(number) for number in ENDING}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _noted)
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True)
        watcher.start()
        try:
            with contextlib.suppress(Stopped):
                yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            writer.close()
            watcher.join()
            reader.close()

    def _watch(self, reader: socket.socket) -> None:
        while numbers := reader.recv(16):
            if signal.SIGINT in numbers and _asking.is_set():
                time.sleep(NUDGE_S)
                if _asking.is_set():
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                continue
            if not self._requested.is_set() and any(number in ENDING for number in numbers):
                self._requested.set()
                for callback in self._callbacks:
                    callback()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within it the signals do what they do to any program: for a question to a person, before anything is set up.

    On the main thread.
    """
    during = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _asking.set()
    try:
        yield
    finally:
        _asking.clear()
        for number, handler in during.items():
            signal.signal(number, handler)


def _noted(number: int, frame: FrameType | None) -> None:
    """The number is in the pipe already."""

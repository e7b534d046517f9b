"""Ctrl-C and SIGTERM end the program in order: the first one unwinds what was set up, later ones wait for that."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody wants the program to end. No `except Exception` on the way may hold it up."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within it the first ending signal raises Stopped in the main thread, and leaving by it is no error."""

    def stop(number: int, frame: FrameType | None) -> None:
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)
        raise Stopped

    before = {number: signal.signal(number, stop) for number in ENDING}
    try:
        with contextlib.suppress(Stopped):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

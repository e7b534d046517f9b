"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

# Longer than anything takes on a machine that is very busy, shorter than the time-out of a test.
PATIENCE_S = 30.0
POLL_S = 0.01


def wait_until(condition: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Returns as soon as `condition()` is true; AssertionError, which names `what` was waited for, if it never is."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        time.sleep(POLL_S)

"""A few threads and the things that are ready for them, each of which is in the queue at most once.

The same thing may be given to a second thread while a first one still has it; whoever does not want that says so
itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger("runicornfs.content")

# How often things that were not chosen are looked at again.
POLL_S = 0.1


T = TypeVar("T")


class Workers(Generic[T]):
    """Thread-safe. `_ready` protects the queue and `_stopping`; it is a leaf.

    The queue is `_items`, in order of arrival, each with the time (monotonic) when it came.

    `run(item)` must not raise: what it raises all the same is logged.
    """

    def __init__(self, name: str, count: int, run: Callable[[T], None]) -> None:
        self._run = run
        self._ready = threading.Condition()
        self._items: dict[T, float] = {}
        self._stopping = False
        # Daemonic: a thread that waits for a dead server must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name=f"runicornfs-{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: T) -> None:
        """Queues the item, if it is not queued already. After `stop` nothing happens."""
        with self._ready:
            if not self._stopping and item not in self._items:
                self._items[item] = time.monotonic()
                self._ready.notify()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Empties the queue; the threads end with what they are at."""
        with self._ready:
            self._stopping = True
            self._items.clear()
            self._ready.notify_all()

    def join(self, timeout_s: float) -> bool:
        """After `stop`: whether all threads have ended within this time."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._run(item)
            except Exception:
                log.exception("a thread of the content cache met what it does not know")

    def _next(self) -> T | None:
        with self._ready:
            while not self._stopping:
                item = self._choose()
                if item is not None:
                    del self._items[item]
                    return item
                self._ready.wait(POLL_S if self._items else None)
            return None

    def _choose(self) -> T | None:
        """What to do now, of what is queued. With `_ready` held."""
        return next(iter(self._items), None)

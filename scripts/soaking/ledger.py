"""What happens in a soak, as all of its actors write it down: the time line, counts, latencies, faults, the violation.

Thread-safe: `_lock` protects everything here and is never held while anything waits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Latencies kept of each kind of operation: enough for a 99th percentile, little enough for an hour.
LATENCIES = 20_000
# After a fault: what was under way when it ended may still get its error.
AFTERMATH_S = 5.0


class Violation(Exception):
    """An invariant does not hold: the soak ends."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@dataclass
class Trouble:
    """A fault that is on, or was; times in monotonic seconds."""

    scope: str
    start: float
    end: float | None = None


class Ledger:
    """path: the file that gets every line of the time line."""

    def __init__(self, path: Path) -> None:
        self.began = time.monotonic()
        self.stop = threading.Event()
        self.violation: Violation | None = None
        self.counts: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = defaultdict(list)
        self._lock = threading.Lock()
        self._troubles: list[Trouble] = []
        self._file = open(path, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115

    def close(self) -> None:
        self._file.close()

    def note(self, who: str, what: str) -> None:
        """One line of the time line."""
        with self._lock:
            if not self._file.closed:
                self._file.write(f"{time.monotonic() - self.began:9.3f} {who}: {what}\n")

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def reached(self, what: str, number: int) -> None:
        """What a daemon counts by itself, since it was started."""
        with self._lock:
            self.counts[what] = number

    def took(self, what: str, seconds: float) -> None:
        """An operation of this kind has ended well."""
        with self._lock:
            self.counts[what] += 1
            latencies = self.latencies[what]
            if len(latencies) < LATENCIES:
                latencies.append(seconds)
            else:  # the newest take the places of the oldest
                latencies[self.counts[what] % LATENCIES] = seconds

    def fail(self, violation: Violation) -> None:
        """The first one counts, and ends the soak."""
        self.note("violation", str(violation))
        with self._lock:
            if self.violation is None:
                self.violation = violation
        self.stop.set()

    # Faults

    @contextlib.contextmanager
    def trouble(self, scope: str) -> Iterator[None]:
        """While this is on, and a little longer, errors that belong to it are allowed."""
        trouble = Trouble(scope, time.monotonic())
        with self._lock:
            self._troubles.append(trouble)
        try:
            yield
        finally:
            trouble.end = time.monotonic()

    def troubled(self, scope: str, start: float, end: float | None = None) -> bool:
        """Whether such a fault was on at some moment between the two; without `end`: until now."""
        last = time.monotonic() if end is None else end
        with self._lock:
            troubles = list(self._troubles)
        return any(
            trouble.scope == scope
            and trouble.start <= last
            and (trouble.end is None or trouble.end + AFTERMATH_S >= start)
            for trouble in troubles
        )


class Gate:
    """Lets operations through, or holds them back and waits until none is under way."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._changed = threading.Condition()
        self._open = True
        self._inside: Counter[str] = Counter()

    @contextlib.contextmanager
    def passed(self, who: str) -> Iterator[None]:
        """One operation."""
        with self._changed:
            while not self._open and not self._stop.is_set():
                self._changed.wait(0.5)
            self._inside[who] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[who] -= 1
                self._changed.notify_all()

    def shut(self, within_s: float) -> list[str]:
        """Returns who is still inside when nobody is, or after that time."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: not any(self._inside.values()), within_s)
            return sorted(name for name, number in self._inside.items() if number)

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

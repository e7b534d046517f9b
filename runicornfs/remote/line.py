"""How much to have on its way: the measure of one line, after BBR (RFC draft-cardwell-iccrg-bbr-congestion-control).

A transfer is fastest when about twice what fits into the line (bandwidth × delay) is asked for and not yet answered:
less leaves the line idle, more only makes the others wait. Both factors are measured from the answers themselves.

`_lock` protects everything; it is held for arithmetic only. All sessions of a connection share one Line.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

MIN_WINDOW = 1 << 20  # bytes: what a new line starts with, and the slack that lets a faster line show itself
MAX_WINDOW = 64 << 20  # bytes of answers on their way over one connection: a bound on memory; 300 ms at 200 MB/s
_LEAST_SHARE = 256 << 10  # bytes that a transfer may always have on its way: one large request
_KEPT_ROUNDS = 10  # round trips whose best rate counts: long enough to outlast one that was disturbed (BBR: 10)
_KEPT_ROUND_TRIPS = 8  # measurements on an idle line of which the least counts: forgets a line that has become longer
_GROWTH = 1.25  # a round trip that is not a quarter faster than the best before did not profit from its larger window
_PATIENCE = 3  # such round trips in a row until the line counts as full (BBR: 3)
_FILLED = 0.75  # share of the window that has to be in use before a round trip says something about the line


@dataclass(frozen=True, slots=True)
class Stamp:
    """The state of the line when a request went out."""

    sent_at: float
    delivered: int
    delivered_at: float
    alone: bool  # nothing else was on its way: the time to the answer is the line's own delay


class Line:
    """Rate, delay and window of one connection. Thread-safe. Times are `time.monotonic()` seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = MIN_WINDOW
        self._transfers = 0
        self._in_flight = 0
        self._peak = 0  # most in flight since the round trip began
        self._delivered = 0
        self._delivered_at = 0.0
        self._round_ends = 0  # value of _delivered at which the present round trip is over
        self._round_rate = 0.0
        self._rates: deque[float] = deque(maxlen=_KEPT_ROUNDS)
        self._best_rate = 0.0  # while growing: what the next round trip has to beat
        self._growing = True
        self._stale_rounds = 0
        self._round_trips: deque[float] = deque(maxlen=_KEPT_ROUND_TRIPS)

    @property
    def window(self) -> int:
        """Bytes that all transfers together should have on their way."""
        return self._window

    def share(self) -> int:
        """Bytes that one of the running transfers should have on its way."""
        return max(self._window // max(self._transfers, 1), _LEAST_SHARE)

    def round_trip(self) -> float | None:
        """Seconds from a request to its answer on the idle line; None while unknown."""
        with self._lock:
            return min(self._round_trips) if self._round_trips else None

    def rate(self) -> float:
        """Bytes a second that the line has delivered at its best of late; 0 while unknown."""
        with self._lock:
            return self._rate()

    def transfer_begins(self) -> None:
        """One more shares the window."""
        with self._lock:
            self._transfers += 1

    def transfer_ends(self) -> None:
        """One less shares the window."""
        with self._lock:
            self._transfers -= 1

    def sent(self, size: int, now: float) -> Stamp:
        """A request for `size` bytes goes out now. Its Stamp goes to `answered` or `size` to `abandoned`."""
        with self._lock:
            alone = self._in_flight == 0
            if alone:
                self._delivered_at = now
            self._in_flight += size
            self._peak = max(self._peak, self._in_flight)
            return Stamp(now, self._delivered, self._delivered_at, alone)

    def answered(self, stamp: Stamp, asked: int, size: int, now: float) -> None:
        """`size` bytes have come for a request for `asked` (0: a request for no data; it only tells the delay)."""
        with self._lock:
            self._in_flight -= asked
            took = now - stamp.sent_at
            if stamp.alone or not self._round_trips or took < min(self._round_trips):
                self._round_trips.append(took)
            if asked == 0:
                return
            self._delivered += size
            self._delivered_at = now
            elapsed = now - stamp.delivered_at
            if elapsed > 0:
                self._round_rate = max(self._round_rate, (self._delivered - stamp.delivered) / elapsed)
            if stamp.delivered >= self._round_ends:
                self._next_round()

    def abandoned(self, size: int) -> None:
        """The answers to requests for `size` bytes will not come."""
        with self._lock:
            self._in_flight -= size

    def _rate(self) -> float:
        return max(self._rates, default=0.0)

    def _next_round(self) -> None:
        rate, filled = self._round_rate, self._peak >= _FILLED * self._window
        self._round_ends = self._delivered
        self._round_rate, self._peak = 0.0, self._in_flight
        if not filled and rate <= self._rate():
            return  # less was asked for than would have fitted: says nothing about the line
        self._rates.append(rate)
        if self._growing and filled:
            if rate >= _GROWTH * self._best_rate:
                self._best_rate, self._stale_rounds = rate, 0
                self._window = min(2 * self._window, MAX_WINDOW)
            else:
                self._stale_rounds += 1
                self._growing = self._stale_rounds < _PATIENCE
        fitting = int(2 * self._rate() * min(self._round_trips)) + MIN_WINDOW
        fitting = min(max(fitting, MIN_WINDOW), MAX_WINDOW)
        self._window = max(self._window, fitting) if self._growing else fitting

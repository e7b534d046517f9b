"""The window follows a simulated line: a pipe of a rate and a delay that answers requests in order."""

from __future__ import annotations

from collections import deque

import pytest

from runicornfs.remote.line import MAX_WINDOW, MIN_WINDOW, Line, Stamp

_REQUEST = 200 << 10  # bytes


class Simulation:
    """A line with its own clock: each answer comes when those before it have passed, at least a round trip later."""

    def __init__(self, rate: float, round_trip: float) -> None:
        self.line = Line()
        self.now = 1.0
        self.delivered = 0
        self._rate = rate
        self._round_trip = round_trip
        self._free_at = 0.0
        self._on_its_way: deque[tuple[float, Stamp]] = deque()

    def run(self, seconds: float, most_in_flight: int = MAX_WINDOW) -> None:
        """Ask for as much as the line's share allows, for that long; then let what is on its way arrive."""
        until = self.now + seconds
        self.line.transfer_begins()
        while self.now < until or self._on_its_way:
            while self.now < until and len(self._on_its_way) * _REQUEST < min(self.line.share(), most_in_flight):
                self._free_at = max(self._free_at, self.now + self._round_trip) + _REQUEST / self._rate
                self._on_its_way.append((self._free_at, self.line.sent(_REQUEST, self.now)))
            self.now, stamp = self._on_its_way.popleft()
            self.line.answered(stamp, _REQUEST, _REQUEST, self.now)
            self.delivered += _REQUEST
        self.line.transfer_ends()


def test_nothing_is_known_before_anything_was_measured() -> None:
    line = Line()
    assert line.round_trip() is None
    assert line.rate() == 0
    assert line.window == MIN_WINDOW


@pytest.mark.parametrize(
    ("rate", "round_trip"), [(12.5e6, 0.05), (125e6, 0.05), (200e6, 0.02), (1e9, 0.0003), (1e6, 0.3), (125e6, 0.2)]
)
def test_rate_and_delay_of_a_line_are_found(rate: float, round_trip: float) -> None:
    simulation = Simulation(rate, round_trip)
    simulation.run(5)
    measured = simulation.line.round_trip()
    assert measured is not None
    assert measured == pytest.approx(round_trip + _REQUEST / rate, rel=0.1)
    assert simulation.line.rate() == pytest.approx(rate, rel=0.2)


@pytest.mark.parametrize(("rate", "round_trip"), [(12.5e6, 0.05), (125e6, 0.05), (200e6, 0.02), (100e6, 0.2)])
def test_a_line_is_filled_but_not_flooded(rate: float, round_trip: float) -> None:
    simulation = Simulation(rate, round_trip)
    simulation.run(5)  # finds out
    before, began = simulation.delivered, simulation.now
    simulation.run(5)
    assert (simulation.delivered - before) / (simulation.now - began) > 0.93 * rate
    assert simulation.line.window < 4 * rate * round_trip + 4 * MIN_WINDOW


def test_the_window_stays_within_its_bounds() -> None:
    simulation = Simulation(2e9, 0.5)
    simulation.run(20)
    assert simulation.line.window == MAX_WINDOW


def test_round_trips_that_were_not_filled_do_not_shrink_the_window() -> None:
    simulation = Simulation(125e6, 0.05)
    simulation.run(5)
    window = simulation.line.window
    simulation.run(5, most_in_flight=_REQUEST)
    assert simulation.line.window == window


def test_transfers_share_the_window() -> None:
    simulation = Simulation(125e6, 0.05)
    simulation.run(5)
    line = simulation.line
    line.transfer_begins()
    assert line.share() == line.window
    line.transfer_begins()
    assert line.share() == line.window // 2
    line.transfer_ends()
    assert line.share() == line.window


def test_a_line_that_has_become_longer_is_noticed() -> None:
    line = Line()
    for round_trip in [0.01] * 8 + [0.1] * 8:
        line.answered(line.sent(0, 1.0), 0, 0, 1.0 + round_trip)
    assert line.round_trip() == pytest.approx(0.1)


def test_abandoned_requests_do_not_count_as_on_their_way() -> None:
    line = Line()
    line.sent(1000, 1.0)
    line.abandoned(1000)
    assert line.sent(1000, 2.0).alone

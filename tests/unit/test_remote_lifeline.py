"""A line that is lost is replaced in the background; nobody waits for it longer than for one attempt."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from runicornfs.errors import AuthenticationFailed, ConnectionLost, RunicornFSError, Unreachable
from runicornfs.remote import lifeline as module
from runicornfs.remote.lifeline import Lifeline, State
from tests.waiting import wait_until


class FakeLink:
    """A link that lives until it is closed or cut."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self.warmed_up = threading.Event()

    @property
    def is_alive(self) -> bool:
        return not self._over.is_set()

    def warm_up(self) -> None:
        self.warmed_up.set()

    def wait_closed(self) -> None:
        self._over.wait()

    def close(self) -> None:
        self._over.set()


class Door:
    """Opens links as told: each attempt waits for `outcomes` to say how it ends."""

    def __init__(self) -> None:
        self.outcomes: queue.Queue[RunicornFSError | Exception | None] = queue.Queue()
        self.attempts = 0
        self.links: list[FakeLink] = []

    def open(self, started: Callable[[socket.socket], None]) -> FakeLink:
        self.attempts += 1
        ours, theirs = socket.socketpair()
        with ours, theirs:
            started(ours)
            ours.settimeout(0.01)
            while self.outcomes.empty():
                try:
                    if ours.recv(1) == b"":
                        raise Unreachable("the attempt was ended")
                except TimeoutError:
                    continue
        outcome = self.outcomes.get()
        if outcome is not None:
            raise outcome
        self.links.append(FakeLink())
        return self.links[-1]


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    return Door()


@pytest.fixture
def line(door: Door) -> Iterator[Lifeline[FakeLink]]:
    before = threading.active_count()
    lifeline: Lifeline[FakeLink] = Lifeline("gpu", door.open, patience=20.0)
    yield lifeline
    lifeline.close()
    assert threading.active_count() <= before


def connected(line: Lifeline[FakeLink], door: Door) -> FakeLink:
    door.outcomes.put(None)
    line.connect()
    return door.links[-1]


def test_connecting_goes_through_its_states_and_warms_the_link_up(line: Lifeline[FakeLink], door: Door) -> None:
    states: list[State] = []
    line.on_state(states.append)
    link = connected(line, door)
    assert states == ["connecting", "connected"]
    assert line.usable() is link
    assert link.warmed_up.wait(10)
    line.close()
    assert states == ["connecting", "connected", "disconnected"]
    assert not link.is_alive


def test_connecting_again_while_connected_does_nothing(line: Lifeline[FakeLink], door: Door) -> None:
    link = connected(line, door)
    line.connect()
    assert line.usable() is link
    assert door.attempts == 1


def test_a_first_connection_that_fails_is_the_callers_error(line: Lifeline[FakeLink], door: Door) -> None:
    door.outcomes.put(AuthenticationFailed("no"))
    with pytest.raises(AuthenticationFailed):
        line.connect()
    assert line.state == "disconnected"
    assert str(line.last_error) == "no"
    with pytest.raises(Unreachable, match="not connected: no"):
        line.usable()
    connected(line, door)
    assert line.last_error is None


def test_without_a_connection_callers_are_told_at_once(line: Lifeline[FakeLink]) -> None:
    with pytest.raises(Unreachable, match="gpu is not connected"):
        line.usable()


def test_a_caller_waits_for_the_first_attempt_to_reconnect(
    line: Lifeline[FakeLink], door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    connected(line, door).close()
    got: list[FakeLink] = []
    caller = threading.Thread(target=lambda: got.append(line.usable()))
    caller.start()
    wait_until(lambda: door.attempts == 2, "the attempt to reconnect")
    assert got == []
    door.outcomes.put(None)
    caller.join(20)
    assert got == [door.links[1]]
    wait_until(lambda: line.state == "connected", "the state to say so")
    assert "lost" in caplog.text


def test_after_an_attempt_has_failed_callers_are_told_at_once_until_one_succeeds(
    line: Lifeline[FakeLink], door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    connected(line, door).close()
    door.outcomes.put(Unreachable("it is away"))
    wait_until(lambda: door.attempts == 3, "another attempt in the background")
    with pytest.raises(Unreachable, match="it is away"):
        line.usable()
    assert line.state == "reconnecting"
    door.outcomes.put(None)
    wait_until(lambda: line.state == "connected", "the line to come back")
    assert line.usable() is door.links[1]
    assert line.last_error is None


def test_a_lost_line_has_its_state_and_its_reason(
    line: Lifeline[FakeLink], door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    connected(line, door).close()
    wait_until(lambda: line.state == "reconnecting", "the loss to be noticed")
    assert isinstance(line.last_error, ConnectionLost)
    assert line.link is None


@pytest.mark.parametrize("error", [AuthenticationFailed("no more"), ZeroDivisionError("a bug")])
def test_an_error_that_trying_again_does_not_mend_ends_the_attempts(
    line: Lifeline[FakeLink], door: Door, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    connected(line, door).close()
    door.outcomes.put(error)
    wait_until(lambda: line.state == "disconnected", "it to give up")
    with pytest.raises(Unreachable, match="no more|ZeroDivisionError"):
        line.usable()
    assert door.attempts == 2
    assert connected(line, door).is_alive


def test_closing_ends_an_attempt_that_runs(
    line: Lifeline[FakeLink], door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    connected(line, door).close()
    wait_until(lambda: door.attempts == 2, "the attempt to reconnect")
    line.close()  # the fixture sees that no thread is left
    assert line.state == "disconnected"


def test_closing_ends_a_first_connection_that_is_being_made(line: Lifeline[FakeLink], door: Door) -> None:
    errors: list[Exception] = []

    def connect() -> None:
        try:
            line.connect()
        except Unreachable as error:
            errors.append(error)

    caller = threading.Thread(target=connect)
    caller.start()
    wait_until(lambda: door.attempts == 1, "the attempt")
    line.close()
    caller.join(20)
    assert len(errors) == 1
    assert line.state == "disconnected"


def test_closing_wakes_who_waits_for_the_line(
    line: Lifeline[FakeLink], door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    connected(line, door).close()
    errors: list[Exception] = []

    def use() -> None:
        try:
            line.usable()
        except Unreachable as error:
            errors.append(error)

    caller = threading.Thread(target=use)
    caller.start()
    wait_until(lambda: door.attempts == 2, "the attempt to reconnect")
    line.close()
    caller.join(20)
    assert len(errors) == 1


def test_a_link_that_breaks_while_it_is_being_announced_is_replaced(
    line: Lifeline[FakeLink], door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    states: list[State] = []

    def cut_the_first(state: State) -> None:
        states.append(state)
        if states == ["connecting", "connected"]:
            door.links[0].close()
            door.outcomes.put(None)

    line.on_state(cut_the_first)
    connected(line, door)
    wait_until(lambda: len(states) == 4, "the second link")
    assert states == ["connecting", "connected", "reconnecting", "connected"]
    assert line.usable() is door.links[1]


def test_a_listener_that_fails_harms_nobody(
    line: Lifeline[FakeLink], door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    states: list[State] = []

    def fail(state: State) -> None:
        raise ZeroDivisionError

    line.on_state(fail)
    line.on_state(states.append)
    connected(line, door)
    assert states == ["connecting", "connected"]
    assert "a listener failed" in caplog.text


def test_a_line_that_is_pursued_comes_up_as_soon_as_it_can(door: Door, line: Lifeline[FakeLink]) -> None:
    line.pursue()
    assert line.state == "connecting"
    door.outcomes.put(Unreachable("away"))
    wait_until(lambda: line.state == "reconnecting", "the first attempt to fail")
    with pytest.raises(Unreachable, match="away"):
        line.usable()
    door.outcomes.put(None)
    wait_until(lambda: line.state == "connected", "the second attempt")
    assert line.usable() is door.links[0]


def test_a_line_that_is_pursued_is_waited_for(door: Door, line: Lifeline[FakeLink]) -> None:
    line.pursue()
    door.outcomes.put(None)
    assert line.usable() is door.links[0]
    line.pursue()
    assert door.attempts == 1, "it is there already"


def test_pursuing_ends_where_it_is_pointless(door: Door, line: Lifeline[FakeLink]) -> None:
    line.pursue()
    door.outcomes.put(AuthenticationFailed("no"))
    wait_until(lambda: line.state == "disconnected", "the end of the attempts")
    assert door.attempts == 1


def test_pursuing_ends_with_the_line(door: Door, line: Lifeline[FakeLink]) -> None:
    line.pursue()
    wait_until(lambda: door.attempts == 1, "an attempt")
    line.close()
    assert line.state == "disconnected"

"""When a process is worth its login: the rule alone, with lines of any length and no process at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runicornfs.errors import Unreachable
from runicornfs.remote.bulk import Bulk
from runicornfs.remote.line import Line
from runicornfs.remote.sshprocess import SshProcess
from tests.waiting import wait_until

MIB = 1 << 20


class Starts:
    """Counts how often a process would have been started; none can be."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def __call__(self) -> Iterator[SshProcess]:
        self.count += 1
        raise Unreachable("there is no ssh")
        yield


def line(round_trip_s: float | None) -> Line:
    measured = Line()
    if round_trip_s is not None:
        measured.answered(measured.sent(0, 0.0), 0, 0, round_trip_s)
    return measured


def starts(round_trip_s: float | None, mib: int, *, always: bool = False) -> int:
    """How many processes are started for so many MiB, asked for one by one."""
    counted = Starts()
    bulk = Bulk(counted, line(round_trip_s), lambda: None, always=always)
    for _ in range(mib):
        bulk.moved(MIB)
    bulk.close()
    return counted.count


@pytest.mark.parametrize("round_trip_s", [0.0001, 0.0019])
def test_much_over_a_short_line_starts_one(round_trip_s: float) -> None:
    assert starts(round_trip_s, 8) == 1


@pytest.mark.parametrize("round_trip_s", [None, 0.0021, 0.05])
def test_a_line_that_is_long_or_not_known_starts_none(round_trip_s: float | None) -> None:
    assert starts(round_trip_s, 100) == 0


def test_always_means_on_any_line() -> None:
    assert starts(0.05, 8, always=True) == 1


def test_little_starts_none() -> None:
    assert starts(0.0001, 7) == 0


def test_little_now_and_then_does_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr("runicornfs.remote.bulk.time.monotonic", lambda: 1.1 * next(now))
    assert starts(0.0001, 100) == 0


def test_what_has_failed_once_is_not_tried_again() -> None:
    counted = Starts()
    bulk = Bulk(counted, line(0.0001), lambda: None)
    bulk.moved(8 * MIB)
    wait_until(lambda: "runicornfs-bulk" not in {thread.name for thread in threading.enumerate()}, "the attempt to end")
    bulk.moved(8 * MIB)
    bulk.close()
    assert counted.count == 1
    with bulk.borrow() as session:
        assert session is None

"""Single fields of the store's JSON."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from runicornfs.store.fields import TIME_LIMIT, nanoseconds_of


@given(st.floats(-TIME_LIMIT, TIME_LIMIT))
@example(1_500_000_000.25)
@example(-0.25)
def test_a_time_in_nanoseconds_is_the_number_that_the_record_has(seconds: float) -> None:
    assert abs(Fraction(nanoseconds_of(seconds), 10**9) - Fraction(seconds)) < Fraction(6, 10**10)


def test_large_times_lose_nothing() -> None:
    assert nanoseconds_of(1_500_000_000.25) == 1_500_000_000_250_000_000

"""Block arithmetic and the map at rest."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.content import blocks
from runicornfs.content.blocks import ABSENT, BLOCK, FLYING, PRESENT, WANTED, WITHHELD, absent_runs, pack, unpack


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (BLOCK, 1), (BLOCK + 1, 2)])
def test_the_last_block_may_be_short(size: int, count: int) -> None:
    assert blocks.count_of(size) == count
    assert blocks.bytes_in(0, count, size) == size


def test_blocks_behind_the_end_have_no_bytes() -> None:
    assert blocks.bytes_in(3, 5, 2 * BLOCK) == 0


def test_the_map_at_rest_is_as_it_was_when_the_format_was_made() -> None:
    """Whoever changes this changes `records.FORMAT`, too: caches of people are read with it."""
    assert unpack(bytes.fromhex("780163646060040000090003"), 4) == bytearray([PRESENT, ABSENT, ABSENT, PRESENT])


@given(st.lists(st.sampled_from([ABSENT, PRESENT, WANTED, FLYING, WITHHELD])))
def test_at_rest_only_what_is_on_the_disk_counts(states: list[int]) -> None:
    kept = unpack(pack(bytearray(states)), len(states))
    assert list(kept) == [PRESENT if state in (PRESENT, WITHHELD) else ABSENT for state in states]


@pytest.mark.parametrize("data", [b"", b"nonsense", pack(bytearray(3)), pack(bytearray(5)), b"x" * 10_000_000])
def test_a_map_that_is_not_one_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="map of blocks"):
        unpack(data, 4)


def test_a_map_with_other_states_is_refused() -> None:
    with pytest.raises(ValueError, match="map of blocks"):
        unpack(zlib.compress(bytes([1, 2, 0])), 3)


def test_absent_runs_are_what_lies_between() -> None:
    assert list(absent_runs(bytearray([0, 0, 1, 0, 1, 1, 0]))) == [(0, 2), (3, 4), (6, 7)]


@given(st.sets(st.integers(0, 40)))
def test_runs_hold_the_same_blocks(numbers: set[int]) -> None:
    found = blocks.runs(numbers)
    assert [block for first, stop in found for block in range(first, stop)] == sorted(numbers)
    assert all(a[1] < b[0] for a, b in zip(found, found[1:], strict=False))

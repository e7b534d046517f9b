"""What is fetched ahead of a reader, as a matter of block numbers."""

from __future__ import annotations

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.content.readahead import LEAST_WINDOW, MOST_WINDOW, SMALL_FILE, START, ReadAhead, window_blocks

COUNT = 10_000
LIMIT = 64


def ahead_of(count: int = COUNT, limit: int = LIMIT) -> ReadAhead:
    return ReadAhead(count * BLOCK, count, lambda: limit)


def reach_after(ahead: ReadAhead, reads: list[int]) -> int:
    """Reads these blocks; how far ahead was asked for."""
    wishes = [ahead.note(block, block + 1) for block in reads]
    return max((wish[1] for wish in wishes if wish is not None), default=0)


def test_a_reader_from_the_start_gets_a_little_at_first() -> None:
    assert ahead_of().note(0, 1) == (1, 1 + START)


def test_the_window_grows_with_a_sequential_reader_up_to_its_limit() -> None:
    ahead = ahead_of()
    assert reach_after(ahead, list(range(500))) == pytest.approx(500 + LIMIT, abs=LIMIT // 4 + 1)


def test_what_is_fetched_ahead_is_a_few_times_what_was_read() -> None:
    ahead = ahead_of(limit=COUNT)
    assert reach_after(ahead, list(range(8))) <= 5 * 8


def test_a_grown_window_is_topped_up_before_most_of_it_is_used() -> None:
    ahead = ahead_of()
    reach = 0
    for block in range(1000):
        wish = ahead.note(block, block + 1)
        reach = wish[1] if wish else reach
        if block > 2 * LIMIT:
            assert reach - block >= LIMIT * 3 // 4 - 1


def test_wishes_follow_each_other_without_gap_or_overlap() -> None:
    ahead = ahead_of()
    wishes = [wish for block in range(300) if (wish := ahead.note(block, block + 1))]
    assert all(before[1] == after[0] for before, after in zip(wishes, wishes[1:], strict=False))


def test_a_random_reader_gets_only_what_it_reads() -> None:
    assert reach_after(ahead_of(), [500, 4000, 90, 7000, 2500, 9000]) == 0


def test_a_first_read_at_the_end_starts_no_download() -> None:
    ahead = ahead_of()
    assert reach_after(ahead, [COUNT - 1, COUNT - 2, COUNT - 1]) == 0


def test_reading_the_same_block_again_and_again_is_not_going_forward() -> None:
    ahead = ahead_of()
    assert reach_after(ahead, [700] * 20) == 0


def test_requests_that_overtake_each_other_are_still_sequential() -> None:
    shuffled = [block ^ 3 for block in range(400)]
    assert reach_after(ahead_of(), shuffled) >= 400 + LIMIT * 3 // 4


def test_two_streams_of_one_descriptor_both_grow() -> None:
    ahead = ahead_of()
    reads = [block for step in range(200) for block in (step, 5000 + step)]
    wishes = [wish for block in reads if (wish := ahead.note(block, block + 1))]
    assert max(stop for _, stop in wishes if stop < 5000) >= 200 + LIMIT // 2
    assert max(stop for _, stop in wishes) >= 5200 + LIMIT // 2


def test_a_small_file_comes_whole_with_its_first_read_wherever_that_is() -> None:
    count = SMALL_FILE // BLOCK
    assert ReadAhead(SMALL_FILE, count, lambda: LIMIT).note(count - 1, count) == (0, count)


def test_nothing_is_wished_behind_the_end() -> None:
    assert reach_after(ahead_of(count=50), list(range(50))) == 50


def test_read_ahead_that_did_not_come_is_wished_again() -> None:
    ahead = ahead_of()
    reach_after(ahead, list(range(100)))
    wish = ahead.note(100, 101, lost=True)
    assert wish is not None
    assert wish[0] == 101


def test_the_window_is_what_the_line_needs() -> None:
    assert window_blocks(0.05, 0) * BLOCK == 2 * LEAST_WINDOW
    assert window_blocks(0.05, 100e6) * BLOCK == pytest.approx(2 * (2 * 100e6 * 0.05 + LEAST_WINDOW), abs=BLOCK)
    assert window_blocks(10, 1e9) * BLOCK == MOST_WINDOW

"""What is fetched ahead of a reader, as a matter of block numbers."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runicornfs.content.blocks import BLOCK
from runicornfs.content.readahead import (
    ALLOWANCE,
    HOLE,
    LEAST_WINDOW,
    MOST_WINDOW,
    SMALL_FILE,
    START,
    STREAMS,
    Advice,
    Place,
    ReadAhead,
    window_blocks,
)

COUNT = 10_000
LIMIT = 64


class Reader:
    """One reader of a content, of its own or one that others read, too."""

    def __init__(self, count: int, limit: int, ahead: ReadAhead | None = None) -> None:
        self.ahead = ahead or ReadAhead(count * BLOCK, count)
        self.place = Place(lambda: limit)

    def note(self, first: int, stop: int, lost: bool = False) -> Advice | None:
        return self.ahead.note(self.place, first, stop, lost)


def ahead_of(count: int = COUNT, limit: int = LIMIT) -> Reader:
    return Reader(count, limit)


def spans_after(ahead: Reader, reads: list[int]) -> list[tuple[int, int]]:
    """Reads these blocks; the spans that were to be fetched ahead."""
    advices = [ahead.note(block, block + 1) for block in reads]
    return [span for advice in advices if advice is not None for span in advice.spans]


def reach_after(ahead: Reader, reads: list[int]) -> int:
    """Reads these blocks; how far ahead was asked for."""
    return max((stop for _, stop in spans_after(ahead, reads)), default=0)


def test_a_reader_from_the_start_gets_a_little_at_first() -> None:
    assert spans_after(ahead_of(), [0]) == [(1, 1 + START)]


def test_the_window_grows_with_a_sequential_reader_up_to_its_limit() -> None:
    ahead = ahead_of()
    assert reach_after(ahead, list(range(500))) == pytest.approx(500 + LIMIT, abs=LIMIT // 4 + 1)


def test_what_is_fetched_ahead_is_half_of_what_was_read() -> None:
    ahead = ahead_of(limit=COUNT)
    assert reach_after(ahead, list(range(1000, 1100))) <= 1150


def test_who_loads_a_file_from_its_start_on_gets_twice_what_was_read() -> None:
    ahead = ahead_of(limit=COUNT)
    assert 150 < reach_after(ahead, list(range(100))) <= 300


def test_who_begins_to_load_it_with_reads_that_overtake_each_other_does_too() -> None:
    ahead = ahead_of(limit=COUNT)
    swapped = [block ^ 1 for block in range(100)]
    assert 150 < reach_after(ahead, swapped) <= 300


def test_who_has_looked_elsewhere_before_gets_half() -> None:
    ahead = ahead_of(limit=COUNT)
    reach_after(ahead, [5000, 6000, 7000, 8000])
    assert reach_after(ahead, list(range(100))) <= 152


def test_a_grown_window_is_topped_up_before_most_of_it_is_used() -> None:
    ahead = ahead_of()
    reach = 0
    for block in range(1000):
        reach = max(reach, reach_after(ahead, [block]))
        if block > 4 * LIMIT:
            assert reach - block >= LIMIT * 3 // 4 - 1


def test_wishes_follow_each_other_without_gap_or_overlap() -> None:
    ahead = ahead_of()
    wishes = spans_after(ahead, list(range(300)))
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
    spans = spans_after(ahead_of(), [block for step in range(200) for block in (step, 5000 + step)])
    assert max(stop for _, stop in spans if stop < 5000) >= 200 + LIMIT // 2
    assert max(stop for _, stop in spans) >= 5200 + LIMIT // 2


def test_as_many_streams_as_threads_read_are_told_apart() -> None:
    places = [550 * number + number * number for number in range(STREAMS)]
    spans = spans_after(ahead_of(), [place + step for step in range(100) for place in places])
    for place in places:
        assert max(stop for first, stop in spans if place <= first < place + 500) > place + 110


def test_readers_who_share_the_reads_of_a_stream_are_one_stream() -> None:
    """The kernel asks for a page once, on behalf of any of those who read it."""
    first = ahead_of()
    readers = [first, *(Reader(COUNT, LIMIT, first.ahead) for _ in range(7))]
    dice = Random(1)
    spans = [span for block in range(500) for span in spans_after(dice.choice(readers), [block])]
    assert max(stop for _, stop in spans) >= 500 + LIMIT * 3 // 4 - 1


def test_reading_backward_gets_what_lies_before() -> None:
    spans = spans_after(ahead_of(), list(range(3000, 2800, -1)))
    assert min(first for first, _ in spans) <= 2800 - LIMIT // 2
    assert all(stop <= 3000 for _, stop in spans)


def test_reading_backward_is_fetched_from_the_end() -> None:
    ahead = ahead_of()
    advices = [ahead.note(block, block + 1) for block in range(3000, 2900, -1)]
    assert all(advice.backward for advice in advices if advice is not None and advice.spans)


def test_small_reads_backward_within_a_block_are_backward_too() -> None:
    assert min(first for first, _ in spans_after(ahead_of(), [b for b in range(3000, 2900, -1) for _ in "ab"])) < 2895


@pytest.mark.parametrize("stride", [2, 8, 37, -8])
def test_reads_at_equal_distances_get_the_next_ones_alone(stride: int) -> None:
    places = [5000 + stride * number for number in range(100)]
    spans = spans_after(ahead_of(limit=COUNT), places[:50])
    asked = {block for first, stop in spans for block in range(first, stop)}
    assert asked >= set(places[20:52])
    assert len(asked - set(places)) <= 8  # before it is recognised


def test_a_stride_ends_with_the_file() -> None:
    ahead = ahead_of(count=100)
    spans = spans_after(ahead, list(range(0, 100, 8)))
    assert max(stop for _, stop in spans) <= 100
    assert min(first for first, _ in spans_after(ahead_of(count=100), list(range(99, -1, -9)))) >= 0


def test_holes_are_read_over_where_they_are_small() -> None:
    reads = [block for block in range(400) if block % 11 != 3]
    assert reach_after(ahead_of(), reads) >= 400 + LIMIT // 2


def test_a_run_is_expected_to_be_as_long_as_the_last_one() -> None:
    ahead = ahead_of(limit=COUNT)
    runs = [block for start in (100, 300, 600, 1000) for block in range(start, start + 20)]
    spans_after(ahead, runs)
    spans = spans_after(ahead, list(range(2000, 2020)))
    assert spans[0] == (2002, 2020)
    assert max(stop for _, stop in spans) == 2020


def test_a_run_that_is_longer_than_the_last_one_grows_again() -> None:
    ahead = ahead_of()
    spans_after(ahead, [block for start in (100, 300) for block in range(start, start + 20)])
    assert reach_after(ahead, list(range(2000, 2300))) >= 2300 + LIMIT // 2


def test_going_elsewhere_is_said_where_something_is_still_to_be_fetched() -> None:
    ahead = ahead_of()
    spans_after(ahead, list(range(20)))
    assert ahead.note(5000, 5001) is None
    advice = ahead.note(5001, 5002)
    assert advice is not None
    assert advice.elsewhere


def test_one_look_elsewhere_is_not_leaving() -> None:
    ahead = ahead_of()
    spans_after(ahead, list(range(20)))
    assert ahead.note(5000, 5001) is None
    advices = [ahead.note(block, block + 1) for block in range(20, 60)]
    assert not any(advice.elsewhere for advice in advices if advice is not None)


def test_two_looks_elsewhere_in_a_row_are_leaving() -> None:
    ahead = ahead_of()
    spans_after(ahead, list(range(20)))
    assert ahead.note(5000, 5001) is None
    advice = ahead.note(7000, 7001)
    assert advice is not None
    assert advice.elsewhere


def test_what_was_not_asked_for_in_the_end_can_be_asked_for_again() -> None:
    ahead = ahead_of()
    spans = spans_after(ahead, list(range(40)))
    forgotten = [(spans[-1][0] + 1, spans[-1][1])]
    ahead.ahead.forgotten(forgotten)
    again = spans_after(ahead, list(range(40, 60)))
    assert again[0][0] == forgotten[0][0]


def test_who_reads_all_of_a_file_gets_the_whole_window_at_once() -> None:
    ahead = ahead_of()
    ahead.place.sure = True
    assert spans_after(ahead, [0]) == [(1, 1 + LIMIT)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, COUNT - 300), st.integers(1, 200), st.integers(1, 3)),
            st.tuples(st.integers(300, COUNT - 300), st.integers(1, 100), st.integers(-9, -1)),
            st.tuples(st.integers(0, COUNT // 2), st.integers(1, 40), st.integers(4, 90)),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
@example([(0, 2, 2), (0, 2, 4)], Random(4))
@example([(0, 6, 1)], Random(1))  # the first two requests overtake each other: a load of the file all the same
def test_what_is_fetched_for_nothing_is_at_most_half_of_what_was_read(
    runs: list[tuple[int, int, int]], dice: Random
) -> None:
    """Whatever the pattern, and however far a window may go; twice as much where the file may be being loaded."""
    ahead = ahead_of(limit=COUNT)
    reads = [start + step * number for start, count, step in runs for number in range(count)]
    overtaken = [at for at in range(0, len(reads) - 1, 5) if dice.random() < 0.5]
    for at in overtaken:
        reads[at], reads[at + 1] = reads[at + 1], reads[at]
    reads = [block for block in reads if 0 <= block < COUNT]
    asked = {block for first, stop in spans_after(ahead, reads) for block in range(first, stop)}
    # A request that was overtaken may count twice, and a block that is read again for one of a hole.
    from_the_start = min(reads, default=COUNT) <= HOLE
    earned = 2 * len(reads) if from_the_start else len(reads) // 2
    assert len(asked - set(reads)) <= max(ALLOWANCE, earned) + len(overtaken) + HOLE


def test_a_small_file_comes_whole_with_its_first_read_wherever_that_is() -> None:
    count = SMALL_FILE // BLOCK
    advice = ahead_of(count).note(count - 1, count)
    assert advice is not None
    assert advice.spans == [(0, count)]


def test_nothing_is_wished_behind_the_end() -> None:
    assert reach_after(ahead_of(count=50), list(range(50))) == 50


def test_read_ahead_that_did_not_come_is_wished_again() -> None:
    ahead = ahead_of()
    reach_after(ahead, list(range(100)))
    advice = ahead.note(100, 101, lost=True)
    assert advice is not None
    assert advice.spans[0][0] == 101


def test_the_window_is_what_the_line_needs() -> None:
    assert window_blocks(0.05, 0) * BLOCK == 2 * LEAST_WINDOW
    assert window_blocks(0.05, 100e6) * BLOCK == pytest.approx(2 * (2 * 100e6 * 0.05 + LEAST_WINDOW), abs=BLOCK)
    assert window_blocks(10, 1e9) * BLOCK == MOST_WINDOW

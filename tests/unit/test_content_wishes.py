"""What is fetched next of a content, as a matter of block numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.content.blocks import ABSENT, FLYING, PRESENT, WANTED
from runicornfs.content.wishes import RANGE, Rank, Wishes

COUNT = 100


@pytest.fixture
def states() -> bytearray:
    return bytearray(COUNT)


@pytest.fixture
def wishes(states: bytearray) -> Wishes:
    return Wishes(states)


def taken(wishes: Wishes) -> list[tuple[int, int]]:
    """All that is wished, in order."""
    found = []
    while (took := wishes.take()) is not None:
        found.append((took.first, took.stop))
    return found


def test_nothing_is_wished_at_first(wishes: Wishes) -> None:
    assert not wishes
    assert wishes.rank is Rank.NOTHING
    assert wishes.take() is None


def test_ranks_go_in_order_whoever_asked_first(wishes: Wishes) -> None:
    wishes.look_ahead(10, 11, "d", Rank.DOWNLOAD)
    wishes.want(20, 21, Rank.DOWNLOAD)
    wishes.want(30, 31, Rank.PREFETCH)
    wishes.look_ahead(40, 41, "a", Rank.DEMAND)
    wishes.want(50, 51, Rank.DEMAND)
    ranks = []
    order = []
    while wishes:
        ranks.append(wishes.rank)
        took = wishes.take()
        assert took is not None
        order.append(took.first)
    assert order == [50, 40, 30, 20, 10]
    assert ranks == [Rank.DEMAND, Rank.AHEAD, Rank.PREFETCH, Rank.DOWNLOAD, Rank.DOWNLOAD]


def test_a_block_that_a_program_waits_for_too_moves_up(wishes: Wishes) -> None:
    wishes.want(1, 2, Rank.DOWNLOAD)
    wishes.want(50, 51, Rank.DEMAND)
    assert wishes.want(1, 2, Rank.DEMAND)
    assert not wishes.want(1, 2, Rank.DOWNLOAD)
    wishes.want(70, 71, Rank.PREFETCH)
    assert taken(wishes) == [(50, 51), (1, 2), (70, 71)]


def test_blocks_that_lie_together_are_one_range_up_to_its_limit(wishes: Wishes) -> None:
    wishes.want(0, RANGE + 3, Rank.DEMAND)
    assert taken(wishes) == [(0, RANGE), (RANGE, RANGE + 3)]


def test_what_is_here_or_on_its_way_is_not_asked_for_again(wishes: Wishes, states: bytearray) -> None:
    states[3], states[4] = PRESENT, FLYING
    assert wishes.want(2, 6, Rank.DEMAND)
    assert not wishes.want(3, 5, Rank.DEMAND)
    wishes.look_ahead(0, 8, "a", Rank.DEMAND)
    assert taken(wishes) == [(2, 3), (5, 6), (0, 2), (6, 8)]


def test_readers_of_one_content_take_turns_a_range_each(wishes: Wishes) -> None:
    wishes.look_ahead(0, 2 * RANGE, "a", Rank.DEMAND)
    wishes.look_ahead(50, 50 + 2 * RANGE, "b", Rank.DEMAND)
    assert [first for first, _ in taken(wishes)] == [0, 50, RANGE, 50 + RANGE]


def test_a_wish_that_goes_on_is_one_wish(wishes: Wishes) -> None:
    wishes.look_ahead(0, 4, "a", Rank.DEMAND)
    wishes.look_ahead(50, 54, "b", Rank.DEMAND)
    wishes.look_ahead(4, 8, "a", Rank.DEMAND)
    assert taken(wishes) == [(0, 8), (50, 54)]


def test_backward_wishes_come_from_their_end(wishes: Wishes, states: bytearray) -> None:
    states[12] = PRESENT
    wishes.look_ahead(1, 20, "a", Rank.DEMAND, backward=True)
    assert taken(wishes) == [(13, 20), (4, 12), (1, 4)]


def test_a_reader_that_is_elsewhere_takes_its_wishes_back(wishes: Wishes) -> None:
    wishes.look_ahead(0, 20, "a", Rank.DEMAND)
    wishes.look_ahead(50, 55, "b", Rank.DEMAND)
    assert wishes.take() is not None
    assert wishes.forget_ahead("a") == [(RANGE, 20)]
    assert taken(wishes) == [(50, 55)]


def test_what_nobody_waits_for_any_more_is_not_asked_for(wishes: Wishes, states: bytearray) -> None:
    wishes.want(0, 3, Rank.DEMAND)
    wishes.give_up([0, 2])
    assert (states[0], states[1], states[2]) == (ABSENT, WANTED, ABSENT)
    assert taken(wishes) == [(1, 2)]


def test_read_ahead_that_has_no_room_waits_for_a_reader_to_move(wishes: Wishes) -> None:
    wishes.look_ahead(0, 2, "a", Rank.DEMAND)
    wishes.stall(10, 12)
    assert not wishes
    assert wishes.take() is None
    wishes.want(50, 51, Rank.DEMAND)
    assert taken(wishes) == [(50, 51), (10, 12), (0, 2)]


def test_what_is_put_back_comes_before_everything_else(wishes: Wishes) -> None:
    wishes.want(50, 51, Rank.DEMAND)
    wishes.look_ahead(60, 61, "a", Rank.DEMAND)
    wishes.put_back(3, 6, {4: Rank.DEMAND}, Rank.DEMAND)
    assert taken(wishes) == [(4, 5), (50, 51), (3, 4), (60, 61), (5, 6)]


def test_forgetting_leaves_nothing(wishes: Wishes, states: bytearray) -> None:
    wishes.want(3, 5, Rank.DEMAND)
    wishes.want(9, 10, Rank.DOWNLOAD)
    wishes.look_ahead(20, 30, "a", Rank.DEMAND)
    assert wishes.forget() == {3, 4, 9}
    assert not wishes
    assert not any(states)


_steps = st.lists(
    st.tuples(
        st.sampled_from(["want", "look", "back", "give up", "forget", "take"]),
        st.integers(0, COUNT - 1),
        st.integers(1, 20),
        st.sampled_from([Rank.DEMAND, Rank.PREFETCH, Rank.DOWNLOAD]),
    ),
    max_size=40,
)


@given(_steps)
def test_no_block_is_taken_twice_and_all_that_is_wanted_is_taken(steps: list[tuple[str, int, int, Rank]]) -> None:
    states = bytearray(COUNT)
    wishes = Wishes(states)
    asked: list[int] = []
    for what, first, length, rank in steps:
        stop = min(COUNT, first + length)
        if what == "want":
            wishes.want(first, stop, rank)
        elif what in ("look", "back"):
            wishes.look_ahead(first, stop, rank, rank, backward=what == "back")
        elif what == "give up":
            wishes.give_up(range(first, stop))
        elif what == "forget":
            wishes.forget_ahead(rank)
        elif (took := wishes.take()) is not None:
            asked += range(took.first, took.stop)
    wanted = {block for block in range(COUNT) if states[block] == WANTED}
    assert (wishes.rank is not Rank.NOTHING) >= bool(wanted)
    rest = [block for first, stop in taken(wishes) for block in range(first, stop)]
    assert wanted <= set(rest)
    assert len(asked + rest) == len({*asked, *rest}) == states.count(FLYING)
    assert not wishes

"""What the kernel knows by number: as many times as it was told, and until it has forgotten as often."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.catalog.nodes import ROOT_INODE
from runicornfs.mount.known import KnownNumbers


def test_the_root_is_always_known() -> None:
    known = KnownNumbers()
    known.forget(ROOT_INODE, 1)
    assert known.path(ROOT_INODE) == ""


@pytest.mark.parametrize(("folder", "path"), [("", "w.bin"), ("artifacts/model", "artifacts/model/w.bin")])
def test_a_number_that_was_told_has_a_path(folder: str, path: str) -> None:
    known = KnownNumbers()
    known.told([(7, folder, b"w.bin")])
    assert known.path(7) == path


def test_a_number_that_nobody_told_has_none() -> None:
    assert KnownNumbers().path(7) is None


def test_the_place_it_was_told_last_counts() -> None:
    known = KnownNumbers()
    known.told([(7, "a", b"old"), (7, "b", b"new")])
    assert known.path(7) == "b/new"


@given(st.lists(st.tuples(st.integers(2, 4), st.integers(-3, 3))))
def test_a_number_is_known_as_long_as_it_was_told_more_often_than_forgotten(steps: list[tuple[int, int]]) -> None:
    known, model = KnownNumbers(), Counter[int]()
    for number, times in steps:
        if times > 0:
            known.told([(number, "f", b"n")] * times)
            model[number] += times
        elif -times and model[number]:
            times = min(-times, model[number])  # the kernel forgets nothing that it was not told
            known.forget(number, times)
            model[number] -= times
        assert {number for number in (2, 3, 4) if number in known} == set(+model)
    assert len(known) == 1 + len(+model)

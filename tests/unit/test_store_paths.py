"""Names and paths of a store that are refused, and those that come through as they are."""

from __future__ import annotations

import os
import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runicornfs.errors import UnsafePath
from runicornfs.store.paths import check_name, check_relative, parent_of, printable, version_of_folder
from tests.stores import file_names, file_paths

ANY_TEXT = st.text(st.characters())  # with halves of surrogate pairs, NUL, line ends
NEARLY_PATHS = st.lists(st.sampled_from(["", ".", "..", "a", "b.c", ".d", "é", "\udc80", "\ud800", "\0"])).map("/".join)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b", "x" * 256, "é" * 128, "\ud800"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(UnsafePath):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "...", "..a", " ", "\n", "-rf", "x" * 255, "é" * 127, "caf\udce9", "a\\b"])
def test_a_name_that_is_merely_odd_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "a/", "a//b", "..", "../a", "a/..", "a/../b", ".", "./a", "a/.", "a/./b", "a\0", "a/" + "x" * 256,
     "/".join(["x" * 200] * 21), "a/\ud800"],
)  # fmt: skip
def test_a_path_that_climbs_or_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath):
        check_relative(path)


@pytest.mark.parametrize("path", ["a", "a/b", ".a/..b", "a/.hidden", "a/b ", "/".join(["x" * 200] * 20), "é/説明 été"])
def test_a_relative_path_is_taken_as_it_is(path: str) -> None:
    assert check_relative(path) == path


def test_two_spellings_of_the_same_bytes_are_one_path() -> None:
    assert check_relative("a/\udcc3\udca9") == "a/é"


@given(st.one_of(ANY_TEXT, NEARLY_PATHS, file_paths()))
@example("a/b")
def test_what_is_taken_names_one_place_below_the_root(path: str) -> None:
    try:
        checked = check_relative(path)
    except UnsafePath:
        return
    raw = os.fsencode(checked)
    assert os.fsdecode(raw) == checked
    assert raw == os.fsencode(path)
    assert len(raw) <= 4096
    assert posixpath.normpath(b"/root/" + raw) == b"/root/" + raw
    assert all(check_name(name) == name for name in checked.split("/"))


@given(file_paths())
def test_every_path_that_linux_takes_is_taken(path: str) -> None:
    assert check_relative(path) == path


@given(file_names())
def test_every_name_that_linux_takes_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "version"),
    [("v1", 1), ("v42", 42), ("v999999999", 999_999_999), ("v1000000000", None), ("v0", None), ("v01", None),
     ("v", None), ("V1", None), ("v1 ", None), ("v1\n", None), ("v-1", None), ("v١", None), ("latest", None)],
)  # fmt: skip
def test_a_version_folder_is_v_and_a_number(name: str, version: int | None) -> None:
    assert version_of_folder(name) == version


def test_the_parent_of_what_lies_in_the_root_is_the_root() -> None:
    assert (parent_of("a/b/c"), parent_of("a"), parent_of("")) == ("a/b", "", "")


@given(ANY_TEXT)
def test_printable_text_is_one_line_that_can_be_encoded(text: str) -> None:
    line = printable(text)
    assert line.isprintable()
    line.encode()


def test_printable_text_stays_as_it_is() -> None:
    assert printable("説明 été.txt") == "説明 été.txt"

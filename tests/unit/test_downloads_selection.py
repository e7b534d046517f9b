"""Which files of a version a glob chooses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.downloads.selection import matches, select
from runicornfs.errors import NotFound
from tests.unit.downloading import World


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("*.bin", ["a.bin", "d/b.bin", "d/e/c.bin"]),
        ("a.bin", ["a.bin"]),
        ("d/*.bin", ["d/b.bin"]),
        ("d/*", ["d/b.bin", "d/n.txt"]),
        ("d/**", ["d/b.bin", "d/n.txt", "d/e/c.bin"]),
        ("**/*.bin", ["a.bin", "d/b.bin", "d/e/c.bin"]),
        ("d/**/c.bin", ["d/e/c.bin"]),
        ("**", ["a.bin", "d/b.bin", "d/n.txt", "d/e/c.bin"]),
        ("?.bin", ["a.bin", "d/b.bin", "d/e/c.bin"]),
        ("[ab].bin", ["a.bin", "d/b.bin"]),
        ("D/*", []),
        ("d", []),
        ("/a.bin", []),
    ],
)
def test_a_glob_chooses_these_paths(pattern: str, chosen: list[str]) -> None:
    paths = ["a.bin", "d/b.bin", "d/n.txt", "d/e/c.bin"]
    assert [path for path in paths if matches(pattern, path)] == chosen


def test_many_stars_take_no_time() -> None:
    assert not matches("**/a/" * 30 + "x", "a/" * 500 + "y")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def test_without_a_glob_all_files_are_meant(world: World) -> None:
    ref = world.add({"a.bin": b"a", "d/b.bin": b"bb"})
    selection = select(world.catalog, ref, 1)
    assert [(file.path, file.size) for file in selection.files] == [("a.bin", 1), ("d/b.bin", 2)]
    assert selection.total_bytes == 3


def test_a_glob_that_matches_nothing_is_said(world: World) -> None:
    ref = world.add({"a.bin": b"a"})
    with pytest.raises(NotFound, match=r"no file of net:v1 matches '\*\.txt'"):
        select(world.catalog, ref, 1, ["*.bin", "*.txt"])


def test_a_version_that_is_not_there_is_said(world: World) -> None:
    ref = world.add({"a.bin": b"a"})
    with pytest.raises(NotFound):
        select(world.catalog, ref, 2)

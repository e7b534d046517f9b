"""By which number the kernel knows a path when the path changes under those who have it open."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runicornfs.catalog.nodes import Kind, Node
from runicornfs.mount.handles import HandleTable

OLD, NEW, NEWER = b"o" * 32, b"n" * 32, b"m" * 32
INODE = 7


class NoBytes:
    def __init__(self) -> None:
        self.closed = False

    def read(self, offset: int, size: int, interrupted: Callable[[], bool]) -> bytes:
        return b""

    def share(self) -> int | None:
        return None

    def close(self) -> None:
        self.closed = True


def node(digest: bytes | None) -> Node:
    return Node("v1/files/a", INODE, Kind.CONTENT if digest else Kind.PLAIN, 1, 0, digest, None, None)


@pytest.fixture
def handles() -> HandleTable:
    return HandleTable()


def test_a_path_has_the_number_of_its_inode(handles: HandleTable) -> None:
    assert handles.number_of(INODE, OLD) == INODE
    handles.add(INODE, node(OLD), NoBytes(), paged=True)
    assert handles.number_of(INODE, OLD) == INODE


def test_while_nobody_has_it_open_another_identity_has_the_same_number(handles: HandleTable) -> None:
    opened = handles.add(INODE, node(OLD), NoBytes(), paged=True)
    handles.remove(opened.handle)
    assert handles.number_of(INODE, NEW) == INODE


@pytest.mark.parametrize("digest", [NEW, None], ids=["other bytes", "no digest, or gone"])
def test_another_identity_gets_a_number_of_its_own_while_the_old_one_is_open(
    handles: HandleTable, digest: bytes | None
) -> None:
    handles.add(INODE, node(OLD), NoBytes(), paged=True)
    number = handles.number_of(INODE, digest)
    assert number != INODE
    assert handles.number_of(INODE, digest) == number
    assert handles.inode_of(number) == INODE


def test_the_new_number_stays_when_the_old_one_is_closed(handles: HandleTable) -> None:
    """The kernel may still have the old one's inode and pages."""
    opened = handles.add(INODE, node(OLD), NoBytes(), paged=True)
    number = handles.number_of(INODE, NEW)
    handles.remove(opened.handle)
    assert handles.number_of(INODE, NEW) == number


def test_every_identity_that_is_open_has_another_number(handles: HandleTable) -> None:
    handles.add(INODE, node(OLD), NoBytes(), paged=True)
    second = handles.number_of(INODE, NEW)
    handles.add(second, node(NEW), NoBytes(), paged=True)
    third = handles.number_of(INODE, NEWER)
    assert len({INODE, second, third}) == 3


def test_what_is_open_and_was_bad_keeps_its_number_to_itself(handles: HandleTable) -> None:
    handles.add(INODE, node(OLD), NoBytes(), paged=True)
    assert handles.retire(INODE, mismatches=1) == {INODE}
    number = handles.number_of(INODE, OLD)
    assert number != INODE
    handles.add(number, node(OLD), NoBytes(), paged=True, mismatches=1)
    assert handles.retire(INODE, mismatches=1) == {INODE, number}
    assert handles.number_of(INODE, OLD) == number, "that one was opened later"


def test_what_bypasses_the_pages_needs_no_other_number(handles: HandleTable) -> None:
    handles.add(INODE, node(None), NoBytes(), paged=False)
    assert handles.number_of(INODE, NEW) == INODE


def test_what_is_open_is_found_by_its_number(handles: HandleTable) -> None:
    old = handles.add(INODE, node(OLD), NoBytes(), paged=True)
    number = handles.number_of(INODE, NEW)
    new = handles.add(number, node(NEW), NoBytes(), paged=True)
    assert handles.open_under(INODE) is old
    assert handles.open_under(number) is new
    handles.remove(old.handle)
    assert handles.open_under(INODE) is None


def test_closing_gives_the_reader_back(handles: HandleTable) -> None:
    reader = NoBytes()
    opened = handles.add(INODE, node(OLD), reader, paged=True)
    handles.remove(opened.handle)
    assert reader.closed
    assert len(handles) == 0


def test_the_end_of_the_mount_gives_everything_back(handles: HandleTable) -> None:
    reader = NoBytes()
    handles.add(INODE, node(OLD), reader, paged=True)
    handles.close_all()
    assert reader.closed
    assert handles.open_paths() == []

"""Which open files go through the kernel's page cache when a path changes under them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runicornfs.catalog.nodes import Kind, Node
from runicornfs.mount.handles import HandleTable

OLD, NEW = b"o" * 32, b"n" * 32


class NoBytes:
    def __init__(self) -> None:
        self.closed = False

    def read(self, offset: int, size: int, interrupted: Callable[[], bool]) -> bytes:
        return b""

    def close(self) -> None:
        self.closed = True


def node(digest: bytes) -> Node:
    return Node("v1/files/a", 7, Kind.CONTENT, 1, 0, digest, None, None)


@pytest.fixture
def dropping() -> list[str]:
    return []


@pytest.fixture
def handles(dropping: list[str]) -> HandleTable:
    return HandleTable(dropping.append)


def test_an_unchanged_file_goes_through_the_page_cache(handles: HandleTable) -> None:
    assert handles.add(node(OLD), NoBytes(), pageable=True).paged
    assert handles.add(node(OLD), NoBytes(), pageable=True).paged
    assert not handles.any_split


def test_a_file_that_may_change_never_does(handles: HandleTable) -> None:
    assert not handles.add(node(OLD), NoBytes(), pageable=False).paged


def test_a_new_identity_bypasses_the_cache_while_the_old_one_is_open(handles: HandleTable) -> None:
    handles.add(node(OLD), NoBytes(), pageable=True)
    assert not handles.add(node(NEW), NoBytes(), pageable=True).paged
    assert handles.any_split


def test_a_path_is_split_as_soon_as_the_sync_says_so(handles: HandleTable) -> None:
    handles.add(node(OLD), NoBytes(), pageable=True)
    handles.replaced("v1/files/a", NEW)
    assert handles.any_split


def test_a_deleted_path_is_split_too(handles: HandleTable) -> None:
    handles.add(node(OLD), NoBytes(), pageable=True)
    handles.replaced("v1/files/a", None)
    assert handles.any_split


def test_the_split_ends_when_the_pages_of_the_last_old_handle_are_dropped(
    handles: HandleTable, dropping: list[str]
) -> None:
    first = handles.add(node(OLD), NoBytes(), pageable=True)
    second = handles.add(node(OLD), NoBytes(), pageable=True)
    handles.replaced("v1/files/a", NEW)
    handles.remove(first.number)
    assert dropping == []
    handles.remove(second.number)
    assert dropping == ["v1/files/a"]
    assert handles.any_split, "until then new opens must not see the pages that are left"
    assert not handles.add(node(NEW), NoBytes(), pageable=True).paged
    handles.dropped("v1/files/a")
    assert not handles.any_split
    assert handles.add(node(NEW), NoBytes(), pageable=True).paged


def test_dropping_pages_under_an_old_handle_ends_nothing(handles: HandleTable) -> None:
    handles.add(node(OLD), NoBytes(), pageable=True)
    handles.replaced("v1/files/a", NEW)
    handles.dropped("v1/files/a")
    assert handles.any_split


def test_closing_gives_the_reader_back(handles: HandleTable) -> None:
    reader = NoBytes()
    handle = handles.add(node(OLD), reader, pageable=True)
    handles.remove(handle.number)
    assert reader.closed
    assert len(handles) == 0


def test_the_end_of_the_mount_gives_everything_back(handles: HandleTable) -> None:
    reader = NoBytes()
    handles.add(node(OLD), reader, pageable=True)
    handles.close_all()
    assert reader.closed
    assert handles.open_paths() == []

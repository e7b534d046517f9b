"""The list of what is cached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import LISTED_AT_MOST, ContentCache
from runicornfs.errors import InvalidInput
from tests.fake_transfers import Caches, FakeTransfers, content_of, read_all
from tests.waiting import wait_until


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def cache(tmp_path: Path, server: FakeTransfers) -> Iterator[ContentCache]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches.open()


def listed(cache: ContentCache, sort: str = "last_used", limit: int = 100) -> list[str]:
    return [file.path for file in cache.files(sort, limit)]


def test_files_are_listed_in_the_order_that_was_asked_for(cache: ContentCache, server: FakeTransfers) -> None:
    sizes = {"two": 2 * BLOCK, "three": 3 * BLOCK, "one": BLOCK}
    identities = {name: server.add(name, content_of(size, size)) for name, size in sizes.items()}
    for name in ("two", "three", "one", "two"):
        read_all(cache, identities[name])
        wait_until(lambda: not cache._table.entries(), "the threads to be done with it")
    assert listed(cache) == ["two", "one", "three"]
    assert listed(cache, "oldest") == ["three", "one", "two"]
    assert listed(cache, "size") == ["three", "two", "one"]
    assert listed(cache, "size", 2) == ["three", "two"]


def test_a_file_is_listed_with_what_is_known_of_it(cache: ContentCache, server: FakeTransfers) -> None:
    whole = server.add("whole", content_of(100))
    partial = server.add("partial", content_of(90 * BLOCK))
    log = server.add("log", content_of(50), digest=False)
    before = time.time()
    for identity in (whole, log):
        read_all(cache, identity)
    reader = cache.open(partial)
    reader.read(40 * BLOCK, 10)
    cache.pin("model/net:v1", {partial.key: partial.size})
    found = {file.path: file for file in cache.files("last_used", 10)}
    assert (found["whole"].key, found["whole"].state, found["whole"].size_bytes) == (whole.key, "verified", 100)
    assert (found["log"].key, found["log"].state, found["log"].cached_bytes) == (log.key, "cached", 50)
    assert found["partial"].state == "partial"
    assert found["partial"].size_bytes == 90 * BLOCK
    assert BLOCK <= found["partial"].cached_bytes < 90 * BLOCK
    assert {path: file.pinned for path, file in found.items()} == {"whole": False, "log": False, "partial": True}
    assert all(before <= file.last_used <= time.time() for file in found.values())
    reader.close()


def test_an_open_file_is_in_use_now(cache: ContentCache, server: FakeTransfers) -> None:
    a, b = server.add("a", content_of(100, 1)), server.add("b", content_of(100, 2))
    reader = cache.open(a)
    reader.read(0, 100)
    read_all(cache, b)
    wait_until(lambda: len(cache._table.entries()) == 1, "the threads to be done with it")
    assert listed(cache) == ["a", "b"]
    reader.close()


def test_what_was_opened_and_never_read_is_not_cached(cache: ContentCache, server: FakeTransfers) -> None:
    reader = cache.open(server.add("a", content_of(100)))
    assert listed(cache) == []
    reader.close()


@pytest.mark.parametrize(("sort", "limit"), [("name", 10), ("size; DROP TABLE contents", 10), ("size", 0)])
def test_what_makes_no_sense_is_refused(cache: ContentCache, sort: str, limit: int) -> None:
    with pytest.raises(InvalidInput):
        cache.files(sort, limit)
    with pytest.raises(InvalidInput):
        cache.files("size", LISTED_AT_MOST + 1)

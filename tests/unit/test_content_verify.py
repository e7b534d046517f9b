"""Contents against their sha256: what matches is verified, what does not is never served whole and never kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.identity import Identity
from runicornfs.errors import ContentMismatch
from tests.fake_transfers import Caches, FakeTransfers, content_of, counted, disk_bytes, read_all, read_on
from tests.waiting import wait_until

FILE = content_of(20 * BLOCK + 100)
SMALL = FILE[:1000]
HUGE_LIMIT = 1 << 40


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def caches(tmp_path: Path, server: FakeTransfers) -> Iterator[Caches]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches


@pytest.fixture
def cache(caches: Caches) -> ContentCache:
    return caches.open()


@pytest.fixture
def thread() -> Iterator[Callable[..., Future[bytes]]]:
    with ThreadPoolExecutor(8) as threads:
        yield threads.submit


@pytest.mark.parametrize("order", ["forward", "backward", "one"])
def test_a_whole_file_is_verified_whatever_order_it_came_in(
    cache: ContentCache, server: FakeTransfers, order: str
) -> None:
    identity = server.add("a", FILE)
    reader = cache.open(identity)
    offsets = list(range(0, len(FILE), BLOCK))
    if order == "one":
        assert reader.read(0, len(FILE)) == FILE
    else:
        for offset in offsets if order == "forward" else reversed(offsets):
            assert reader.read(offset, BLOCK) == FILE[offset : offset + BLOCK]
    assert reader.state == "verified"
    reader.close()
    assert cache.cached_bytes([identity.key])[identity.key] == (len(FILE), "verified")


@pytest.mark.promise("R3")
def test_the_block_that_completes_a_file_is_withheld_until_it_was_checked(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = server.add("a", FILE)
    reader = cache.open(identity)
    # The last block of all to come, which is not the last of the file.
    for block in range(1, 21):
        reader.read(block * BLOCK, BLOCK)
    held: list[object] = []
    submit = cache._verifier.submit
    monkeypatch.setattr(cache._verifier, "submit", held.append)
    read = thread(reader.read, 0, BLOCK)
    wait_until(lambda: held, "the last block")
    assert not read.done()
    assert reader.state == "partial"
    assert reader.read(5 * BLOCK, 10) == FILE[5 * BLOCK : 5 * BLOCK + 10]
    (entry,) = cache._table.entries()
    submit(entry)
    assert read.result() == FILE[:BLOCK]
    reader.close()


def test_bytes_that_came_wrong_once_are_fetched_again_for_who_only_waited(
    cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", SMALL)
    server.corrupt["a"] = 1
    assert read_all(cache, identity) == SMALL
    assert cache.status().mismatches == 1
    assert cache.cached_bytes([identity.key])[identity.key] == (len(SMALL), "verified")
    assert "a do not have the sha256" in caplog.text


def test_a_reader_that_was_given_wrong_bytes_gets_no_more_and_who_opens_anew_gets_right_ones(
    cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    """With good bytes from the second fetch it would have a file that never was."""
    identity = server.add("a", FILE)
    server.corrupt["a"] = 1
    reader = cache.open(identity)
    assert reader.read(0, 10) != FILE[:10]
    with pytest.raises(ContentMismatch):
        read_on(reader, len(FILE))
    with pytest.raises(ContentMismatch):
        reader.read(5 * BLOCK, 10)
    other = cache.open(identity)
    assert other.read(0, len(FILE)) == FILE
    with pytest.raises(ContentMismatch):
        reader.read(5 * BLOCK, 10)
    other.close()
    reader.close()
    assert counted(cache) == (len(FILE), len(FILE))


@pytest.mark.parametrize("content", [SMALL, FILE])
@pytest.mark.promise("R4")
@pytest.mark.promise("R5")
def test_bytes_that_come_wrong_twice_are_an_error_and_nothing_of_them_is_kept(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    cache = caches.open()
    identity = server.add("a", content)
    server.corrupt["a"] = 2
    reader = cache.open(identity)
    with pytest.raises(ContentMismatch):
        reader.read(0, len(content))
    assert server.times_asked("a", 0) == 2
    reader.close()
    assert cache.status().mismatches == 2
    assert cache.cached_bytes([identity.key])[identity.key] == (0, "remote")
    assert counted(cache) == (0, 0)
    assert disk_bytes(caches.folder) == 0
    assert read_all(cache, identity) == content


def test_everybody_who_waits_hears_of_a_mismatch(
    cache: ContentCache,
    server: FakeTransfers,
    thread: Callable[..., Future[bytes]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    identity = server.add("a", FILE)
    server.corrupt["a"] = 2
    readers = [cache.open(identity) for _ in range(5)]
    reads = [thread(reader.read, 0, len(FILE)) for reader in readers]
    assert {type(read.exception()) for read in reads} == {ContentMismatch}
    for reader in readers:
        reader.close()


def test_the_mount_hears_of_dropped_content_and_may_use_the_cache_meanwhile(
    cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", SMALL)
    server.corrupt["a"] = 1
    heard: list[tuple[str, bytes]] = []
    other = server.add("b", FILE)
    cache.on_dropped(lambda key: heard.append((key, read_all(cache, other))))
    assert read_all(cache, identity) == SMALL
    wait_until(lambda: heard, "the callback")
    assert heard == [(identity.key, FILE)]


def test_a_file_larger_than_the_cache_is_checked_while_it_streams_past(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    cache = caches.open(limit=8 * BLOCK)
    content = content_of(100 * BLOCK)
    identity = server.add("a", content)
    server.corrupt["a"] = 1
    reader = cache.open(identity)
    with pytest.raises(ContentMismatch):
        read_on(reader, len(content))
    assert reader.bytes_served < len(content)
    reader.close()


def test_each_pass_over_a_file_larger_than_the_cache_is_checked(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    cache = caches.open(limit=8 * BLOCK)
    content = content_of(100 * BLOCK)
    identity = server.add("a", content)
    assert read_all(cache, identity) == content
    keeps_it_open = cache.open(identity)
    assert read_all(cache, identity) == content
    server.corrupt["a"] = 1
    reader = cache.open(identity)
    with pytest.raises(ContentMismatch):
        read_on(reader, len(content))
    reader.close()
    keeps_it_open.close()


def test_a_file_larger_than_the_cache_is_checked_from_what_an_earlier_start_has_left_of_it(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    content = content_of(100 * BLOCK)
    identity = server.add("a", content)
    server.corrupt["a"] = 1
    cache = caches.open(limit=20 * BLOCK)
    reader = cache.open(identity)
    read_on(reader, 8 * BLOCK)
    cache.close()
    cache = caches.open(limit=20 * BLOCK)
    reader = cache.open(identity)
    with pytest.raises(ContentMismatch):
        read_on(reader, len(content))
    reader.close()


def test_bytes_of_no_known_digest_are_what_the_server_sent(cache: ContentCache, server: FakeTransfers) -> None:
    identity = server.add("log", FILE, digest=False)
    server.corrupt["log"] = 1
    assert read_all(cache, identity)[1:] == FILE[1:]
    assert cache.cached_bytes([identity.key])[identity.key] == (len(FILE), "cached")


def test_a_file_that_was_complete_but_not_checked_is_checked_when_it_is_opened(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program was killed between the two."""
    identity = server.add("a", FILE)
    _complete_without_check(caches, identity, monkeypatch)
    cache = caches.open()
    assert cache.cached_bytes([identity.key])[identity.key] == (len(FILE), "cached")
    asked = len(server.asked)
    reader = cache.open(identity)
    assert reader.read(0, len(FILE)) == FILE
    assert reader.state == "verified"
    reader.close()
    assert len(server.asked) == asked


def test_a_complete_file_that_rotted_before_it_was_checked_is_fetched_again(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    _complete_without_check(caches, identity, monkeypatch)
    (file,) = (caches.folder / "blocks").iterdir()
    with file.open("r+b") as stored:
        stored.write(b"rotten")
    cache = caches.open()
    dropped: list[str] = []
    cache.on_dropped(dropped.append)
    reader = cache.open(identity)
    assert reader.read(0, len(FILE)) == FILE
    reader.close()
    assert dropped == [identity.key]


def test_a_cache_file_that_somebody_cut_off_is_fetched_again(
    cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    reader = cache.open(identity)
    reader.read(0, len(FILE))
    (entry,) = cache._table.entries()
    os.ftruncate(entry.fd, 5)
    assert reader.read(0, len(FILE)) == FILE
    reader.close()
    assert "not as it was" in caplog.text


def _complete_without_check(caches: Caches, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = caches.open()
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as threads:
        held: list[object] = []
        patch.setattr(cache._verifier, "submit", held.append)
        reader = cache.open(identity)
        read = threads.submit(reader.read, 0, identity.size)
        (entry,) = cache._table.entries()
        wait_until(lambda: entry.held == identity.size, "all blocks")
        cache.close()
        assert read.exception() is not None
    logging.getLogger(__name__).debug("the cache was closed before it could check %s", identity.path)

"""Reading through the cache: what is asked of the server, and what never is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.content.identity import Identity
from runicornfs.content.readahead import LEAST_WINDOW
from runicornfs.errors import StaleFile
from tests.fake_transfers import DEPTH, Caches, FakeTransfers, content_of, counted, read_all
from tests.waiting import wait_until

FILE = content_of(20 * BLOCK + 100)


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def caches(tmp_path: Path, server: FakeTransfers) -> Iterator[Caches]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches


def test_a_file_is_read_as_it_is(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    assert read_all(caches.open(), identity) == FILE


def test_reads_need_not_know_of_blocks(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    reader = caches.open().open(identity)
    for offset, size in [(0, 1), (BLOCK - 1, 2), (5 * BLOCK + 7, 3 * BLOCK), (0, len(FILE)), (len(FILE) - 1, 1)]:
        assert reader.read(offset, size) == FILE[offset : offset + size]
    reader.close()


@pytest.mark.parametrize("offset", [len(FILE), len(FILE) + 5 * BLOCK])
def test_there_is_nothing_behind_the_end(caches: Caches, server: FakeTransfers, offset: int) -> None:
    reader = caches.open().open(server.add("a", FILE))
    assert reader.read(offset, 100) == b""
    assert reader.read(len(FILE) - 10, 100) == FILE[-10:]
    reader.close()


@pytest.mark.parametrize("digest", [True, False])
def test_an_empty_file_never_touches_the_network(caches: Caches, server: FakeTransfers, digest: bool) -> None:
    cache = caches.open()
    reader = cache.open(server.add("empty", b"", digest))
    assert reader.read(0, 100) == b""
    assert reader.state == ("verified" if digest else "cached")
    reader.close()
    assert server.fills == 0


def test_opening_and_closing_asks_for_nothing_and_makes_no_file(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open()
    cache.open(server.add("a", FILE)).close()
    assert server.fills == 0
    assert list((caches.folder / "blocks").iterdir()) == []
    assert cache.status().files == 0


def test_the_second_read_is_local(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    asked = len(server.asked)
    assert read_all(cache, identity) == FILE
    assert len(server.asked) == asked


def test_every_byte_is_asked_for_once(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    read_all(caches.open(), identity, step=10_000)
    assert server.bytes_asked == len(FILE)


def test_the_same_bytes_in_two_places_are_fetched_and_stored_once(caches: Caches, server: FakeTransfers) -> None:
    first, second = server.add("v1/model", FILE), server.add("v2/model", FILE)
    cache = caches.open()
    assert read_all(cache, first) == read_all(cache, second) == FILE
    assert server.bytes_asked == len(FILE)
    assert cache.status().files == 1


def test_many_readers_of_a_block_fetch_it_once(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    server.hold()
    with ThreadPoolExecutor(16) as threads:
        reads = [threads.submit(read_all, cache, identity) for _ in range(16)]
        wait_until(lambda: server.asked, "the first range")
        server.release()
        assert all(read.result() == FILE for read in reads)
    assert server.bytes_asked == len(FILE)


def test_blocks_that_lie_together_are_asked_for_in_one_range_of_a_mebibyte(
    caches: Caches, server: FakeTransfers
) -> None:
    reader = caches.open().open(server.add("a", FILE))
    reader.read(4 * BLOCK, 10 * BLOCK)
    reader.close()
    assert [(offset // BLOCK, length // BLOCK) for _, offset, length in server.asked] == [(4, 8), (12, 2)]


def test_a_random_read_costs_the_blocks_it_touches(caches: Caches, server: FakeTransfers) -> None:
    reader = caches.open().open(server.add("a", FILE))
    reader.read(17 * BLOCK + 5, 100)
    reader.read(6 * BLOCK + 5, 100)
    reader.close()
    assert [(offset // BLOCK, length) for _, offset, length in server.asked] == [(17, BLOCK), (6, BLOCK)]


def test_a_small_file_comes_whole_with_its_first_byte(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open()
    identity = server.add("small", content_of(5 * BLOCK))
    reader = cache.open(identity)
    reader.read(3 * BLOCK, 1)
    wait_until(lambda: reader.state == "verified", "the rest of the file")
    reader.close()


def test_a_mebibyte_of_a_huge_file_costs_about_that_and_its_read_ahead(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("huge", b"")
    with (server.root / "huge").open("r+b") as file:
        file.truncate(1 << 30)
    cache = caches.open()
    reader = cache.open(replace(identity, key="huge", size=1 << 30, sha256=bytes(32)))
    for offset in range(0, 1 << 20, BLOCK):
        assert reader.read(offset, BLOCK) == bytes(BLOCK)
    wait_until(lambda: server.running == 0, "the read-ahead")
    reader.close()
    assert server.bytes_asked <= (1 << 20) + 2 * LEAST_WINDOW
    assert cache.status().size_bytes == server.bytes_asked
    stored = sum(file.stat().st_blocks * 512 for file in (caches.folder / "blocks").iterdir())
    assert stored <= server.bytes_asked + 64 * 1024


def test_demand_goes_before_read_ahead(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open()
    reader = cache.open(server.add("a", content_of(200 * BLOCK)))
    (entry,) = cache._table.entries()
    server.hold()
    with entry.condition:
        entry.look_ahead(0, 180, reader)
    cache._fetcher.submit(entry)
    wait_until(lambda: len(server.asked) == DEPTH, "read-ahead that is held up")
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(reader.read, 190 * BLOCK, BLOCK)
        wait_until(lambda: reader.misses, "the read to miss")
        server.release()
        read.result()
    assert [offset // BLOCK for _, offset, _ in server.asked].index(190) == DEPTH
    reader.close()


def test_read_ahead_stops_when_the_last_reader_closes(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", content_of(200 * BLOCK))
    cache = caches.open()
    reader = cache.open(identity)
    (entry,) = cache._table.entries()
    server.hold(after=2)
    for block in range(2):
        reader.read(block * BLOCK, BLOCK)
    with entry.condition:
        entry.look_ahead(50, 150, reader)
    wait_until(lambda: server.running, "read-ahead that is held up")
    reader.close()
    asked = len(server.asked)
    server.release()
    wait_until(lambda: not cache._table.entries(), "what is on its way")
    assert len(server.asked) <= asked + 1  # one range may have been taken just before the reader closed
    assert counted(cache)[0] == counted(cache)[1]


def test_states_follow_what_is_here(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open()
    identity, plain = server.add("a", FILE), server.add("log", FILE, digest=False)
    keys = [identity.key, plain.key, "unknown"]
    assert cache.cached_bytes(keys) == dict.fromkeys(keys, (0, "remote"))
    reader = cache.open(identity)
    reader.read(3 * BLOCK, 10)
    assert cache.cached_bytes(keys)[identity.key] == (BLOCK, "partial")
    reader.close()
    assert cache.cached_bytes(keys)[identity.key] == (BLOCK, "partial")
    read_all(cache, identity)
    read_all(cache, plain)
    assert cache.cached_bytes(keys) == {
        identity.key: (len(FILE), "verified"),
        plain.key: (len(FILE), "cached"),
        "unknown": (0, "remote"),
    }


def test_the_status_counts(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=100 * BLOCK)
    partial = cache.open(server.add("partial", FILE))
    partial.read(3 * BLOCK, 10)
    read_all(cache, server.add("whole", FILE[:BLOCK]))
    read_all(cache, server.add("whole", FILE[:BLOCK]))
    status = cache.status()
    partial.close()
    assert (status.files, status.partial_files, status.verified_files) == (2, 1, 1)
    assert status.size_bytes == status.bytes_fetched == 2 * BLOCK
    assert status.limit_bytes == 100 * BLOCK
    assert (status.hits, status.misses) == (1, 2)
    assert status.hit_ratio == pytest.approx(1 / 3)
    assert status.bytes_served == 10 + 2 * BLOCK
    assert (status.evictions, status.mismatches) == (0, 0)
    assert cache.free_bytes() == 98 * BLOCK


def test_two_manifests_that_disagree_about_a_size_cannot_both_be_open(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    reader = cache.open(identity)
    with pytest.raises(StaleFile):
        cache.open(replace(identity, path="b", size=5))
    reader.close()


def test_verified_content_outlives_a_manifest_that_lies_about_its_size(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    with pytest.raises(StaleFile):
        cache.open(replace(identity, path="b", size=5))
    assert cache.cached_bytes([identity.key])[identity.key] == (len(FILE), "verified")


def test_a_reader_reads_no_more_after_it_was_closed(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    other = cache.open(identity)
    reader = cache.open(identity)
    reader.read(0, 10)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(0, 10)
    assert other.read(0, 10) == FILE[:10]
    other.close()


def test_keys_may_be_any_text(caches: Caches, server: FakeTransfers) -> None:
    server.add("a", FILE)
    identity = Identity("../../é\0/x" * 100, "a", len(FILE), hashlib.sha256(FILE).digest(), None)
    assert read_all(caches.open(), identity) == FILE


def test_files_and_folders_are_private(caches: Caches, server: FakeTransfers) -> None:
    read_all(caches.open(), server.add("a", FILE))
    assert caches.folder.stat().st_mode & 0o777 == 0o700
    for path in caches.folder.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)

"""The cache never takes more than it may, and gives up first what will be missed last."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from runicornfs.content import records
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.identity import Identity
from runicornfs.content.sparse import SparseFiles
from runicornfs.errors import NoSpace
from tests.fake_transfers import (
    Caches,
    FakeTransfers,
    content_of,
    counted,
    disk_bytes,
    read_all,
    read_on,
    wait_at_rest,
)
from tests.waiting import wait_until

FILE = content_of(4 * BLOCK)


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def caches(tmp_path: Path, server: FakeTransfers) -> Iterator[Caches]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches


def read_at_random(cache: ContentCache, identities: list[Identity], contents: list[bytes], number: int) -> bool:
    """One of many readers: whether it was given the right bytes of one of the files."""
    places = random.Random(number)
    content = contents[number % len(contents)]
    reader = cache.open(identities[number % len(contents)])
    try:
        offsets = [places.randrange(len(content)) for _ in range(10)]
        return all(reader.read(offset, BLOCK) == content[offset : offset + BLOCK] for offset in offsets)
    finally:
        reader.close()


def states(cache: ContentCache, *keys: str) -> list[str]:
    found = cache.cached_bytes(list(keys))
    return [found[key][1] for key in keys]


def test_the_least_recently_used_contents_go_first_and_whole(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=12 * BLOCK)
    a, b, c, d = (server.add(name, content_of(4 * BLOCK, seed)) for seed, name in enumerate("abcd"))
    for identity in (a, b, c, a, d):
        read_all(cache, identity)
    assert states(cache, a.key, b.key, c.key, d.key) == ["verified", "remote", "verified", "verified"]
    assert cache.status().evictions == 1
    assert counted(cache) == (12 * BLOCK, 12 * BLOCK)


@pytest.mark.promise("C1")
@pytest.mark.parametrize("jump_s", [-10 * 365 * 86400.0, 10 * 365 * 86400.0], ids=["back", "forward"])
@pytest.mark.parametrize("restarts", [False, True])
def test_what_goes_first_does_not_depend_on_a_clock_that_is_set(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch, jump_s: float, restarts: bool
) -> None:
    cache = caches.open(limit=12 * BLOCK)
    a, b, c, d, e = (server.add(name, content_of(4 * BLOCK, seed)) for seed, name in enumerate("abcde"))
    for identity in (a, b, c):
        read_all(cache, identity)
    now = time.time()
    for jump in (jump_s, 0.0):  # and set right again
        monkeypatch.setattr(records, "time", SimpleNamespace(time=lambda jump=jump: now + jump))
        if restarts:
            cache.close()
            cache = caches.open(limit=12 * BLOCK)
        for identity in (a, d) if jump else (b, e):
            read_all(cache, identity)
    assert states(cache, a.key, b.key, c.key, d.key, e.key) == ["remote", "verified", "remote", "verified", "verified"]


def test_open_contents_stay(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=8 * BLOCK)
    a, b, c = (server.add(name, content_of(4 * BLOCK, seed)) for seed, name in enumerate("abc"))
    reader = cache.open(a)
    reader.read(0, 4 * BLOCK)
    read_all(cache, b)
    read_all(cache, c)
    assert states(cache, a.key, b.key, c.key) == ["verified", "remote", "verified"]
    reader.close()


def test_where_nothing_can_go_the_read_says_so_and_the_cache_lives(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=4 * BLOCK)
    a, b = server.add("a", FILE), server.add("b", FILE[::-1])
    reader, other = cache.open(a), cache.open(b)
    assert reader.read(0, 4 * BLOCK) == FILE
    with pytest.raises(NoSpace):
        other.read(0, 10)
    assert reader.read(0, 4 * BLOCK) == FILE
    reader.close()
    assert other.read(0, 4 * BLOCK) == FILE[::-1]
    other.close()


def test_files_larger_than_the_cache_that_are_open_together_share_it(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=16 * BLOCK)
    contents = [content_of(40 * BLOCK, seed) for seed in range(3)]
    readers = [cache.open(server.add(f"f{seed}", content)) for seed, content in enumerate(contents)]
    for reader, content in zip(readers, contents, strict=True):
        assert reader.read(0, BLOCK) == content[:BLOCK]
        read_on(reader, 20 * BLOCK)
    for at in range(20, 40):
        for reader, content in zip(readers, contents, strict=True):
            assert reader.read(at * BLOCK, BLOCK) == content[at * BLOCK : (at + 1) * BLOCK]
            assert cache.status().size_bytes <= 16 * BLOCK
    for reader in readers:
        reader.close()


def test_room_is_waited_for_that_a_file_just_closed_will_leave(caches: Caches, server: FakeTransfers) -> None:
    """It cannot be evicted while a thread still has it: not a reason to tell the next reader that there is no room."""
    cache = caches.open(limit=8 * BLOCK)
    a, b = server.add("a", FILE), server.add("b", content_of(8 * BLOCK, 7))
    first = cache.open(a)
    server.hold(after=1)
    first.read(0, BLOCK)
    wait_until(lambda: server.running, "the rest of the file to be on its way")
    first.close()
    second = cache.open(b)
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(second.read, 0, 8 * BLOCK)
        wait_until(lambda: second.misses, "the second file to be wanted")
        server.release()
        assert read.result() == content_of(8 * BLOCK, 7)
    second.close()


@pytest.mark.promise("C1")
@pytest.mark.parametrize("digest", [True, False])
def test_a_read_larger_than_the_cache_is_served_in_pieces(caches: Caches, server: FakeTransfers, digest: bool) -> None:
    cache = caches.open(limit=3 * BLOCK)
    content = content_of(10 * BLOCK + 5)
    reader = cache.open(server.add("a", content, digest))
    assert reader.read(0, len(content)) == content
    assert reader.read(77, 8 * BLOCK) == content[77 : 77 + 8 * BLOCK]
    reader.close()
    wait_at_rest(cache)
    assert counted(cache)[0] == counted(cache)[1] <= 3 * BLOCK


@pytest.mark.promise("C3")
@pytest.mark.parametrize("blocks", [4, 8])  # eight are the least that `--cache-size` takes
@pytest.mark.parametrize("digest", [True, False])
def test_more_readers_than_the_cache_has_blocks_are_served_in_turn(
    caches: Caches, server: FakeTransfers, blocks: int, digest: bool
) -> None:
    """Sixteen at random places of four files, each wanting a block now and then what will be read ahead."""
    cache = caches.open(limit=blocks * BLOCK)
    contents = [content_of(40 * BLOCK, seed) for seed in range(4)]
    identities = [server.add(f"f{seed}", content, digest) for seed, content in enumerate(contents)]

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda number: read_at_random(cache, identities, contents, number), range(16)))
    wait_at_rest(cache)
    assert counted(cache)[0] == counted(cache)[1] <= blocks * BLOCK


@pytest.mark.timeout(30)
def test_fills_that_need_each_others_room_do_not_wait_for_each_other(
    caches: Caches, server: FakeTransfers, tmp_path: Path
) -> None:
    """Each has asked for blocks, which it takes only when it no longer waits for room: it took half a minute a time."""

    class Distant(FakeTransfers):
        def _wait_for_leave(self) -> None:
            time.sleep(0.005)  # an answer takes a while, so that others ask meanwhile

    distant = Distant(server.root)
    cache = ContentCache(tmp_path / "cache", distant, 8 * BLOCK, 0)
    contents = [content_of(40 * BLOCK, seed) for seed in range(4)]
    identities = [distant.add(f"f{seed}", content) for seed, content in enumerate(contents)]
    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda number: read_at_random(cache, identities, contents, number), range(16)))
    cache.close()


@pytest.mark.parametrize("digest", [True, False])
def test_a_file_larger_than_the_cache_streams_past_it(caches: Caches, server: FakeTransfers, digest: bool) -> None:
    cache = caches.open(limit=16 * BLOCK)
    content = content_of(200 * BLOCK)
    identity = server.add("a", content, digest)
    reader = cache.open(identity)
    most = 0
    for offset in range(0, len(content), BLOCK):
        assert reader.read(offset, BLOCK) == content[offset : offset + BLOCK]
        most = max(most, disk_bytes(caches.folder), cache._room.used)
    assert most <= 16 * BLOCK + 64 * 1024
    assert server.bytes_asked == len(content)
    reader.close()
    wait_until(lambda: not cache._table.entries(), "read-ahead that is on its way")
    assert counted(cache)[0] == counted(cache)[1]
    assert read_all(cache, identity) == content


def test_a_file_larger_than_the_cache_can_be_read_in_any_order(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=5 * BLOCK)
    content = content_of(40 * BLOCK)
    reader = cache.open(server.add("a", content))
    for block in [39, 0, 20, 21, 22, 23, 24, 25, 26, 3, 39, 38, 37, 20, 0, 1]:
        assert reader.read(block * BLOCK, BLOCK) == content[block * BLOCK : (block + 1) * BLOCK]
        assert cache._room.used <= 5 * BLOCK
    reader.close()


def test_readers_of_different_places_share_a_cache_that_is_too_small(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=12 * BLOCK)
    content = content_of(60 * BLOCK)
    identity = server.add("a", content)

    def read(start: int) -> bytes:
        reader = cache.open(identity)
        blocks = [reader.read(block * BLOCK, BLOCK) for block in range(start, start + 30)]
        reader.close()
        return b"".join(blocks)

    with ThreadPoolExecutor(4) as threads:
        reads = {start: threads.submit(read, start) for start in (0, 10, 20, 30)}
        for start, result in reads.items():
            assert result.result() == content[start * BLOCK : (start + 30) * BLOCK]
    wait_at_rest(cache)
    assert counted(cache)[0] == counted(cache)[1] <= 12 * BLOCK


def test_read_ahead_evicts_no_block_that_will_be_read_before(caches: Caches, server: FakeTransfers) -> None:
    server.line_is = (1.0, 1e9)
    cache = caches.open(limit=20 * BLOCK)
    content = content_of(300 * BLOCK)
    reader = cache.open(server.add("a", content))
    for block in range(300):
        assert reader.read(block * BLOCK, BLOCK) == content[block * BLOCK : (block + 1) * BLOCK]
    reader.close()
    assert server.bytes_asked == len(content)


def test_the_disk_keeps_its_free_room(caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has 10 blocks, of which 4 are to stay free."""
    monkeypatch.setattr(SparseFiles, "free_bytes", lambda files: 10 * BLOCK - disk_bytes(caches.folder))
    cache = caches.open(min_free=4 * BLOCK)
    a, b = server.add("a", FILE), server.add("b", FILE[::-1])
    read_all(cache, a)
    wait_until(lambda: not cache._table.entries(), "the threads to be done with it")
    assert cache.free_bytes() == 2 * BLOCK
    assert read_all(cache, b) == FILE[::-1]
    assert states(cache, a.key, b.key) == ["remote", "verified"]


def test_room_that_was_reserved_for_a_fetch_that_failed_is_free_again(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=4 * BLOCK)
    a = server.add("a", FILE)
    (server.root / "a").unlink()
    reader = cache.open(a)
    with pytest.raises(Exception, match="not there"):
        reader.read(0, 10)
    reader.close()
    assert counted(cache) == (0, 0)
    assert cache.free_bytes() == 4 * BLOCK


def test_without_holes_in_files_a_stream_that_is_too_large_says_so(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SparseFiles, "can_punch", lambda files, fd, count: False)
    cache = caches.open(limit=8 * BLOCK)
    content = content_of(20 * BLOCK)
    reader = cache.open(server.add("a", content))
    with pytest.raises(NoSpace):
        read_on(reader, len(content))
    reader.close()


def test_a_lower_limit_after_a_restart_holds_with_the_next_write(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open()
    a, b, c = (server.add(name, content_of(4 * BLOCK, seed)) for seed, name in enumerate("abc"))
    for identity in (a, b):
        read_all(cache, identity)
    cache.close()
    cache = caches.open(limit=5 * BLOCK)
    read_all(cache, c)
    assert states(cache, a.key, b.key, c.key) == ["remote", "remote", "verified"]
    assert counted(cache) == (4 * BLOCK, 4 * BLOCK)

"""Cleaning up and clearing: what goes at once, what goes later, and what a killed program leaves of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Freed, Pin
from runicornfs.content.sparse import SparseFiles
from tests.fake_transfers import Caches, FakeTransfers, content_of, copy_as_killed, counted, disk_bytes, read_all
from tests.waiting import wait_until

FILE = content_of(4 * BLOCK)


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def caches(tmp_path: Path, server: FakeTransfers) -> Iterator[Caches]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches


def quiet(cache: ContentCache) -> None:
    wait_until(lambda: not cache._table.entries(), "the threads to be done with what was read")


def states(cache: ContentCache, *keys: str) -> list[str]:
    found = cache.cached_bytes(list(keys))
    return [found[key][1] for key in keys]


def test_a_lower_limit_after_a_restart_is_kept_without_anything_being_written(
    caches: Caches, server: FakeTransfers
) -> None:
    cache = caches.open()
    a, b, c = (server.add(name, content_of(4 * BLOCK, seed)) for seed, name in enumerate("abc"))
    for identity in (a, b, c, a):
        read_all(cache, identity)
    cache.close()
    cache = caches.open(limit=9 * BLOCK)
    wait_until(lambda: cache.status().size_bytes <= 9 * BLOCK, "the limit to be kept")
    assert states(cache, a.key, b.key, c.key) == ["verified", "remote", "verified"]
    assert disk_bytes(caches.folder) == 8 * BLOCK
    assert cache.cleanup() == Freed(0, 0), "there is nothing left to do"


def test_a_cleanup_leaves_the_disk_its_free_room(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [20 * BLOCK]
    monkeypatch.setattr(SparseFiles, "free_bytes", lambda files: room[0] - disk_bytes(caches.folder))
    cache = caches.open(min_free=2 * BLOCK)
    a, b, c = (server.add(name, content_of(4 * BLOCK, seed)) for seed, name in enumerate("abc"))
    for identity in (a, b, c):
        read_all(cache, identity)
    quiet(cache)
    room[0] = 11 * BLOCK  # somebody else has filled the disk
    assert cache.cleanup() == Freed(1, 4 * BLOCK)
    assert states(cache, a.key, b.key, c.key) == ["remote", "verified", "verified"]
    assert cache.status().evictions == 1


def test_a_clear_removes_everything_and_says_what(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open()
    identities = [server.add(f"file {number}", content_of(BLOCK, number)) for number in range(20)]
    for identity in identities:
        read_all(cache, identity)
    quiet(cache)
    assert cache.clear() == Freed(20, 20 * BLOCK)
    assert cache.status().size_bytes == cache.status().files == disk_bytes(caches.folder) == 0
    assert cache.status().evictions == 0
    assert counted(cache) == (0, 0)
    assert read_all(cache, identities[0]) == content_of(BLOCK, 0), "it is fetched again"
    assert server.times_asked("file 0", 0) == 2


def test_a_clear_takes_what_is_pinned_and_leaves_the_wish(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=4 * BLOCK)
    a, b = server.add("a", FILE), server.add("b", FILE[::-1])
    cache.pin("model/net:v1", {a.key: a.size})
    read_all(cache, a)
    quiet(cache)
    assert cache.clear() == Freed(1, 4 * BLOCK)
    assert cache.pins() == [Pin("model/net:v1", 1, 4 * BLOCK, 0)]
    read_all(cache, b)
    read_all(cache, a)
    assert states(cache, a.key, b.key) == ["verified", "remote"]


def test_what_is_open_stays_readable_and_goes_when_it_is_closed_for_the_last_time(
    caches: Caches, server: FakeTransfers
) -> None:
    cache = caches.open()
    whole, partial = server.add("whole", FILE), server.add("partial", content_of(50 * BLOCK, 7))
    first = cache.open(whole)
    assert first.read(0, 4 * BLOCK) == FILE
    other = cache.open(partial)
    other.read(40 * BLOCK, BLOCK)
    held = cache.status().size_bytes
    assert cache.clear() == Freed(0, 0, held)
    assert cache.status().size_bytes == held, "what is open takes its room still"
    asked = server.bytes_asked
    assert first.read(0, 4 * BLOCK) == FILE
    assert server.bytes_asked == asked
    assert other.read(0, BLOCK) == content_of(BLOCK, 7), "also what has not been fetched"
    second = cache.open(whole)
    first.close()
    assert second.read(BLOCK, BLOCK) == FILE[BLOCK : 2 * BLOCK]
    second.close()
    other.close()
    quiet(cache)
    assert counted(cache) == (0, 0)
    assert disk_bytes(caches.folder) == 0
    assert read_all(cache, whole) == FILE
    assert states(cache, whole.key) == ["verified"], "what comes after the clear stays"


def test_what_nobody_reads_any_more_is_waited_for(caches: Caches, server: FakeTransfers) -> None:
    """A thread may still be at it, for some milliseconds."""
    cache = caches.open()
    reader = cache.open(server.add("a", FILE))
    reader.read(0, len(FILE))
    (entry,) = cache._table.entries()
    assert cache._table.retain(entry), "as a thread does that hashes it"
    reader.close()
    with ThreadPoolExecutor(1) as threads:
        cleared = threads.submit(cache.clear)
        wait_until(lambda: entry.cleared, "the clear to be under way")
        cache._table.release(entry)
        assert cleared.result() == Freed(1, 4 * BLOCK)
    assert counted(cache) == (0, 0)


def test_a_clear_while_many_read_takes_no_byte_from_anybody(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open()
    identities = [server.add(f"file {number}", content_of(3 * BLOCK, number)) for number in range(8)]
    done = threading.Event()

    def read(number: int) -> int:
        times = 0
        while not done.is_set():
            assert read_all(cache, identities[number]) == content_of(3 * BLOCK, number)
            times += 1
        return times

    with ThreadPoolExecutor(8) as threads:
        readers = [threads.submit(read, number) for number in range(8)]
        try:
            for _ in range(20):
                cache.clear()
        finally:
            done.set()
        assert all(reader.result() for reader in readers)
    quiet(cache)
    assert counted(cache)[0] == counted(cache)[1]
    cache.clear()
    assert counted(cache) == (0, 0)
    assert disk_bytes(caches.folder) == 0


@pytest.mark.parametrize("what", ["clear", "cleanup"])
def test_a_program_that_is_killed_in_the_middle_leaves_a_sound_cache(
    caches: Caches,
    server: FakeTransfers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    cache = caches.open(limit=20 * BLOCK)
    identities = [server.add(f"file {number}", content_of(2 * BLOCK, number)) for number in range(10)]
    for identity in identities:
        read_all(cache, identity)
    quiet(cache)
    cache._room.limit = 4 * BLOCK
    remove = SparseFiles.remove
    removed: list[str] = []

    def remove_some(files: SparseFiles, name: str) -> None:
        if len(removed) == 3:
            raise SystemExit
        remove(files, name)
        removed.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(SparseFiles, "remove", remove_some)
        with pytest.raises(SystemExit):
            getattr(cache, what)()
        copy_as_killed(cache, caches.folder, tmp_path / "killed")
    with Caches(tmp_path / "killed", server) as killed:
        cache = killed.open(limit=20 * BLOCK)
        for number, identity in enumerate(identities):
            assert read_all(cache, identity) == content_of(2 * BLOCK, number)
        quiet(cache)
        assert counted(cache) == (20 * BLOCK, 20 * BLOCK)
        assert disk_bytes(killed.folder) == 20 * BLOCK

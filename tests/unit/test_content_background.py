"""Who reads in the background gets what others have left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.fetch import FILLS
from runicornfs.content.reader import CachedReader
from runicornfs.content.wishes import Rank
from tests.fake_transfers import Caches, FakeTransfers, content_of, read_all, wait_at_rest
from tests.waiting import wait_until


class World:
    def __init__(self, transfers: FakeTransfers, cache: ContentCache) -> None:
        self.transfers = transfers
        self.cache = cache
        self.threads: list[threading.Thread] = []

    def read(self, name: str, background: bool = False) -> CachedReader:
        """Opens a content of one block; a thread waits for it."""
        reader = self.cache.open(self.transfers.add(name, content_of(BLOCK, len(self.threads))))
        if background:
            reader.stand_back(Rank.DOWNLOAD)
        self.threads.append(threading.Thread(target=reader.read, args=[0, BLOCK]))
        self.threads[-1].start()
        return reader

    def is_queued(self, name: str) -> bool:
        return any(entry.paths == [name] for entry in list(self.cache._fetcher.workers._items))

    def answer_one(self) -> None:
        self.transfers.hold(1)
        with self.transfers._lock:
            self.transfers._lock.notify_all()

    def asked_for(self, name: str) -> bool:
        return self.transfers.times_asked(name, 0) > 0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Every thread that fetches is busy, and nothing is answered."""
    transfers = FakeTransfers(tmp_path / "server")
    with Caches(tmp_path / "cache", transfers) as caches:
        world = World(transfers, caches.open())
        transfers.hold()
        busy = []
        for number in range(FILLS):  # one after the other: those that come at the same time are fetched together
            busy.append(world.read(f"busy{number}"))
            wait_until(lambda: transfers.running == len(busy), "one more to be busy")
        yield world
        transfers.release()
        for thread in world.threads:
            thread.join()
        for reader in busy:
            reader.close()


def test_a_program_goes_before_a_download_that_asked_earlier(world: World) -> None:
    world.read("download", background=True)
    wait_until(lambda: world.is_queued("download"), "the download to wait")
    world.read("program")
    wait_until(lambda: world.is_queued("program"), "the program to wait")
    world.answer_one()
    wait_until(lambda: world.asked_for("program"), "the program's turn")
    assert not world.asked_for("download")


def test_what_a_program_waits_for_too_is_not_in_the_background(world: World) -> None:
    world.read("shared", background=True)
    wait_until(lambda: world.is_queued("shared"), "the download to wait")
    (entry,) = [entry for entry in world.cache._table.entries() if entry.paths == ["shared"]]
    assert entry.rank is Rank.DOWNLOAD
    program = world.cache.open(world.transfers.add("shared", content_of(BLOCK, FILLS)))
    assert entry.rank is Rank.DOWNLOAD
    world.threads.append(threading.Thread(target=program.read, args=[0, BLOCK]))
    world.threads[-1].start()
    wait_until(lambda: entry.rank is Rank.DEMAND, "the program to wait for the same block")
    world.transfers.release()
    world.threads[-1].join()
    program.close()


def test_demoted_contents_are_evicted_first(tmp_path: Path) -> None:
    transfers = FakeTransfers(tmp_path / "server")
    first, second, third = [transfers.add(name, content_of(BLOCK, seed)) for seed, name in enumerate("abc")]
    with Caches(tmp_path / "cache", transfers) as caches:
        cache = caches.open(limit=2 * BLOCK)
        read_all(cache, first)
        read_all(cache, second)
        wait_at_rest(cache)
        cache.demote([second.key])
        read_all(cache, third)
        assert [cache.cached_bytes([one.key])[one.key][0] for one in (first, second, third)] == [BLOCK, 0, BLOCK]


def test_demoting_what_somebody_has_open_does_nothing(tmp_path: Path) -> None:
    transfers = FakeTransfers(tmp_path / "server")
    first, second, third = [transfers.add(name, content_of(BLOCK, seed)) for seed, name in enumerate("abc")]
    with Caches(tmp_path / "cache", transfers) as caches:
        cache = caches.open(limit=2 * BLOCK)
        read_all(cache, first)
        wait_at_rest(cache)
        reader = cache.open(second)
        reader.read(0, BLOCK)
        cache.demote([second.key])
        reader.close()
        wait_at_rest(cache)
        read_all(cache, third)
        assert [cache.cached_bytes([one.key])[one.key][0] for one in (first, second, third)] == [0, BLOCK, BLOCK]

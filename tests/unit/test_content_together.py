"""Small contents that are wanted at the same time: one fill for all of them, and each stands for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import SMALL, VERIFIED
from runicornfs.content.fetch import FILLS
from runicornfs.content.identity import Identity
from runicornfs.content.reader import CachedReader
from runicornfs.content.scheduler import LEAST_SHARE
from runicornfs.content.wishes import Rank
from runicornfs.errors import ConnectionLost, Interrupted, MissingOnServer
from tests.fake_transfers import Caches, FakeTransfers, Fault, content_of, counted, wait_at_rest
from tests.waiting import wait_until

SIZE = 10_000


class World:
    """Every place but one is taken by a large content, of which nothing is answered until `go`."""

    def __init__(self, server: FakeTransfers, cache: ContentCache, threads: ThreadPoolExecutor) -> None:
        self.server = server
        self.cache = cache
        self._threads = threads
        self._busy: list[Future[bytes]] = []
        server.hold()
        for number in range(FILLS):
            self._busy.append(self.read(server.add(f"busy {number}", content_of(SMALL + 1, 1000 + number))))
            wait_until(lambda: server.running == len(self._busy), "one more place to be taken")

    def small(self, count: int, size: int = SIZE) -> list[Identity]:
        return [self.server.add(f"small {number}", content_of(size, number)) for number in range(count)]

    def read(
        self, identity: Identity, rank: Rank = Rank.DEMAND, interrupted: Callable[[], bool] = lambda: False
    ) -> Future[bytes]:
        """All of it, on a thread; the reader is closed then."""
        reader = self.cache.open(identity)
        if rank is not Rank.DEMAND:
            reader.stand_back(rank)
        return self._threads.submit(self._read, reader, identity, interrupted)

    @staticmethod
    def _read(reader: CachedReader, identity: Identity, interrupted: Callable[[], bool]) -> bytes:
        try:
            return reader.read(0, identity.size, interrupted)
        finally:
            reader.close()

    def read_all(self, identities: list[Identity], rank: Rank = Rank.DEMAND) -> list[Future[bytes]]:
        """Returns when all are queued."""
        reads = [self.read(identity, rank) for identity in identities]
        self.wait_queued({identity.path for identity in identities})
        return reads

    def wait_queued(self, paths: set[str]) -> None:
        queue = self.cache._fetcher.workers._items
        wait_until(lambda: paths <= {entry.paths[0] for entry in list(queue)}, "all to be queued")

    def answer_one(self, ranges: int = 1) -> None:
        self.server.hold(after=ranges)
        with self.server._lock:
            self.server._lock.notify_all()

    def go(self) -> None:
        self.server.release()
        for read in self._busy:
            read.result()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    server = FakeTransfers(tmp_path / "server")
    with Caches(tmp_path / "cache", server) as caches, ThreadPoolExecutor(64) as threads:
        world = World(server, caches.open(), threads)
        yield world
        server.release()


def contents(reads: list[Future[bytes]]) -> list[bytes]:
    return [read.result() for read in reads]


def test_they_are_one_fill(world: World) -> None:
    identities = world.small(20)
    reads = world.read_all(identities)
    world.go()
    assert contents(reads) == [content_of(SIZE, number) for number in range(20)]
    assert world.server.together == [20]
    assert world.server.fills == FILLS + 1
    wait_at_rest(world.cache)
    found = world.cache.cached_bytes([identity.key for identity in identities])
    assert set(found.values()) == {(SIZE, VERIFIED)}


def test_of_two_blocks_both_come_at_once(world: World) -> None:
    reads = world.read_all(world.small(3, SMALL))
    world.go()
    assert contents(reads) == [content_of(SMALL, number) for number in range(3)]
    assert world.server.together == [3]


def test_one_alone_is_a_fill_as_before(world: World) -> None:
    reads = world.read_all(world.small(1))
    world.go()
    assert contents(reads) == [content_of(SIZE, 0)]
    assert world.server.together == []


def test_large_ones_are_served_alone(world: World) -> None:
    reads = world.read_all(world.small(4, SMALL + 1))
    world.go()
    assert contents(reads) == [content_of(SMALL + 1, number) for number in range(4)]
    assert world.server.together == []


def test_a_download_does_not_come_along_with_what_programs_wait_for(world: World) -> None:
    identities = world.small(6)
    reads = world.read_all(identities[:3], Rank.DOWNLOAD) + world.read_all(identities[3:])
    world.go()
    assert contents(reads) == [content_of(SIZE, number) for number in range(6)]
    assert world.server.together == [3, 3]
    order = [path for path, _, _ in world.server.asked if path.startswith("small")]
    assert order == [f"small {number}" for number in (3, 4, 5, 0, 1, 2)]


def test_together_they_are_no_more_than_a_share(world: World) -> None:
    size = LEAST_SHARE // 8
    reads = world.read_all(world.small(20, size))
    world.go()
    assert contents(reads) == [content_of(size, number) for number in range(20)]
    assert sorted(world.server.together) == [4, 8, 8]


def test_what_is_on_its_way_with_others_is_not_asked_for_again(world: World) -> None:
    identities = world.small(10)
    reads = world.read_all(identities)
    world.answer_one()
    wait_until(lambda: world.server.together, "the small ones to be asked for")
    reads += [world.read(identity) for identity in identities]
    world.go()
    assert contents(reads) == 2 * [content_of(SIZE, number) for number in range(10)]
    assert all(world.server.times_asked(identity.path, 0) == 1 for identity in identities)


def test_one_that_is_missing_is_an_error_for_its_reader_alone(world: World) -> None:
    identities = world.small(5)
    reads = world.read_all(identities)
    (world.server.root / "small 2").unlink()
    world.go()
    with pytest.raises(MissingOnServer, match="small 2"):
        reads.pop(2).result()
    assert contents(reads) == [content_of(SIZE, number) for number in (0, 1, 3, 4)]


def test_those_that_did_not_come_are_fetched_again(world: World) -> None:
    identities = world.small(6)
    reads = world.read_all(identities)
    world.server.faults = [Fault(ConnectionLost("cut"), after=1), Fault(ConnectionLost("cut"))]
    world.go()
    assert contents(reads) == [content_of(SIZE, number) for number in range(6)]
    wait_at_rest(world.cache)
    assert counted(world.cache)[0] == counted(world.cache)[1]


def test_one_that_ends_too_early_is_fetched_again(world: World) -> None:
    reads = world.read_all(world.small(3))
    world.server.faults = [Fault(None)]
    world.go()
    assert contents(reads) == [content_of(SIZE, number) for number in range(3)]
    assert [world.server.times_asked(f"small {number}", 0) for number in range(3)] == [2, 1, 1]


def test_one_whose_bytes_are_wrong_is_fetched_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    reads = world.read_all(world.small(3))
    world.server.corrupt["small 1"] = 1
    world.go()
    assert contents(reads) == [content_of(SIZE, number) for number in range(3)]
    assert world.cache.mismatches() == 1


def test_one_whose_reader_has_given_up_is_not_asked_for(world: World) -> None:
    identities = world.small(3)
    given_up: list[bool] = []
    read = world.read(identities[1], interrupted=lambda: bool(given_up))
    others = world.read_all([identities[0], identities[2]])
    world.wait_queued({"small 1"})
    given_up.append(True)
    with pytest.raises(Interrupted):
        read.result()
    world.go()
    assert contents(others) == [content_of(SIZE, 0), content_of(SIZE, 2)]
    assert world.server.times_asked("small 1", 0) == 0


def test_contents_that_are_evicted_for_each_other_are_all_read(tmp_path: Path) -> None:
    server = FakeTransfers(tmp_path / "server")
    with Caches(tmp_path / "cache", server) as caches, ThreadPoolExecutor(8) as threads:
        cache = caches.open(limit=16 * BLOCK)
        identities = [server.add(f"small {number}", content_of(BLOCK, number)) for number in range(60)]

        def read(identity: Identity) -> bytes:
            with closing(cache.open(identity)) as reader:
                return reader.read(0, BLOCK)

        assert list(threads.map(read, identities)) == [content_of(BLOCK, number) for number in range(60)]
        wait_at_rest(cache)
        used, held = counted(cache)
        assert used == held <= 16 * BLOCK


def test_those_for_which_there_is_no_room_at_once_come_later(tmp_path: Path) -> None:
    server = FakeTransfers(tmp_path / "server")
    limit = 16 * BLOCK  # of which the large ones have eight
    with Caches(tmp_path / "cache", server) as caches, ThreadPoolExecutor(16) as threads:
        world = World(server, caches.open(limit=limit), threads)
        reads = world.read_all(world.small(12, BLOCK))
        world.answer_one(ranges=FILLS + 1)  # a cache of this size takes large ones in two: so one of them is done
        wait_until(lambda: server.together, "some of the small ones to be asked for")
        world.go()
        assert contents(reads) == [content_of(BLOCK, number) for number in range(12)]
        assert server.together[0] < 12
        wait_at_rest(world.cache)
        used, held = counted(world.cache)
        assert used == held <= limit

"""The server fails, lies and is slow; readers give up; the cache is closed under them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from runicornfs import errors
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.fetch import RETRIES
from runicornfs.store.files import RemoteFile
from tests.fake_transfers import Caches, FakeTransfers, Fault, content_of, counted, read_all, wait_at_rest
from tests.waiting import wait_until

FILE = content_of(20 * BLOCK + 100)
LOST = errors.ConnectionLost("the line broke")


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
    """Calls something on a thread of its own."""
    with ThreadPoolExecutor(8) as threads:
        yield threads.submit


def test_a_fetch_resumes_at_the_block_where_the_line_broke(cache: ContentCache, server: FakeTransfers) -> None:
    reader = cache.open(server.add("a", FILE))
    server.faults = [Fault(LOST, after=2 * 8 * BLOCK)]
    assert reader.read(0, len(FILE)) == FILE
    reader.close()
    assert [server.times_asked("a", block) for block in range(16)] == [1] * 16


def test_a_failure_that_may_pass_is_tried_again_so_often_and_then_raised(
    cache: ContentCache, server: FakeTransfers
) -> None:
    reader = cache.open(server.add("a", FILE))
    server.faults = [Fault(LOST)] * (RETRIES + 1)
    with pytest.raises(errors.ConnectionLost):
        reader.read(0, 10)
    assert server.fills == RETRIES + 1
    assert reader.read(0, 10) == FILE[:10]
    reader.close()


def test_a_line_that_breaks_again_and_again_but_brings_something_each_time_is_good_enough(
    cache: ContentCache, server: FakeTransfers
) -> None:
    reader = cache.open(server.add("a", content_of(100 * BLOCK)))
    server.faults = [Fault(LOST, after=1)] * 3 * RETRIES
    assert reader.read(0, 100 * BLOCK) == content_of(100 * BLOCK)
    reader.close()


@pytest.mark.parametrize(
    "error",
    [
        errors.AccessDenied("no"),
        errors.MissingOnServer("no"),
        errors.StaleFile("no"),
        errors.ProtocolError("no"),
        OSError(errno.EIO, "no"),
    ],
)
def test_other_failures_are_raised_at_once(cache: ContentCache, server: FakeTransfers, error: Exception) -> None:
    reader = cache.open(server.add("a", FILE))
    server.faults = [Fault(error)]
    with pytest.raises(type(error)):
        reader.read(0, 10)
    assert server.fills == 1
    reader.close()


def test_what_had_come_before_a_failure_stays(cache: ContentCache, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    reader = cache.open(identity)
    server.faults = [Fault(errors.AccessDenied("no"), after=8 * BLOCK)]
    with pytest.raises(errors.AccessDenied):
        reader.read(0, len(FILE))
    assert cache.cached_bytes([identity.key])[identity.key][0] == 8 * BLOCK
    assert counted(cache) == (8 * BLOCK, 8 * BLOCK)
    reader.close()


def test_an_error_nobody_has_thought_of_reaches_the_reader_and_the_log(
    cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    reader = cache.open(server.add("a", FILE))
    server.faults = [Fault(KeyError("what"))]
    with pytest.raises(KeyError):
        reader.read(0, 10)
    reader.close()
    assert "not known" in caplog.text


def test_only_those_who_wait_for_what_failed_get_the_error(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]]
) -> None:
    good, bad = server.add("good", FILE), server.add("bad", FILE[::-1])
    (server.root / "bad").unlink()
    readers = cache.open(good), cache.open(bad)
    server.hold()
    reads = [thread(reader.read, 0, 10) for reader in readers]
    with pytest.raises(errors.MissingOnServer):
        reads[1].result()
    server.release()
    assert reads[0].result() == FILE[:10]
    for reader in readers:
        reader.close()


def test_the_same_bytes_are_fetched_from_another_place_if_one_is_gone(
    cache: ContentCache, server: FakeTransfers
) -> None:
    first, second = server.add("v1/model", FILE), server.add("v2/model", FILE)
    (server.root / "v1/model").unlink()
    readers = cache.open(first), cache.open(second)
    assert readers[0].read(0, len(FILE)) == FILE
    for reader in readers:
        reader.close()


def test_bytes_that_are_gone_everywhere_are_missing(cache: ContentCache, server: FakeTransfers) -> None:
    first, second = server.add("v1/model", FILE), server.add("v2/model", FILE)
    for name in ("v1/model", "v2/model"):
        (server.root / name).unlink()
    readers = cache.open(first), cache.open(second)
    with pytest.raises(errors.MissingOnServer):
        readers[0].read(0, 10)
    assert server.fills == 2
    for reader in readers:
        reader.close()


def test_a_transfer_that_ends_too_early_is_tried_again(cache: ContentCache, server: FakeTransfers) -> None:
    reader = cache.open(server.add("a", FILE))
    server.faults = [Fault(None, after=1)]
    assert reader.read(0, len(FILE)) == FILE
    reader.close()


def test_a_transfer_that_never_brings_anything_is_an_error(cache: ContentCache, server: FakeTransfers) -> None:
    reader = cache.open(server.add("a", FILE))
    server.faults = [Fault(None)] * (RETRIES + 1)
    with pytest.raises(errors.ProtocolError):
        reader.read(0, len(FILE))
    reader.close()
    assert counted(cache) == (0, 0)


def test_blocks_nobody_asked_for_and_parts_of_blocks_do_not_count(caches: Caches, server: FakeTransfers) -> None:
    class Liar(FakeTransfers):
        def fill(
            self, file: RemoteFile, wanted: Iterator[tuple[int, int]], fd: int, received: Callable[[int, int], None]
        ) -> None:
            if not self.fills:
                received(0, 10 * BLOCK)

            def twice(offset: int, length: int) -> None:
                received(offset + 1, length - 1)
                received(offset, length - 1)
                received(offset, length)
                received(offset, length)

            super().fill(file, wanted, fd, twice)

    liar = Liar(server.root)
    cache = ContentCache(caches.folder, liar, 1 << 40, 0)
    identity = liar.add("a", FILE)
    reader = cache.open(identity)
    assert reader.read(10 * BLOCK, 10) == FILE[10 * BLOCK : 10 * BLOCK + 10]
    assert cache.cached_bytes([identity.key])[identity.key][0] <= 2 * BLOCK
    assert counted(cache)[0] == counted(cache)[1]
    assert read_all(cache, identity) == FILE
    reader.close()
    cache.close()


def test_a_reader_that_gives_up_is_let_go_while_the_server_says_nothing(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]]
) -> None:
    reader = cache.open(server.add("a", FILE))
    server.hold()
    killed = threading.Event()
    read = thread(reader.read, 0, 10, killed.is_set)
    wait_until(lambda: server.running, "the fetch")
    killed.set()
    with pytest.raises(errors.Interrupted):
        read.result()
    server.release()
    assert reader.read(0, 10) == FILE[:10]
    reader.close()


def test_a_closed_reader_that_waits_on_another_thread_is_let_go(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]]
) -> None:
    reader = cache.open(server.add("a", FILE))
    server.hold()
    read = thread(reader.read, 0, 10)
    wait_until(lambda: server.running, "the fetch")
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        read.result()
    server.release()


def test_a_content_that_is_opened_again_while_it_still_arrives_is_joined(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]]
) -> None:
    identity = server.add("a", FILE)
    reader = cache.open(identity)
    server.hold()
    killed = threading.Event()
    read = thread(reader.read, 0, 8 * BLOCK, killed.is_set)
    wait_until(lambda: server.asked, "the fetch")
    killed.set()
    assert isinstance(read.exception(), errors.Interrupted)
    reader.close()
    again = cache.open(identity)
    read = thread(again.read, 0, 8 * BLOCK)
    wait_until(lambda: again.misses, "the second reader to wait")
    server.release()
    assert read.result() == FILE[: 8 * BLOCK]
    again.close()
    assert server.times_asked("a", 0) == 1


def test_what_arrives_after_the_last_close_is_kept(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]]
) -> None:
    identity = server.add("a", FILE)
    reader = cache.open(identity)
    server.hold()
    read = thread(reader.read, 0, 8 * BLOCK)
    wait_until(lambda: server.asked, "the fetch")
    reader.close()
    assert read.exception() is not None
    server.release()
    wait_until(lambda: not cache._table.entries(), "the fetch to end")
    kept, state = cache.cached_bytes([identity.key])[identity.key]
    assert kept >= 8 * BLOCK
    assert state == "partial"
    assert counted(cache) == (kept, kept)


def test_closing_the_cache_lets_go_of_readers_that_wait(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]]
) -> None:
    readers = [cache.open(server.add(name, content_of(20 * BLOCK, seed))) for seed, name in enumerate("abcdefgh")]
    server.hold()
    reads = [thread(reader.read, 0, 10) for reader in readers]
    wait_until(lambda: server.running == 4 and all(reader.misses for reader in readers), "all threads to be busy")
    closing = threading.Thread(target=cache.close)
    closing.start()
    for read in reads:
        assert isinstance(read.exception(), errors.Unreachable)
    server.release()
    closing.join()
    for reader in readers:
        with pytest.raises(errors.Unreachable):
            reader.read(0, 10)
        reader.close()


def test_a_transfer_that_hangs_does_not_hold_up_closing_and_its_file_stays_open(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runicornfs.content.cache.CLOSING_S", 0.01)
    reader = cache.open(server.add("a", FILE))
    server.hold()
    read = thread(reader.read, 0, 10)
    wait_until(lambda: server.asked, "the fetch")
    (entry,) = cache._table.entries()
    cache.close()
    assert isinstance(read.exception(), errors.Unreachable)
    os.fstat(entry.fd)
    server.release()
    wait_until(lambda: entry.fd == -1, "the transfer to end")


def test_nothing_can_be_opened_in_a_closed_cache(cache: ContentCache, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    cache.close()
    cache.close()
    with pytest.raises(errors.Unreachable):
        cache.open(identity)


def test_a_full_disk_evicts_and_goes_on(cache: ContentCache, server: FakeTransfers) -> None:
    old, new = server.add("old", FILE), server.add("new", FILE[::-1])
    read_all(cache, old)
    wait_at_rest(cache)
    reader = cache.open(new)
    server.faults = [Fault(OSError(errno.ENOSPC, "full"), after=BLOCK)]
    assert reader.read(0, len(FILE)) == FILE[::-1]
    assert cache.cached_bytes([old.key])[old.key] == (0, "remote")
    assert cache.status().evictions == 1
    reader.close()


def test_a_full_disk_with_nothing_to_evict_is_said(cache: ContentCache, server: FakeTransfers) -> None:
    reader = cache.open(server.add("a", FILE))
    server.faults = [Fault(OSError(errno.ENOSPC, "full"))] * 10
    with pytest.raises(errors.NoSpace):
        reader.read(0, 10)
    server.faults = []
    assert reader.read(0, 10) == FILE[:10]
    reader.close()


def test_readers_of_many_contents_all_get_on(
    cache: ContentCache, server: FakeTransfers, thread: Callable[..., Future[bytes]]
) -> None:
    """More contents than threads that fetch, each wanting more than its share at once."""
    contents = {name: content_of(150 * BLOCK, seed) for seed, name in enumerate("abcdefgh")}
    identities = {name: server.add(name, content) for name, content in contents.items()}
    reads = {name: thread(read_all, cache, identity, 50 * BLOCK) for name, identity in identities.items()}
    assert all(reads[name].result() == content for name, content in contents.items())
    assert counted(cache)[0] == counted(cache)[1] == 8 * 150 * BLOCK

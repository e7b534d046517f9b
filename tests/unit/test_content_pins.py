"""What is pinned stays, whatever else wants its room."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Pin
from runicornfs.content.identity import Identity
from runicornfs.content.sparse import SparseFiles
from runicornfs.errors import NoSpace, NotFound
from tests.fake_transfers import (
    Caches,
    FakeTransfers,
    Fault,
    content_of,
    copy_as_killed,
    counted,
    disk_bytes,
    read_all,
    read_on,
)
from tests.waiting import wait_until

LABEL = "model/net:v1"


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def caches(tmp_path: Path, server: FakeTransfers) -> Iterator[Caches]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches


def add(server: FakeTransfers, names: str, blocks: int = 4) -> list[Identity]:
    return [server.add(name, content_of(blocks * BLOCK, ord(name))) for name in names]


def pin(cache: ContentCache, label: str, *identities: Identity) -> None:
    cache.pin(label, {identity.key: identity.size for identity in identities})


def states(cache: ContentCache, *identities: Identity) -> list[str]:
    found = cache.cached_bytes([identity.key for identity in identities])
    return [found[identity.key][1] for identity in identities]


def test_a_pinned_content_is_not_evicted_although_it_was_used_longest_ago(
    caches: Caches, server: FakeTransfers
) -> None:
    cache = caches.open(limit=12 * BLOCK)
    a, b, c, d, e = add(server, "abcde")
    read_all(cache, a)
    pin(cache, LABEL, a)
    for identity in (b, c, d, e):
        read_all(cache, identity)
    assert states(cache, a, b, c, d, e) == ["verified", "remote", "remote", "verified", "verified"]


def test_a_content_that_was_pinned_before_it_was_fetched_is_not_evicted(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=8 * BLOCK)
    a, b, c = add(server, "abc")
    pin(cache, LABEL, a)
    for identity in (a, b, c):
        read_all(cache, identity)
    assert states(cache, a, b, c) == ["verified", "remote", "verified"]


def test_what_is_here_of_a_pinned_content_stays_while_the_rest_is_not(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=8 * BLOCK)
    (a,) = add(server, "a", blocks=6)
    (b,) = add(server, "b", blocks=30)
    pin(cache, LABEL, a)
    reader = cache.open(a)
    reader.read(3 * BLOCK, BLOCK)
    assert read_all(cache, b) == content_of(30 * BLOCK, ord("b")), "it streams past what is pinned and open"
    reader.close()
    assert read_all(cache, b) == content_of(30 * BLOCK, ord("b")), "and past what is pinned and closed"
    reader = cache.open(a)
    reader.read(3 * BLOCK, BLOCK)
    assert server.times_asked("a", 3) == 1
    reader.close()


def test_a_pinned_content_gives_none_of_its_own_blocks_up(caches: Caches, server: FakeTransfers) -> None:
    """Others have the room that it would need: its reader is told so, and keeps what it has."""
    cache = caches.open(limit=8 * BLOCK)
    a, b = add(server, "ab")
    holder = cache.open(b)
    read_on(holder, b.size)
    (c,) = add(server, "c", blocks=8)
    pin(cache, LABEL, c)
    reader = cache.open(c)
    got = read_on(reader, 4 * BLOCK)
    with pytest.raises(NoSpace, match="open or pinned"):
        reader.read(5 * BLOCK, BLOCK)
    assert reader.read(0, 4 * BLOCK) == got
    assert cache._room.used == 8 * BLOCK
    holder.close()
    wait_until(lambda: len(cache._table.entries()) == 1, "the other file to be closed")
    assert reader.read(0, c.size) == content_of(8 * BLOCK, ord("c"))
    reader.close()


def test_where_all_that_is_left_is_pinned_the_read_says_so(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=4 * BLOCK)
    a, b = add(server, "ab")
    read_all(cache, a)
    pin(cache, LABEL, a)
    with pytest.raises(NoSpace, match="open or pinned"):
        read_all(cache, b)
    cache.unpin(LABEL)
    assert read_all(cache, b) == content_of(4 * BLOCK, ord("b"))
    assert states(cache, a) == ["remote"]


def test_a_full_disk_takes_nothing_that_is_pinned(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SparseFiles, "free_bytes", lambda files: 14 * BLOCK - disk_bytes(caches.folder))
    cache = caches.open(min_free=2 * BLOCK)
    a, b, c = add(server, "abc")
    read_all(cache, a)
    pin(cache, LABEL, a)
    read_all(cache, b)
    wait_until(lambda: not cache._table.entries(), "the threads to be done with it")
    server.faults = [Fault(OSError(errno.ENOSPC, "full"))]
    assert read_all(cache, c)
    assert states(cache, a, b, c) == ["verified", "remote", "verified"]
    (d,) = add(server, "d", blocks=12)
    assert read_all(cache, d) == content_of(12 * BLOCK, ord("d")), "it streams past what is pinned"
    assert states(cache, a, c) == ["verified", "remote"]


def test_more_than_the_cache_holds_cannot_be_pinned(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=10 * BLOCK)
    a, b, c = add(server, "abc")
    pin(cache, "model/a:v1", a)
    with pytest.raises(NoSpace, match=r"model/net:v1 \(1.0MiB\) .* at most 1.2MiB, of which 512.0KiB are pinned"):
        pin(cache, LABEL, b, c)
    assert [known.label for known in cache.pins()] == ["model/a:v1"], "nothing of it is pinned"
    pin(cache, LABEL, a, b)  # what is pinned twice takes its room once
    assert cache.pins() == [Pin("model/a:v1", 1, 4 * BLOCK, 0), Pin(LABEL, 2, 8 * BLOCK, 0)]


def test_a_content_that_is_pinned_twice_stays_until_it_is_unpinned_twice(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=4 * BLOCK)
    a, b = add(server, "ab")
    read_all(cache, a)
    pin(cache, "model/net:v1", a)
    pin(cache, "model/net:v2", a)
    cache.unpin("model/net:v1")
    with pytest.raises(NoSpace):
        read_all(cache, b)
    cache.unpin("model/net:v2")
    read_all(cache, b)


def test_pinning_again_pins_what_the_label_means_now(caches: Caches, server: FakeTransfers) -> None:
    """A version number can come back with other bytes."""
    cache = caches.open(limit=4 * BLOCK)
    a, b = add(server, "ab")
    pin(cache, LABEL, a)
    pin(cache, LABEL, b)
    assert cache.pins() == [Pin(LABEL, 1, 4 * BLOCK, 0)]
    read_all(cache, a)
    read_all(cache, b)
    assert states(cache, a, b) == ["remote", "verified"]


def test_unpinning_what_is_not_pinned_says_so(caches: Caches) -> None:
    with pytest.raises(NotFound, match=LABEL):
        caches.open().unpin(LABEL)


@pytest.mark.parametrize("killed", [False, True])
def test_pins_outlive_the_program(caches: Caches, server: FakeTransfers, tmp_path: Path, killed: bool) -> None:
    cache = caches.open(limit=8 * BLOCK)
    a, b, c = add(server, "abc")
    odd = "model/\udcff:v1"  # a name that is no Unicode
    pin(cache, LABEL, a)
    pin(cache, odd, a)
    read_all(cache, a)
    wait_until(lambda: not cache._table.entries(), "the threads to be done with it")
    if killed:
        cache._flusher.flush()
        copy_as_killed(cache, caches.folder, tmp_path / "killed")
        caches = Caches(tmp_path / "killed", server)
    else:
        cache.close()
    with caches:
        cache = caches.open(limit=8 * BLOCK)
        assert cache.pins() == [Pin(LABEL, 1, 4 * BLOCK, 4 * BLOCK), Pin(odd, 1, 4 * BLOCK, 4 * BLOCK)]
        for identity in (b, c):
            read_all(cache, identity)
        assert states(cache, a) == ["verified"]


def test_a_lower_limit_than_what_is_pinned_keeps_the_pins(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open(limit=8 * BLOCK)
    a, b, c = add(server, "abc")
    pin(cache, LABEL, a, b)
    for identity in (a, b):
        read_all(cache, identity)
    cache.close()
    cache = caches.open(limit=4 * BLOCK)
    with pytest.raises(NoSpace):
        read_all(cache, c)
    assert states(cache, a, b) == ["verified", "verified"]
    assert counted(cache) == (8 * BLOCK, 8 * BLOCK)


def test_a_cache_that_was_made_before_there_were_pins_keeps_what_it_holds(
    caches: Caches, server: FakeTransfers
) -> None:
    cache = caches.open()
    (a,) = add(server, "a")
    read_all(cache, a)
    cache.close()
    with sqlite3.connect(caches.folder / "records.db") as connection:
        connection.execute("DROP TABLE pins")
    connection.close()
    cache = caches.open()
    assert states(cache, a) == ["verified"]
    pin(cache, LABEL, a)
    assert cache.pins() == [Pin(LABEL, 1, 4 * BLOCK, 4 * BLOCK)]

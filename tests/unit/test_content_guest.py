"""A cache that another process owns, seen from a guest: the same bytes, the same errors, and fewer questions."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from runicornfs.content import guest as guest_module
from runicornfs.content import owner
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Contents
from runicornfs.content.guest import READS, GuestContents
from runicornfs.content.owner import MAX_READ, OwnerSocket
from runicornfs.content.wire import Connection
from runicornfs.errors import (
    ContentMismatch,
    Interrupted,
    MissingOnServer,
    NotFound,
    OwnerGone,
    StaleFile,
    TimedOut,
    Unreachable,
)
from tests.fake_transfers import Caches, FakeTransfers, Fault, content_of, read_on
from tests.waiting import wait_until

FILE = content_of(20 * BLOCK + 100)


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def cache(tmp_path: Path, server: FakeTransfers) -> Iterator[ContentCache]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches.open()


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What the handler `wait` waits for."""
    released = threading.Event()
    yield released
    released.set()


@pytest.fixture
def door(tmp_path: Path, cache: ContentCache, released: threading.Event) -> Iterator[OwnerSocket]:
    door = OwnerSocket(tmp_path / "cache", cache, {"wait": lambda arguments: released.wait(30)})
    yield door
    door.close()


@pytest.fixture
def guest(tmp_path: Path, door: OwnerSocket) -> Iterator[GuestContents]:
    guest = GuestContents(tmp_path / "cache")
    yield guest
    guest.close()


def _flip(cache: ContentCache, offset: int) -> None:
    """Damages the only content on the disk."""
    (file,) = (cache._table._files._folder).iterdir()
    with file.open("r+b") as stored:
        stored.seek(offset)
        byte = stored.read(1)
        stored.seek(offset)
        stored.write(bytes([byte[0] ^ 1]))


def _drop(cache: ContentCache, key: str) -> None:
    """What the check of what is cached does with a content whose bytes turn out to be wrong."""
    (entry,) = (entry for entry in cache._table.entries() if entry.key == key)
    with entry.condition:
        cache._verifier._drop(entry, ContentMismatch("not what it should be"), again=False)
    cache._verifier._announce(entry)


def test_a_guest_reads_what_the_owner_would(guest: GuestContents, server: FakeTransfers) -> None:
    with closing(guest.open(server.add("a", FILE))) as reader:
        for offset, size in [(0, 1), (BLOCK - 1, 2), (5 * BLOCK, 3 * BLOCK), (len(FILE) - 1, 50), (len(FILE), 5)]:
            assert reader.read(offset, size) == FILE[offset : offset + size]


def test_a_read_may_be_larger_than_a_frame(guest: GuestContents, server: FakeTransfers) -> None:
    content = content_of(2 * MAX_READ + 5)
    with closing(guest.open(server.add("large", content))) as reader:
        assert reader.read(0, len(content)) == content


def test_guest_and_owner_fetch_every_byte_once(
    guest: GuestContents, cache: ContentCache, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    with closing(guest.open(identity)) as there, closing(cache.open(identity)) as here, ThreadPoolExecutor(2) as both:
        assert list(both.map(lambda reader: read_on(reader, len(FILE)), [there, here])) == [FILE, FILE]
    assert server.bytes_asked == len(FILE)


def test_a_content_that_is_whole_is_read_without_the_owner(
    guest: GuestContents, door: OwnerSocket, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    with closing(guest.open(identity)) as reader:
        assert read_on(reader, len(FILE)) == FILE
        wait_until(lambda: reader.state == "verified" or reader.read(0, 1) == b"", "the check")
        door.close()
        assert read_on(reader, len(FILE)) == FILE
        with pytest.raises(OwnerGone):
            guest.open(identity)


def test_a_content_that_is_whole_when_it_is_opened_costs_no_question(
    guest: GuestContents, cache: ContentCache, door: OwnerSocket, server: FakeTransfers
) -> None:
    identity = server.add("log", FILE, digest=False)
    with closing(cache.open(identity)) as reader:
        reader.read(0, len(FILE))
    with closing(guest.open(identity)) as reader:
        assert reader.state == "cached"
        door.close()
        assert reader.read(0, len(FILE)) == FILE


def test_an_empty_file_is_empty(guest: GuestContents, server: FakeTransfers) -> None:
    with closing(guest.open(server.add("empty", b""))) as reader:
        assert reader.read(0, 10) == b""
        assert reader.state == "verified"


def test_what_the_owner_shares_cannot_be_written_to(guest: GuestContents, server: FakeTransfers) -> None:
    with closing(guest.open(server.add("log", FILE, digest=False))) as reader:
        reader.read(0, len(FILE))
        assert reader._direct is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(reader._direct.fd, b"x", 0)


def test_reads_of_guests_count_as_the_owners(guest: GuestContents, server: FakeTransfers) -> None:
    identity = server.add("log", FILE[:BLOCK], digest=False)
    with closing(guest.open(identity)) as reader:
        reader.read(0, BLOCK)
        for _ in range(3):
            reader.read(0, 10)
    status = guest.status()
    assert (status.hits, status.misses, status.bytes_served) == (3, 1, BLOCK + 30)


def test_the_owners_errors_are_the_guests(guest: GuestContents, cache: ContentCache, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    server.faults = [Fault(Unreachable("the server is away"))] * 10
    with closing(guest.open(identity)) as reader:
        with pytest.raises(Unreachable, match="the server is away"):
            reader.read(0, 10)
        with pytest.raises(StaleFile):
            guest.open(replace(identity, size=7))
        server.faults = []
        (server.root / "a").unlink()
        with pytest.raises(MissingOnServer):
            reader.read(0, 10)
    with pytest.raises(NotFound):
        guest.unpin("nothing")


def test_the_methods_of_contents_answer_as_the_owners_do(
    guest: GuestContents, cache: ContentCache, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    with closing(guest.open(identity)) as reader:
        reader.read(17 * BLOCK, 10)
    wait_until(lambda: not cache._table.entries(), "the content to be at rest")
    assert guest.cached_bytes([identity.key, "other"]) == cache.cached_bytes([identity.key, "other"])
    assert guest.status() == cache.status()
    assert abs(guest.free_bytes() - cache.free_bytes()) < 1 << 30, "others write to this disk, too"
    guest.pin("mine", {identity.key: identity.size})
    assert guest.pins() == cache.pins() != []
    assert guest.files("size", 10) == cache.files("size", 10) != []
    guest.unpin("mine")
    assert guest.pins() == []
    assert guest.cleanup().files == 0
    guest.demote([identity.key])
    assert guest.evict(["other"]).files == 0
    assert guest.clear().files == 1
    assert guest.files("size", 10) == []
    assert guest.verify().status in ("running", "completed")
    wait_until(lambda: guest.verification().status == "completed", "the check")


def test_every_method_of_contents_can_be_asked_of_a_guest() -> None:
    own = {"open", "close", "mismatches", "on_dropped"}
    methods = {name for name in vars(Contents) if not name.startswith("_")}
    assert methods - own == owner.METHODS
    assert methods <= set(dir(GuestContents))


def test_a_list_of_very_many_keys_is_answered(guest: GuestContents) -> None:
    keys = [f"{number:064x}" for number in range(50_000)]
    assert guest.cached_bytes(keys) == dict.fromkeys(keys, (0, "remote"))


def test_a_name_that_is_no_utf8_can_be_opened(guest: GuestContents, server: FakeTransfers) -> None:
    with closing(guest.open(server.add(os.fsdecode(b"caf\xe9"), FILE))) as reader:
        assert reader.read(0, 10) == FILE[:10]
    assert [file.path for file in guest.files("size", 1)] == [os.fsdecode(b"caf\xe9")]


def test_a_read_that_waits_can_be_given_up(guest: GuestContents, cache: ContentCache, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    with closing(guest.open(identity)) as reader:
        server.hold()
        with pytest.raises(Interrupted):
            reader.read(0, 10, lambda: True)
        (entry,) = cache._table.entries()
        wait_until(lambda: not entry.waiting, "the owner to give it up too")
        server.release()
        assert reader.read(0, 10) == FILE[:10]


def test_reads_that_wait_hold_up_no_others(guest: GuestContents, cache: ContentCache, server: FakeTransfers) -> None:
    slow, quick = server.add("a", FILE), server.add("log", FILE[:BLOCK], digest=False)
    with closing(cache.open(quick)) as reader:
        reader.read(0, 10)
    with closing(guest.open(slow)) as reader, ThreadPoolExecutor(READS + 4) as threads:
        server.hold()
        reads = [threads.submit(reader.read, 17 * BLOCK, 10) for _ in range(READS + 4)]
        wait_until(lambda: server.running, "the reads to wait")
        assert guest.status().files == 2
        with closing(guest.open(quick)) as other:
            assert other.read(0, 10) == FILE[:10]
        server.release()
        assert [read.result() for read in reads] == [FILE[17 * BLOCK :][:10]] * len(reads)


def test_an_owner_that_is_silent_is_not_waited_for_for_ever(
    guest: GuestContents, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_module, "SILENCE_S", 0.01)
    with pytest.raises(TimedOut):
        guest.call("wait")
    released.set()


def test_an_owner_that_works_for_long_is_waited_for(
    tmp_path: Path, cache: ContentCache, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "BEAT_S", 0.1)
    monkeypatch.setattr(guest_module, "SILENCE_S", 1.0)
    beats: list[Connection] = []
    beat = Connection.beat

    def counted(connection: Connection) -> None:
        beat(connection)
        beats.append(connection)
        if len(beats) == 15:  # longer than the guest would wait without them
            released.set()

    monkeypatch.setattr(Connection, "beat", counted)
    door = OwnerSocket(tmp_path / "cache", cache, {"wait": lambda arguments: released.wait(30)})
    with closing(door), closing(GuestContents(tmp_path / "cache")) as guest:
        assert guest.call("wait") is True
    assert len(beats) >= 15


def test_what_is_announced_is_heard_by_every_guest(tmp_path: Path, door: OwnerSocket) -> None:
    guests = [GuestContents(tmp_path / "cache") for _ in range(3)]
    heard: list[object] = []
    for guest in guests:
        guest.on_event("changed", heard.append)
    door.announce("changed", {"n": 1})
    wait_until(lambda: heard == [{"n": 1}] * 3, "everybody to hear of it")
    for guest in guests:
        guest.close()


def test_a_callback_that_fails_is_logged_and_costs_no_other(
    guest: GuestContents, door: OwnerSocket, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []
    guest.on_event("changed", lambda data: data["not there"])
    guest.on_event("changed", heard.append)
    door.announce("changed", {})
    door.announce("changed", {})
    wait_until(lambda: len(heard) == 2, "both")
    assert "KeyError" in caplog.text


def test_the_loss_of_the_owner_is_told_once_and_to_those_who_ask_later(guest: GuestContents, door: OwnerSocket) -> None:
    lost: list[str] = []
    guest.on_lost(lambda: lost.append("early"))
    door.close()
    wait_until(lambda: lost, "the loss to be told")
    guest.on_lost(lambda: lost.append("late"))
    guest.close()
    assert lost == ["early", "late"]


def test_closing_is_no_loss(guest: GuestContents) -> None:
    lost: list[str] = []
    guest.on_lost(lambda: lost.append("lost"))
    guest.close()
    guest.close()
    assert lost == []
    with pytest.raises(OwnerGone):
        guest.status()


def test_a_reader_reads_no_more_after_it_was_closed(guest: GuestContents, server: FakeTransfers) -> None:
    reader = guest.open(server.add("a", FILE))
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(0, 10)


def test_a_reader_of_a_content_that_is_dropped_gets_no_more_of_it(
    guest: GuestContents, cache: ContentCache, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    dropped: list[str] = []
    guest.on_dropped(dropped.append)
    with closing(guest.open(identity)) as reader:
        read_on(reader, len(FILE))
        wait_until(lambda: reader._direct is not None or reader.read(0, 1) == b"", "the descriptor")
        _drop(cache, identity.key)
        wait_until(lambda: dropped == [identity.key], "the guest to hear of it")
        with pytest.raises(ContentMismatch):
            reader.read(0, 10)
    with closing(guest.open(identity)) as reader:
        assert read_on(reader, len(FILE)) == FILE


def test_a_file_that_was_shared_is_never_changed(
    guest: GuestContents, cache: ContentCache, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    with closing(guest.open(identity)) as reader:
        read_on(reader, len(FILE))
        wait_until(lambda: reader._direct is not None or reader.read(0, 1) == b"", "the descriptor")
        assert reader._direct is not None
        kept = os.dup(reader._direct.fd)
        _drop(cache, identity.key)
    with closing(cache.open(identity)) as here:
        assert read_on(here, len(FILE)) == FILE
    assert os.pread(kept, len(FILE), 0) == FILE
    assert os.fstat(kept).st_nlink == 0
    os.close(kept)


def test_a_descriptor_that_comes_late_is_not_kept(
    guest: GuestContents, cache: ContentCache, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    with closing(guest.open(identity)) as reader:
        epoch = reader._epoch
        answer = guest.ask({"op": "read", "handle": reader._handle, "offset": 0, "size": 10})
        reader.let_go()
        late = answer._replace(fd=os.open(os.devnull, os.O_RDONLY))
        assert not reader._take(late, epoch)
        assert reader._direct is None


def test_what_is_damaged_on_the_disk_is_found_and_mended_under_open_guests(
    guest: GuestContents, cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    dropped: list[str] = []
    guest.on_dropped(dropped.append)
    with closing(guest.open(identity)) as reader:
        read_on(reader, len(FILE))
        wait_until(lambda: reader.state == "verified" or reader.read(0, 1) == b"", "the check")
        _flip(cache, 5 * BLOCK)
        guest.verify()
        wait_until(lambda: guest.verification().status == "completed", "the check")
        assert guest.verification().corrupt_files == 1
        wait_until(lambda: dropped == [identity.key], "the guest to hear of it")
        with pytest.raises(ContentMismatch):
            reader.read(0, 10)
    with closing(guest.open(identity)) as reader:
        assert read_on(reader, len(FILE)) == FILE


def test_a_content_that_is_cleared_stays_readable_until_it_is_closed(
    guest: GuestContents, cache: ContentCache, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    with closing(guest.open(identity)) as reader:
        read_on(reader, len(FILE))
        guest.clear()
        assert read_on(reader, len(FILE)) == FILE
    assert guest.files("size", 10) == []
    assert cache.status().size_bytes == 0


def test_what_a_guest_has_open_is_not_evicted(tmp_path: Path, server: FakeTransfers) -> None:
    kept, other = server.add("kept", FILE), server.add("other", content_of(15 * BLOCK, seed=1))
    with Caches(tmp_path / "small", server) as caches:
        cache = caches.open(limit=24 * BLOCK)
        with closing(OwnerSocket(tmp_path / "small", cache, {})), closing(GuestContents(tmp_path / "small")) as guest:
            reader = guest.open(kept)
            read_on(reader, len(FILE))
            with closing(guest.open(other)) as another:
                assert read_on(another, other.size) == content_of(15 * BLOCK, seed=1)
            assert guest.cached_bytes([kept.key])[kept.key] == (len(FILE), "verified")
            assert cache.status().size_bytes <= 24 * BLOCK
            assert read_on(reader, len(FILE)) == FILE
            reader.close()


def test_without_descriptors_bytes_travel(
    guest: GuestContents, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("runicornfs.content.reader.reopened", refuse)
    with closing(guest.open(server.add("log", FILE, digest=False))) as reader:
        assert reader.read(0, len(FILE)) == FILE
        assert reader.read(0, len(FILE)) == FILE
        assert reader._direct is None

"""What is cached is checked again on request; what has rotted is dropped, and nobody is given it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.content import scrub
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Verification
from runicornfs.errors import ContentMismatch
from tests.fake_transfers import Caches, FakeTransfers, content_of, copy_as_killed, counted, disk_bytes, read_all
from tests.waiting import wait_until

FILE = content_of(4 * BLOCK + 100)


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


def quiet(cache: ContentCache) -> None:
    wait_until(lambda: not cache._table.entries(), "the threads to be done with what was read")


def verified(cache: ContentCache) -> Verification:
    """A whole check."""
    cache.verify()
    wait_until(lambda: cache.verification().status != "running", "the check")
    return cache.verification()


def rot(cache: ContentCache, key: str, offset: int = BLOCK + 3) -> None:
    """One byte changes on the disk."""
    cache._flusher.flush()
    record = cache._records.get(key)
    assert record is not None
    with open(cache._table._files._folder / record.file, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def used(folder: Path) -> dict[str, float]:
    with sqlite3.connect(folder / "records.db") as connection:
        found = dict(connection.execute("SELECT key, last_used FROM contents").fetchall())
    connection.close()
    return found


def test_nothing_was_checked_yet(cache: ContentCache) -> None:
    assert cache.verification() == Verification()


def test_sound_contents_pass_and_count_as_used_when_they_were(caches: Caches, server: FakeTransfers) -> None:
    cache = caches.open()
    for number in range(100):
        read_all(cache, server.add(f"file {number}", content_of(1000, number)))
    read_all(cache, server.add("log", FILE, digest=False))
    partial = cache.open(server.add("partial", content_of(100 * BLOCK)))
    partial.read(50 * BLOCK, 10)
    partial.close()
    quiet(cache)
    cache._flusher.flush()
    before = used(caches.folder)
    asked = len(server.asked)
    found = verified(cache)
    assert (found.status, found.checked_files, found.total_files) == ("completed", 100, 100)
    assert found.checked_bytes == found.total_bytes == 100 * 1000
    assert (found.corrupt_files, found.skipped_files, found.error) == (0, 1, None)
    assert found.started_at is not None
    assert found.completed_at is not None
    cache._flusher.flush()
    assert used(caches.folder) == before
    assert len(server.asked) == asked


def test_what_has_rotted_is_dropped_and_fetched_again_when_it_is_read(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    cache = caches.open()
    good, bad = server.add("good", FILE[::-1]), server.add("bad", FILE)
    for identity in (good, bad):
        read_all(cache, identity)
    quiet(cache)
    dropped: list[str] = []
    cache.on_dropped(dropped.append)
    rot(cache, bad.key)
    found = verified(cache)
    assert (found.checked_files, found.corrupt_files) == (2, 1)
    assert dropped == [bad.key]
    assert "bad do not have the sha256" in caplog.text
    assert cache.status().mismatches == 1
    quiet(cache)
    assert counted(cache) == (len(FILE), len(FILE))
    assert disk_bytes(caches.folder) < 5.5 * BLOCK
    assert read_all(cache, bad) == FILE
    assert verified(cache).corrupt_files == 0


@pytest.mark.parametrize("damage", ["cut", "hole"])
def test_a_file_that_is_not_whole_any_more_is_corrupt(
    cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    identity = server.add("a", FILE)
    reader = cache.open(identity)
    reader.read(0, len(FILE))
    (entry,) = cache._table.entries()
    if damage == "cut":
        scrubbed = cache._scrub._digest(entry.fd, len(FILE) + 1, 0)
        assert scrubbed is None, "a file that ends too early"
    cache._table._files.punch(entry.fd, 1, 2)
    assert verified(cache).corrupt_files == 1
    reader.close()


def test_a_reader_that_was_given_bytes_of_what_is_corrupt_gets_an_error_and_others_the_right_ones(
    cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    reader = cache.open(identity)
    reader.read(0, len(FILE))
    rot(cache, identity.key)
    assert verified(cache).corrupt_files == 1
    with pytest.raises(ContentMismatch, match="that were cached of a"):
        reader.read(0, 10)
    wait_until(lambda: cache.cached_bytes([identity.key])[identity.key] == (len(FILE), "verified"), "it to come again")
    other = cache.open(identity)
    assert other.read(0, len(FILE)) == FILE
    other.close()
    reader.close()


def test_what_is_evicted_while_it_is_checked_is_no_reason_to_complain(
    cache: ContentCache, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look finds another content; the second finds none, and so nothing is dropped."""
    identity = server.add("a", FILE)
    read_all(cache, identity)
    quiet(cache)
    digest = scrub.Scrub._digest

    def cleared_meanwhile(self: scrub.Scrub, fd: int, size: int, checked_bytes: int) -> bytes | None:
        cache.clear()
        digest(self, fd, size, checked_bytes)
        return None

    monkeypatch.setattr(scrub.Scrub, "_digest", cleared_meanwhile)
    found = verified(cache)
    assert (found.status, found.corrupt_files) == ("completed", 0)
    assert cache.status().mismatches == 0
    assert counted(cache) == (0, 0)


def test_what_is_fetched_anew_while_it_is_checked_is_looked_at_again(
    cache: ContentCache, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of what was read was of the old bytes, half of the new ones."""
    identity = server.add("a", FILE)
    read_all(cache, identity)
    quiet(cache)
    digest = scrub.Scrub._digest
    looks: list[int] = []

    def wrong_once(self: scrub.Scrub, fd: int, size: int, checked_bytes: int) -> bytes | None:
        looks.append(size)
        return None if len(looks) == 1 else digest(self, fd, size, checked_bytes)

    monkeypatch.setattr(scrub.Scrub, "_digest", wrong_once)
    found = verified(cache)
    assert (found.checked_files, found.corrupt_files, len(looks)) == (1, 0, 2)
    assert cache.cached_bytes([identity.key])[identity.key] == (len(FILE), "verified")


def test_a_second_check_joins_the_one_that_runs(
    cache: ContentCache, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_all(cache, server.add("a", FILE))
    quiet(cache)
    with cache._records.database.writing:  # the flush at its beginning waits
        first = cache.verify()
        assert cache.verify().started_at == first.started_at
    wait_until(lambda: cache.verification().status == "completed", "the check")
    assert cache.verification().started_at == first.started_at
    assert verified(cache).started_at != first.started_at


def test_a_cache_that_is_closed_ends_its_check(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = caches.open()
    read_all(cache, server.add("a", FILE))
    quiet(cache)
    monkeypatch.setattr(scrub, "PIECE", 1)  # a hundred thousand looks at the clock
    cache.verify()
    wait_until(lambda: cache.verification().checked_bytes, "the check to be in the middle of a file")
    cache.close()
    assert cache.verification().status == "failed"
    assert "ending" in str(cache.verification().error)


def test_a_program_that_is_killed_while_it_drops_what_is_corrupt_serves_nothing_of_it(
    caches: Caches,
    server: FakeTransfers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = caches.open()
    identity = server.add("a", FILE)
    read_all(cache, identity)
    quiet(cache)
    rot(cache, identity.key)
    release = cache._table.release
    monkeypatch.setattr(cache._table, "release", lambda entry: None)  # killed before it is retired
    verified(cache)
    copy_as_killed(cache, caches.folder, tmp_path / "killed")
    for entry in cache._table.entries():
        release(entry)
    with Caches(tmp_path / "killed", server) as killed:
        cache = killed.open()
        assert read_all(cache, identity) == FILE
        assert counted(cache) == (len(FILE), len(FILE))

"""The disk that the cache lies on is full, fails, or is changed by others."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.errors import NoSpace, Refused, RunicornFSError, Unreachable
from tests.disks import FailingDisk, cool, failing_disk, fill_up, free, small_disk
from tests.fake_transfers import Caches, FakeTransfers, Fault, content_of, counted, disk_bytes, read_all, wait_at_rest
from tests.waiting import wait_until

FILE = content_of(8 * BLOCK)


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


@pytest.fixture
def caches(tmp_path: Path, server: FakeTransfers) -> Iterator[Caches]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches


@pytest.fixture
def on_disk(disk: Path, server: FakeTransfers) -> Iterator[Caches]:
    """Caches on the small disk."""
    with Caches(disk / "cache", server) as caches:
        yield caches


def only_file(caches: Caches) -> Path:
    (file,) = (caches.folder / "blocks").iterdir()
    return file


# Full


@pytest.mark.promise("C3")
def test_what_is_cached_is_read_on_a_full_disk(
    on_disk: Caches, disk: Path, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    cache = on_disk.open()
    read_all(cache, identity)
    assert cache.status().files == 1  # so it is recorded
    fill_up(disk)
    reader = cache.open(identity)
    shared = reader.share()
    if shared is not None:  # it may, and need not, be recorded already
        os.close(shared)
    assert reader.read(0, len(FILE)) == FILE
    reader.close()
    assert cache.status().limit_bytes
    assert [file.path for file in cache.files("size", 10)] == ["a"]
    assert cache.pins() == []


@pytest.mark.promise("C3")
def test_a_full_disk_makes_room_with_what_was_used_for_the_longest(
    on_disk: Caches, disk: Path, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = server.add("old", FILE), server.add("new", FILE[::-1])
    cache = on_disk.open()
    read_all(cache, old)
    wait_at_rest(cache)
    fill_up(disk)
    assert read_all(cache, new) == FILE[::-1]
    assert cache.cached_bytes([old.key])[old.key] == (0, "remote")
    assert counted(cache)[0] == counted(cache)[1]


@pytest.mark.promise("C3")
def test_a_full_disk_with_nothing_to_evict_is_said_and_reads_go_on_when_there_is_room(
    on_disk: Caches, disk: Path, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    cache = on_disk.open()
    reader = cache.open(server.add("a", FILE))
    fill_up(disk)
    with pytest.raises(NoSpace):
        reader.read(0, 10)
    with pytest.raises(NoSpace):
        cache.pin("model/net:v1", {"key": 10})
    free(disk)
    assert reader.read(0, len(FILE)) == FILE
    cache.pin("model/net:v1", {"key": 10})
    reader.close()
    assert counted(cache)[0] == counted(cache)[1]


def test_a_disk_that_is_full_in_the_middle_of_a_file_marks_nothing_that_was_not_written(
    on_disk: Caches, disk: Path, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    content = content_of(24 * BLOCK)
    identity = server.add("a", content)
    cache = on_disk.open()
    reader = cache.open(identity)
    assert reader.read(0, 4 * BLOCK) == content[: 4 * BLOCK]
    fill_up(disk)
    with pytest.raises(NoSpace):
        reader.read(0, len(content))
    assert reader.read(0, 4 * BLOCK) == content[: 4 * BLOCK]
    held, state = cache.cached_bytes([identity.key])[identity.key]
    assert state == "partial"
    assert held <= disk_bytes(on_disk.folder)
    free(disk)
    assert reader.read(0, len(content)) == content
    reader.close()
    assert counted(cache) == (len(content), len(content))


def test_a_start_on_a_full_disk_loses_nothing(
    on_disk: Caches, disk: Path, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    cache = on_disk.open()
    read_all(cache, identity)
    cache.pin("model/net:v1", {identity.key: len(FILE)})
    cache.close()
    fill_up(disk)
    with pytest.raises(RunicornFSError, match="records.db"):
        on_disk.open()
    free(disk)
    cache = on_disk.open()
    asked = server.bytes_asked
    assert read_all(cache, identity) == FILE
    assert server.bytes_asked == asked
    assert [pin.label for pin in cache.pins()] == ["model/net:v1"]


@pytest.mark.promise("C3")
def test_a_disk_without_inodes_is_as_full(
    tmp_path: Path, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    """Of ten inodes a cache takes seven, and one for each content."""
    with small_disk(tmp_path / "disk", "8m", "nr_inodes=10") as disk, Caches(disk / "cache", server) as caches:
        cache = caches.open()
        identities = [server.add(f"f{number}", content_of(BLOCK, number)) for number in range(8)]
        for number, identity in enumerate(identities):
            assert read_all(cache, identity) == content_of(BLOCK, number)
            wait_at_rest(cache)
        readers = [cache.open(identity) for identity in identities]
        with pytest.raises(NoSpace):
            _ = [reader.read(0, BLOCK) for reader in readers]
        for reader in readers:
            reader.close()
        assert read_all(cache, identities[0]) == content_of(BLOCK, 0)


def test_a_file_that_is_too_large_for_the_disk_says_so_each_time_and_comes_when_it_may(
    caches: Caches, server: FakeTransfers
) -> None:
    cache = caches.open()
    reader = cache.open(server.add("a", FILE))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * BLOCK, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="File too large"):
                reader.read(0, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert reader.read(0, 10) == FILE[:10]
    reader.close()


# Read-only


def test_on_a_disk_that_has_become_read_only_what_is_cached_is_read_and_the_rest_says_why(
    tmp_path: Path, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    """As a file system does by itself that has met an error."""
    first, second = server.add("a", FILE), server.add("b", FILE[::-1])
    with failing_disk(tmp_path / "disk", "32m", 32 << 20) as disk, Caches(disk.folder / "cache", server) as caches:
        cache = caches.open()
        read_all(cache, first)
        assert cache.status().verified_files == 1
        disk.become_read_only()
        for _ in range(2):
            assert read_all(cache, first) == FILE
            with pytest.raises(RunicornFSError, match="records.db cannot be used"):
                read_all(cache, second)
        assert cache.status().size_bytes == len(FILE)
        assert [file.path for file in cache.files("size", 10)] == ["a"]
        assert cache.cleanup().files == 0
        with pytest.raises(RunicornFSError, match="records.db cannot be used"):
            cache.pin("model/net:v1", {"key": 10})


# It fails


@pytest.fixture
def failing(tmp_path: Path, caches: Caches) -> Iterator[FailingDisk]:
    """Contents lie on this disk, their records on a sound one."""
    with failing_disk(tmp_path / "failing", "12m", 64 << 20) as disk:
        caches.folder.mkdir()
        (caches.folder / "blocks").symlink_to(disk.folder)
        yield disk


@pytest.mark.promise("C5")
def test_what_the_disk_lost_after_it_was_written_is_not_kept(
    caches: Caches, failing: FailingDisk, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    """A write succeeds in memory; what becomes of it on the device only fsync tells, once. Then there are zeros."""
    content = content_of(64 * BLOCK)
    identity = server.add("a", content)
    cache = caches.open()
    failing.take_no_more()
    assert read_all(cache, identity) == content
    wait_until(lambda: "did not take" in caplog.text, "the loss to be noticed")
    wait_at_rest(cache)
    assert cache.cached_bytes([identity.key])[identity.key] == (0, "remote")
    assert counted(cache) == (0, 0)
    cache.close()
    cache = caches.open()
    assert read_all(cache, identity) == content


@pytest.mark.promise("C5")
def test_an_open_file_that_the_disk_lost_is_fetched_again_under_its_reader(
    caches: Caches, failing: FailingDisk, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    content = content_of(64 * BLOCK)
    cache = caches.open()
    reader = cache.open(server.add("a", content))
    failing.take_no_more()
    assert reader.read(0, len(content)) == content
    wait_until(lambda: "did not take" in caplog.text, "the loss to be noticed")
    assert reader.read(0, len(content)) == content
    reader.close()


@pytest.mark.promise("C5")
@pytest.mark.parametrize("part", [1, 64])
def test_what_the_disk_cannot_read_is_fetched_again(
    caches: Caches, failing: FailingDisk, server: FakeTransfers, caplog: pytest.LogCaptureFixture, part: int
) -> None:
    content = content_of(64 * BLOCK)
    identity = server.add("a", content)
    cache = caches.open()
    reader = cache.open(identity)
    assert reader.read(0, part * BLOCK) == content[: part * BLOCK]
    reader.close()
    wait_at_rest(cache)
    failing.lose(only_file(caches))
    assert read_all(cache, identity) == content
    assert "cannot read" in caplog.text
    wait_at_rest(cache)
    cool(only_file(caches))
    assert read_all(cache, identity) == content


@pytest.mark.promise("C5")
def test_a_file_that_cannot_be_read_to_be_checked_is_fetched_again(
    caches: Caches, failing: FailingDisk, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    """Its blocks came in another order than the hash takes them, and half of it before the program was started."""
    content = content_of(64 * BLOCK)
    identity = server.add("a", content)
    cache = caches.open()
    reader = cache.open(identity)
    reader.read(32 * BLOCK, 32 * BLOCK)
    reader.close()
    cache.close()
    failing.lose(only_file(caches))
    cache = caches.open()
    reader = cache.open(identity)
    assert reader.read(0, 32 * BLOCK) == content[: 32 * BLOCK]
    assert reader.read(0, len(content)) == content
    assert reader.state == "verified"
    reader.close()


# Changed by others


@pytest.mark.promise("C5")
def test_the_folder_of_the_blocks_is_made_again_where_somebody_deleted_it(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    cache = caches.open()
    first, second = server.add("a", FILE), server.add("b", FILE[::-1])
    reader = cache.open(first)
    assert reader.read(0, 10) == FILE[:10]
    shutil.rmtree(caches.folder)
    assert reader.read(0, len(FILE)) == FILE
    reader.close()
    assert read_all(cache, second) == FILE[::-1]
    assert read_all(cache, first) == FILE
    assert read_all(cache, second) == FILE[::-1]


@pytest.mark.promise("C5")
@pytest.mark.parametrize("how", ["hole", "zeros", "regrown", "other bytes"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_somebody_else_has_changed_is_not_served(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture, how: str, whole: bool
) -> None:
    content = content_of(24 * BLOCK)
    identity = server.add("a", content)
    cache = caches.open()
    reader = cache.open(identity)
    reader.read(0, len(content) if whole else 10)
    reader.close()
    cache.close()
    file = only_file(caches)
    if how == "hole":
        subprocess.run(["fallocate", "--punch-hole", "--offset", "0", "--length", str(BLOCK), file], check=True)
    elif how == "regrown":
        os.truncate(file, 5)
        os.truncate(file, len(content))
    else:
        with file.open("r+b") as opened:
            opened.write(bytes(10) if how == "zeros" else b"0123456789")
    cache = caches.open()
    assert read_all(cache, identity) == content
    wait_at_rest(cache)
    assert cache.cached_bytes([identity.key])[identity.key] == (len(content), "verified")
    assert counted(cache) == (len(content), len(content))


@pytest.mark.promise("C5")
def test_a_file_that_is_cut_off_while_it_is_open_is_whole_for_who_opens_it_next(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    dropped: list[str] = []
    cache.on_dropped(dropped.append)
    reader = cache.open(identity)
    reader.read(0, len(FILE))
    os.truncate(only_file(caches), 5)
    assert read_all(cache, identity) == FILE
    assert dropped == [identity.key]
    reader.close()


def test_a_file_that_was_only_touched_is_checked_and_not_fetched_again(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    cache.close()
    os.utime(only_file(caches))
    server.faults = [Fault(Unreachable("away"))] * 10
    cache = caches.open()
    assert read_all(cache, identity) == FILE
    cache.close()
    caplog.clear()
    cache = caches.open()
    assert read_all(cache, identity) == FILE
    assert not caplog.records


@pytest.mark.promise("C5")
@pytest.mark.parametrize("thing", ["folder", "link", "fifo", "socket"])
def test_something_else_in_the_place_of_a_file_is_left_alone_and_the_file_fetched_again(
    caches: Caches, server: FakeTransfers, tmp_path: Path, caplog: pytest.LogCaptureFixture, thing: str
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    cache.close()
    file = only_file(caches)
    file.unlink()
    if thing == "folder":
        file.mkdir()
        (file / "mine").write_bytes(b"mine")
    elif thing == "link":
        file.symlink_to(tmp_path / "nowhere")
    elif thing == "fifo":
        os.mkfifo(file)
    else:
        os.mknod(file, stat.S_IFSOCK)
    cache = caches.open()
    assert read_all(cache, identity) == FILE
    assert thing != "folder" or (file / "mine").read_bytes() == b"mine"
    assert counted(cache) == (len(FILE), len(FILE))


# The records are damaged


def damage(database: Path) -> None:
    """Overwrites a third of it, in the middle."""
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(size // 3)
        file.write(b"\xff" * (size // 3))


@pytest.mark.promise("C5")
def test_what_can_be_read_of_damaged_records_is_kept_and_checked_before_it_is_served(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    contents = {f"f{number:03}": content_of(100 + number, number) for number in range(200)}
    identities = {name: server.add(name, content) for name, content in contents.items()}
    cache = caches.open()
    for identity in identities.values():
        read_all(cache, identity)
    cache.pin("model/net:v1", {identities["f007"].key: 107})
    cache.close()
    database = caches.folder / "records.db"
    damage(database)
    with contextlib.closing(sqlite3.connect(database)) as connection, pytest.raises(sqlite3.DatabaseError):
        connection.execute("SELECT * FROM contents").fetchall()
    cache = caches.open()
    kept = cache.status().files
    assert 0 < kept < 200
    assert counted(cache)[0] == counted(cache)[1]
    assert len(list((caches.folder / "blocks").iterdir())) == kept
    assert [pin.label for pin in cache.pins()] == ["model/net:v1"]
    asked = server.bytes_asked
    for name, identity in identities.items():
        assert read_all(cache, identity) == contents[name]
    assert 0 < server.bytes_asked - asked < sum(map(len, contents.values())) / 200 * (200 - kept + 10)


@pytest.mark.promise("C11")
def test_records_of_a_newer_program_are_left_alone(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    cache.close()
    with contextlib.closing(sqlite3.connect(caches.folder / "records.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Refused, match="newer runicornfs .format 99.*--cache-dir"):
        caches.open()
    assert only_file(caches).read_bytes() == FILE


def test_a_cache_from_before_changes_were_noticed_keeps_what_it_holds(caches: Caches, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    cache.close()
    with contextlib.closing(sqlite3.connect(caches.folder / "records.db")) as connection:
        connection.execute("ALTER TABLE contents DROP COLUMN modified_ns")
    cache = caches.open()
    asked = server.bytes_asked
    assert read_all(cache, identity) == FILE
    assert server.bytes_asked == asked

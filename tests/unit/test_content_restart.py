"""What is left when the program was closed or killed, or the machine lost power."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runicornfs.content import records
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.sparse import SparseFiles
from tests.cacheverifier import verify_contents
from tests.fake_transfers import (
    Caches,
    FakeTransfers,
    content_of,
    copy_as_killed,
    counted,
    disk_bytes,
    read_all,
    wait_at_rest,
)
from tests.waiting import wait_until

FILE = content_of(20 * BLOCK + 100)


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def caches(tmp_path: Path, server: FakeTransfers) -> Iterator[Caches]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches


def kill(cache: ContentCache, caches: Caches, tmp_path: Path) -> Caches:
    """The folder as the killed program leaves it, for another one."""
    copy = tmp_path / "killed"
    copy_as_killed(cache, caches.folder, copy)
    return Caches(copy, caches.transfers)


def other_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "boot_id", lambda: "another boot")


def rows(folder: Path) -> list[tuple[str, str, str | None]]:
    with sqlite3.connect(folder / "records.db") as connection:
        found = connection.execute("SELECT key, file, boot FROM contents").fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("another_boot", [False, True])
def test_what_is_cached_outlives_a_clean_end(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch, another_boot: bool
) -> None:
    whole, partial = server.add("whole", FILE), server.add("partial", FILE[::-1])
    cache = caches.open()
    read_all(cache, whole)
    reader = cache.open(partial)
    reader.read(7 * BLOCK, 10)
    cache.close()
    asked = len(server.asked)
    if another_boot:
        other_boot(monkeypatch)
    cache = caches.open()
    assert cache.cached_bytes([whole.key, partial.key]) == {
        whole.key: (len(FILE), "verified"),
        partial.key: (BLOCK, "partial"),
    }
    assert read_all(cache, whole) == FILE
    reader = cache.open(partial)
    assert reader.read(7 * BLOCK, 10) == FILE[::-1][7 * BLOCK : 7 * BLOCK + 10]
    assert len(server.asked) == asked
    assert reader.read(0, len(FILE)) == FILE[::-1]
    assert reader.state == "verified"
    assert server.times_asked("partial", 7) == 1
    reader.close()
    assert counted(cache) == (2 * len(FILE), 2 * len(FILE))


def test_a_killed_program_loses_only_the_record_of_its_last_moments(
    caches: Caches, server: FakeTransfers, tmp_path: Path
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    reader = cache.open(identity)
    reader.read(3 * BLOCK, 2 * BLOCK)
    cache._flusher.flush()
    with kill(cache, caches, tmp_path) as killed:
        cache = killed.open()
        assert cache.cached_bytes([identity.key])[identity.key] == (2 * BLOCK, "partial")
        again = cache.open(identity)
        assert again.read(3 * BLOCK, 2 * BLOCK) == FILE[3 * BLOCK : 5 * BLOCK]
        again.close()
        assert server.times_asked("a", 3) == 1
        assert read_all(cache, identity) == FILE
    reader.close()


def test_blocks_that_were_written_but_not_recorded_give_their_space_back(
    caches: Caches, server: FakeTransfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    reader = cache.open(identity)
    reader.read(3 * BLOCK, BLOCK)
    cache._flusher.flush()
    monkeypatch.setattr(cache._flusher, "mark", lambda entry: None)
    reader.read(10 * BLOCK, 8 * BLOCK)
    with kill(cache, caches, tmp_path) as killed:
        assert disk_bytes(killed.folder) >= 9 * BLOCK
        cache = killed.open()
        assert disk_bytes(killed.folder) == BLOCK
        assert counted(cache) == (BLOCK, BLOCK)
        assert read_all(cache, identity) == FILE
    reader.close()


def test_what_a_power_cut_can_have_torn_is_dropped(
    caches: Caches, server: FakeTransfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    reader = cache.open(identity)
    reader.read(3 * BLOCK, BLOCK)
    cache._flusher.flush()
    with kill(cache, caches, tmp_path) as killed:
        other_boot(monkeypatch)
        cache = killed.open()
        assert cache.cached_bytes([identity.key])[identity.key] == (0, "remote")
        assert disk_bytes(killed.folder) == 0
        assert counted(cache) == (0, 0)
        assert read_all(cache, identity) == FILE
    reader.close()


def test_what_was_fsynced_survives_a_power_cut(
    caches: Caches, server: FakeTransfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    wait_until(lambda: [boot for _, _, boot in rows(caches.folder)] == [None], "the fsync")
    with kill(cache, caches, tmp_path) as killed:
        other_boot(monkeypatch)
        cache = killed.open()
        assert cache.cached_bytes([identity.key])[identity.key] == (len(FILE), "verified")


def test_a_content_that_is_written_to_again_is_not_settled_any_more(
    caches: Caches, server: FakeTransfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old record must not speak for a file that blocks have been punched out of since."""
    identity = server.add("a", content_of(40 * BLOCK))
    cache = caches.open()
    reader = cache.open(identity)
    reader.read(0, 2 * BLOCK)
    cache.close()
    cache = caches.open(limit=6 * BLOCK)
    reader = cache.open(identity)
    for block in range(2, 20):
        reader.read(block * BLOCK, BLOCK)
    ((_, _, boot),) = rows(caches.folder)
    assert boot is not None
    with kill(cache, caches, tmp_path) as killed:
        cache = killed.open()
        assert read_all(cache, identity) == content_of(40 * BLOCK)
    reader.close()


def test_a_content_that_is_opened_and_written_to_before_it_was_settled_is_not_settled(
    caches: Caches, server: FakeTransfers, tmp_path: Path
) -> None:
    """Else nobody would give back the space of blocks that came and were not recorded when a program is killed."""
    identity = server.add("a", content_of(40 * BLOCK))
    cache = caches.open()
    flusher = cache._flusher
    flusher.stop()  # what it would do is done here, at the worst moment
    with closing(cache.open(identity)) as reader:
        reader.read(10 * BLOCK, BLOCK)
    wait_at_rest(cache)
    with closing(cache.open(identity)) as reader:
        reader.read(20 * BLOCK, BLOCK)
        flusher.flush()
        flusher._settle()
        reader.read(30 * BLOCK, 8 * BLOCK)
        with kill(cache, caches, tmp_path) as killed:
            killed.open().close()
            assert verify_contents(killed.folder, {identity.key: content_of(40 * BLOCK)}).unrecorded_bytes == 0


def test_a_record_whose_file_is_gone_is_forgotten(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    cache.close()
    shutil.rmtree(caches.folder / "blocks")
    cache = caches.open()
    with caplog.at_level(logging.INFO, "runicornfs.content"):
        assert read_all(cache, identity) == FILE
    assert counted(cache) == (len(FILE), len(FILE))
    (said,) = [record for record in caplog.records if "fetched again" in record.getMessage()]
    assert said.levelno == logging.INFO, "a process that is killed while it evicts leaves the same"


@pytest.mark.parametrize("damage", ["size", "link", "map", "sum"])
def test_a_content_that_is_not_as_it_was_recorded_is_fetched_again(
    caches: Caches, server: FakeTransfers, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    cache.close()
    (file,) = (caches.folder / "blocks").iterdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"x" * len(FILE))
    if damage == "size":
        os.truncate(file, 10)
    elif damage == "link":
        file.unlink()
        file.symlink_to(victim)
    else:
        column = "blocks = x'00'" if damage == "map" else "cached_bytes = 5"
        with sqlite3.connect(caches.folder / "records.db") as connection:
            connection.execute(f"UPDATE contents SET {column}")
        connection.close()
    cache = caches.open()
    assert read_all(cache, identity) == FILE
    assert counted(cache)[0] == counted(cache)[1]
    assert victim.read_bytes() == b"x" * len(FILE)


def test_records_of_another_format_empty_the_folder_and_nothing_else(
    caches: Caches, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    cache.close()
    mine = caches.folder / "blocks" / "a file of mine"
    mine.write_bytes(b"mine")
    (caches.folder / "records.db").write_bytes(b"no database")
    cache = caches.open()
    assert [file.name for file in (caches.folder / "blocks").iterdir()] == ["a file of mine"]
    assert counted(cache) == (0, 0)
    assert read_all(cache, identity) == FILE


def test_a_file_name_in_the_records_cannot_lead_elsewhere(
    caches: Caches, server: FakeTransfers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    cache.close()
    victim = tmp_path / "victim"
    victim.write_bytes(FILE)
    with sqlite3.connect(caches.folder / "records.db") as connection:
        connection.execute("UPDATE contents SET file = ?", ("../../victim",))
    connection.close()
    cache = caches.open()
    assert read_all(cache, identity) == FILE
    assert victim.read_bytes() == FILE


def test_a_start_does_not_look_at_settled_contents(
    caches: Caches, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = caches.open()
    for number in range(20):
        read_all(cache, server.add(f"file {number}", content_of(100, number)))
    cache.close()
    opened: list[str] = []
    monkeypatch.setattr(SparseFiles, "open", lambda files, name, size: opened.append(name))
    monkeypatch.setattr(SparseFiles, "remove_others", lambda files, names: opened.append("all"))
    cache = ContentCache(caches.folder, server, 1 << 40, 0)
    assert cache.status().verified_files == 20
    cache.close()
    assert opened == []


def test_a_content_that_is_read_again_while_its_file_is_deleted_leaves_no_second_file(
    caches: Caches, server: FakeTransfers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record named the new file before the old one was gone, and nothing named that any more."""
    identity = server.add("a", FILE)
    cache = caches.open()
    read_all(cache, identity)
    wait_at_rest(cache)
    remove, killed = SparseFiles.remove, []

    def read_and_kill_before(files: SparseFiles, name: str) -> None:
        monkeypatch.setattr(SparseFiles, "remove", remove)
        assert read_all(cache, identity) == FILE
        killed.append(kill(cache, caches, tmp_path))
        remove(files, name)

    monkeypatch.setattr(SparseFiles, "remove", read_and_kill_before)
    cache.clear()
    (after,) = killed
    verify_contents(after.folder, {identity.key: FILE})
    assert read_all(cache, identity) == FILE

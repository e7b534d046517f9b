"""Tasks: what is brought where, in which order, and what becomes of those that are stopped."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.catalog.artifacts import ArtifactRef
from runicornfs.content.blocks import BLOCK
from runicornfs.content.contents import SMALL
from runicornfs.content.identity import Identity
from runicornfs.downloads import copying
from runicornfs.downloads.records import CANCELLED, COMPLETED, FAILED, QUEUED, RUNNING, Download
from runicornfs.downloads.runner import LARGE_FILES, SMALL_FILES
from runicornfs.downloads.tasks import DownloadTasks
from runicornfs.errors import Conflict, InvalidInput, NoSpace, NotFound, Unreachable
from tests.fake_transfers import Fault, content_of, read_all, wait_at_rest
from tests.unit.downloading import NET, World, files_in, files_of
from tests.waiting import wait_until

MIB = 1 << 20


def identity_of(world: World, ref: ArtifactRef, path: str) -> Identity:
    return next(file.identity for file in files_of(world, ref) if file.path == path)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def test_files_are_placed_as_the_manifest_names_them(world: World) -> None:
    files = {"a.bin": content_of(3 * MIB), "d/e/b.bin": content_of(10, 1), "empty": b""}
    ref = world.add(files)
    world.open()
    done = world.download(ref)
    assert (done.status, done.error, done.progress_percent) == (COMPLETED, None, 100.0)
    assert done.order.target_dir == str(world.own / "downloads" / "net" / "v1")
    assert files_in(done.order.target_dir) == files
    assert done.counts.downloaded_files == done.counts.total_files == 3
    assert done.counts.downloaded_bytes == done.counts.total_bytes == 3 * MIB + 10
    assert done.counts.from_cache_bytes == 0


def test_files_have_the_times_of_the_manifest(world: World) -> None:
    ref = world.add({"a.bin": b"a"})
    world.open()
    folder = world.download(ref).order.target_dir
    there = world.store.version_folder("model", "net", 1) / "files/a.bin"
    assert abs(os.stat(f"{folder}/a.bin").st_mtime - there.stat().st_mtime) < 0.001


def test_a_store_of_this_machine_is_copied_from_where_it_lies(world: World) -> None:
    files = {"a.bin": content_of(3 * MIB), "b.bin": b"b"}
    ref = world.add(files)
    world.open_local()
    done = world.download(ref)
    assert (done.status, files_in(str(done.order.target_dir))) == (COMPLETED, files)
    assert done.counts.from_cache_bytes == 3 * MIB + 1


def test_what_the_cache_has_is_not_transferred(world: World) -> None:
    ref = world.add({"a.bin": content_of(3 * MIB), "b.bin": content_of(MIB, 1)})
    world.open()
    identity = identity_of(world, ref, "a.bin")
    assert read_all(world.cache, identity)
    before = world.transfers.bytes_asked
    done = world.download(ref)
    assert done.counts.from_cache_bytes == 3 * MIB
    assert world.transfers.bytes_asked - before == MIB


def test_files_that_are_there_are_not_touched_again(world: World) -> None:
    ref = world.add({"a.bin": content_of(MIB), "d/b.bin": content_of(100, 1)})
    world.open()
    target = world.folder / "mine"
    first = world.download(ref, target_dir=str(target))
    inode = (target / "a.bin").stat().st_ino
    before = world.transfers.bytes_asked
    second = world.download(ref, target_dir=str(target))
    assert (first.status, second.status) == (COMPLETED, COMPLETED)
    assert (target / "a.bin").stat().st_ino == inode
    assert world.transfers.bytes_asked == before
    assert second.counts.from_cache_bytes == MIB + 100


def test_a_file_with_another_content_is_not_overwritten(world: World) -> None:
    ref = world.add({"a.bin": b"aaaa", "b.bin": b"bbbb"})
    world.open()
    target = world.folder / "mine"
    target.mkdir()
    for other in (b"mine", b"another size"):
        (target / "b.bin").write_bytes(other)
        with pytest.raises(Conflict, match=r"b\.bin is in .* already"):
            world.tasks.download(ref, 1, str(target))
        assert files_in(target) == {"b.bin": other}
    assert world.tasks.all() == []


def test_it_is_overwritten_where_that_is_asked_for(world: World) -> None:
    ref = world.add({"a.bin": b"aaaa", "b.bin": b"bbbb"})
    world.open()
    target = world.folder / "mine"
    target.mkdir()
    (target / "b.bin").write_bytes(b"mine")
    assert world.download(ref, target_dir=str(target), overwrite=True).status == COMPLETED
    assert files_in(target) == {"a.bin": b"aaaa", "b.bin": b"bbbb"}


def test_large_files_that_are_there_are_compared_by_the_task_before_it_writes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runicornfs.downloads.tasks.COMPARED_AT_ONCE", 0)
    ref = world.add({"a.bin": b"aaaa", "b.bin": b"bbbb"})
    world.open()
    target = world.folder / "mine"
    target.mkdir()
    (target / "b.bin").write_bytes(b"mine")
    done = world.download(ref, target_dir=str(target))
    assert done.status == FAILED
    assert "b.bin" in str(done.error)
    assert files_in(target) == {"b.bin": b"mine"}


def test_a_file_that_appears_meanwhile_is_not_overwritten(world: World) -> None:
    ref = world.add({"a.bin": content_of(2 * MIB)})
    world.open()
    world.transfers.hold(1)
    started, _ = world.tasks.download(ref, 1)
    target = Path(str(started.order.target_dir))
    wait_until(lambda: any(target.glob(".*.part")), "the file to be begun")
    (target / "a.bin").write_bytes(b"mine")
    world.transfers.release()
    done = world.ended(started)
    assert "appeared" in str(done.error)
    assert files_in(target) == {"a.bin": b"mine"}


def test_the_same_to_the_same_place_is_refused_while_it_is_under_way(world: World) -> None:
    ref = world.add({"a.bin": content_of(MIB)})
    world.open()
    world.transfers.hold()
    started, _ = world.tasks.download(ref, 1)
    with pytest.raises(Conflict, match=started.order.task_id):
        world.tasks.download(ref, 1)
    other, _ = world.tasks.download(ref, 1, str(world.folder / "elsewhere"))
    world.transfers.release()
    assert world.ended(started).status == world.ended(other).status == COMPLETED
    assert world.download(ref).status == COMPLETED, "a completed one stands in nobody's way"


def test_two_types_with_one_name_have_folders_of_their_own(world: World) -> None:
    model = world.add({"a": b"model"})
    data = world.add({"a": b"data"}, type="dataset")
    world.open()
    first, second = world.download(model), world.download(data)
    assert first.order.target_dir == str(world.own / "downloads/net/v1")
    assert second.order.target_dir == str(world.own / "downloads/dataset/net/v1")
    world.end()
    world.open()
    assert world.download(data).order.target_dir == second.order.target_dir
    assert world.download(model).order.target_dir == first.order.target_dir


def test_a_relative_folder_is_refused(world: World) -> None:
    ref = world.add({"a": b"a"})
    world.open()
    with pytest.raises(InvalidInput):
        world.tasks.download(ref, 1, "here")


def test_bytes_that_do_not_match_are_never_placed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    ref = world.add({"good.bin": b"good", "d/bad.bin": content_of(2 * MIB)})
    world.open()
    world.transfers.corrupt[f"{NET}/d/bad.bin"] = 10
    done = world.download(ref)
    assert (done.status, done.error) == (FAILED, "Download failed: checksum mismatch: d/bad.bin")
    assert not list(Path(str(done.order.target_dir)).rglob("bad.bin"))
    assert not list(Path(str(done.order.target_dir)).rglob("*.part"))


def test_bytes_that_are_right_the_second_time_are_taken(world: World, caplog: pytest.LogCaptureFixture) -> None:
    content = content_of(2 * MIB)
    ref = world.add({"a.bin": content})
    world.open()
    world.transfers.corrupt[f"{NET}/a.bin"] = 1
    done = world.download(ref)
    assert (done.status, files_in(str(done.order.target_dir))) == (COMPLETED, {"a.bin": content})
    assert done.counts.downloaded_bytes == 2 * MIB


def test_a_store_of_this_machine_is_checked_too(world: World) -> None:
    ref = world.add({"a.bin": b"aaaa"})
    (world.store.version_folder("model", "net", 1) / "files/a.bin").write_bytes(b"evil")
    world.open_local()
    assert world.download(ref).error == "Download failed: checksum mismatch: a.bin"


def test_a_server_that_is_away_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "FIRST_PAUSE_S", 0.01)
    content = content_of(2 * MIB)
    ref = world.add({"a.bin": content})
    world.open()
    world.transfers.faults = [Fault(Unreachable("the server is away"), MIB) for _ in range(8)]
    done = world.download(ref)
    assert (done.status, files_in(str(done.order.target_dir))) == (COMPLETED, {"a.bin": content})


def test_a_server_that_stays_away_ends_it_with_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PATIENCE_S", 0.0)
    monkeypatch.setattr(copying, "FIRST_PAUSE_S", 0.01)
    ref = world.add({"a.bin": content_of(MIB)})
    world.open()
    world.transfers.faults = [Fault(Unreachable("the server is away")) for _ in range(50)]
    done = world.download(ref)
    assert (done.status, done.error) == (FAILED, "Download failed: the server is away")


def test_cancel_stops_inside_a_file_and_keeps_what_came(world: World) -> None:
    content = content_of(8 * MIB)
    ref = world.add({"a.bin": content, "small.bin": b"small"})
    world.open()
    assert read_all(world.cache, identity_of(world, ref, "small.bin"))
    world.transfers.hold(6)
    started, _ = world.tasks.download(ref, 1)
    target = Path(str(started.order.target_dir))
    wait_until(lambda: world.tasks.get(started.order.task_id).counts.downloaded_bytes > MIB, "some of it")
    wait_until((target / "small.bin").exists, "the small file")
    cancelled = world.tasks.cancel(started.order.task_id)
    assert cancelled.status == CANCELLED
    assert files_in(target) == {"small.bin": b"small"}
    with pytest.raises(NotFound, match="has ended already"):
        world.tasks.cancel(started.order.task_id)
    world.transfers.release()
    wait_until(lambda: not world.transfers.running, "the transfers to end")
    done = world.download(ref)
    assert (done.status, files_in(target)) == (COMPLETED, {"a.bin": content, "small.bin": b"small"})
    assert done.counts.from_cache_bytes > MIB
    assert max(world.transfers.times_asked(f"{NET}/a.bin", block) for block in range(8 * MIB // BLOCK)) == 1


def test_an_unknown_task_is_said(world: World) -> None:
    world.open()
    for ask in (world.tasks.get, world.tasks.cancel):
        with pytest.raises(NotFound):
            ask("nothing")


def test_tasks_wait_for_their_turn_in_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicornfs.downloads.tasks.CANCEL_S", 1000)  # nothing is waited for where nothing runs
    refs = [world.add({"a.bin": content_of(100, n)}, name=f"net{n}") for n in range(6)]
    world.open()
    world.transfers.hold()
    started = [world.tasks.download(ref, 1)[0] for ref in refs]

    def statuses() -> list[str]:
        return [download.status for download in world.tasks.all()]

    wait_until(lambda: statuses().count(RUNNING) == 3, "three to run")
    assert statuses() == [RUNNING] * 3 + [QUEUED] * 3
    assert world.tasks.cancel(started[3].order.task_id).status == CANCELLED
    world.transfers.release()
    assert [world.ended(download).status for download in started] == [COMPLETED] * 3 + [CANCELLED] + [COMPLETED] * 2


def test_a_few_large_files_at_a_time_over_all_tasks(world: World) -> None:
    files = [{f"{f}.bin": content_of(SMALL + 1, 10 * n + f) for f in range(4)} for n in range(3)]
    refs = [world.add(files[n], name=f"net{n}") for n in range(3)]
    world.open()
    world.transfers.hold()
    for ref in refs:
        world.tasks.download(ref, 1)
    wait_until(lambda: world.transfers.running == 3, "three files")
    assert len(list((world.own / "downloads").rglob("*.part"))) == 3
    world.transfers.release()


def test_many_small_files_at_a_time_over_all_tasks(world: World) -> None:
    files = [{f"{f}.bin": content_of(100, 20 * n + f) for f in range(20)} for n in range(3)]
    refs = [world.add(files[n], name=f"net{n}") for n in range(3)]
    world.open()
    world.transfers.hold()
    started = [world.tasks.download(ref, 1)[0] for ref in refs]

    def under_way() -> int:
        return len(list((world.own / "downloads").rglob("*.part")))

    wait_until(lambda: under_way() == SMALL_FILES, "as many as may be")
    world.transfers.release()
    assert [world.ended(download).status for download in started] == [COMPLETED] * 3
    assert [files_in(str(download.order.target_dir)) for download in started] == files


def test_small_files_do_not_wait_for_large_ones(world: World) -> None:
    large = {f"{number}.bin": content_of(SMALL + 1, number) for number in range(5)}
    ref = world.add(large | {"z.json": b"small"})
    world.open()
    world.transfers.hold()
    started, _ = world.tasks.download(ref, 1)
    wait_until(lambda: len(list((world.own / "downloads").rglob("*.part"))) == LARGE_FILES + 1, "both kinds")
    world.transfers.release()
    assert world.ended(started).status == COMPLETED


def test_many_small_files_go_through_a_small_cache(world: World) -> None:
    files = {f"{number}.json": content_of(SMALL, number) for number in range(12)}
    ref = world.add(files)
    world.open(limit=MIB)
    done = world.download(ref)
    assert (done.status, done.error) == (COMPLETED, None)
    assert files_in(str(done.order.target_dir)) == files


def test_cancel_stops_many_small_files_and_keeps_what_came(world: World) -> None:
    files = {f"{number}.json": content_of(1000, number) for number in range(100)}
    ref = world.add(files)
    world.open()
    world.transfers.hold(after=40)
    started, _ = world.tasks.download(ref, 1)
    wait_until(lambda: world.tasks.get(started.order.task_id).counts.downloaded_files >= 10, "some files to be there")
    world.tasks.cancel(started.order.task_id)
    world.transfers.release()
    assert world.ended(started).status == CANCELLED
    wait_until(lambda: world.transfers.running == 0, "the transfers to end")
    asked = world.transfers.bytes_asked
    placed = files_in(str(started.order.target_dir))
    assert 10 <= len(placed) < 100
    assert placed.items() <= files.items()
    again = world.download(ref)
    assert again.status == COMPLETED
    assert files_in(str(again.order.target_dir)) == files
    assert world.transfers.bytes_asked < asked + 100_000 - 1000 * len(placed) + 1


def test_small_files_share_round_trips(world: World) -> None:
    files = {f"{number}.json": content_of(1000, number) for number in range(200)}
    ref = world.add(files)
    world.open()
    started = world.download(ref)
    assert files_in(str(started.order.target_dir)) == files
    assert world.transfers.fills <= 100, world.transfers.together


def test_a_task_that_was_stopped_goes_on_in_the_next_process(world: World) -> None:
    content = content_of(4 * MIB)
    ref = world.add({"a.bin": content, "small.bin": b"small"})
    world.open()
    assert read_all(world.cache, identity_of(world, ref, "small.bin"))
    world.transfers.hold(3)
    started, _ = world.tasks.download(ref, 1)
    small = Path(str(started.order.target_dir)) / "small.bin"
    wait_until(small.exists, "the small file")
    inode = small.stat().st_ino
    closing = threading.Thread(target=world.tasks.close)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    world.transfers.release()
    world.cache.close()
    world.open()
    done = world.ended(started)
    assert done.status == COMPLETED
    assert files_in(small.parent) == {"a.bin": content, "small.bin": b"small"}
    assert small.stat().st_ino == inode
    assert world.transfers.times_asked(f"{NET}/small.bin", 0) == 1


def test_what_a_killed_process_left_is_removed(world: World) -> None:
    ref = world.add({"a.bin": content_of(MIB)})
    world.open()
    world.transfers.hold()
    started, _ = world.tasks.download(ref, 1)
    target = Path(str(started.order.target_dir))
    wait_until(lambda: any(target.glob(".*.part")), "the file to be begun")
    world.tasks.close()
    world.transfers.release()
    (target / f".runicornfs-{started.order.task_id}-00.part").write_bytes(b"half")
    world.over(world.cache)
    world.ended(started)
    assert files_in(target) == {"a.bin": content_of(MIB)}


def test_a_file_that_was_changed_after_it_was_placed_is_not_taken_for_done(world: World) -> None:
    ref = world.add({"a.bin": b"aaaa", "b.bin": content_of(MIB)})
    world.open()
    assert read_all(world.cache, identity_of(world, ref, "a.bin"))
    world.transfers.hold()
    started, _ = world.tasks.download(ref, 1)
    target = Path(str(started.order.target_dir))
    wait_until((target / "a.bin").exists, "the first file")
    world.tasks.close()
    world.transfers.release()
    (target / "a.bin").write_bytes(b"evil")
    world.over(world.cache)
    done = world.ended(started)
    assert done.status == FAILED
    assert "a.bin" in str(done.error)
    assert (target / "a.bin").read_bytes() == b"evil"


def test_too_little_room_is_said_with_the_numbers_before_anything_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = world.add({"a.bin": b"aaaa", "b.bin": b"bbbb"})
    world.open()
    monkeypatch.setattr("runicornfs.downloads.target.TargetFolder.free_bytes", 5)
    done = world.download(ref)
    assert done.status == FAILED
    assert "8 bytes are still needed and 5 are free" in str(done.error)
    assert files_in(str(done.order.target_dir)) == {}


def test_one_larger_than_the_cache_streams_past_it(world: World) -> None:
    files = {f"{n}.bin": content_of(6 * MIB, n) for n in range(3)}
    ref = world.add(files)
    world.open(limit=4 * MIB)
    done = world.download(ref)
    assert (done.status, done.error) == (COMPLETED, None)
    assert files_in(str(done.order.target_dir)) == files
    assert world.cache.status().size_bytes <= 4 * MIB


def test_what_was_downloaded_is_the_first_to_go_from_the_cache(world: World) -> None:
    used = world.add({"used.bin": content_of(MIB)}, name="used")
    ref = world.add({"a.bin": content_of(MIB, 1)})
    more = world.add({"more.bin": content_of(MIB, 2)}, name="more")
    world.open(limit=2 * MIB + BLOCK)
    assert read_all(world.cache, identity_of(world, used, "used.bin"))
    world.download(ref)
    wait_at_rest(world.cache)
    assert read_all(world.cache, identity_of(world, more, "more.bin"))
    assert [here.is_here for ref in (used, ref) for here in world.tasks.check(ref, 1)] == [True, False]


def test_what_somebody_had_used_before_keeps_its_place(world: World) -> None:
    older = world.add({"older.bin": content_of(MIB)}, name="older")
    ref = world.add({"a.bin": content_of(MIB, 1)})
    more = world.add({"more.bin": content_of(MIB, 2)}, name="more")
    world.open(limit=2 * MIB + BLOCK)
    assert read_all(world.cache, identity_of(world, older, "older.bin"))
    assert read_all(world.cache, identity_of(world, ref, "a.bin"))
    world.download(ref)
    wait_at_rest(world.cache)
    assert read_all(world.cache, identity_of(world, more, "more.bin"))
    assert [here.is_here for ref in (older, ref) for here in world.tasks.check(ref, 1)] == [False, True]


def test_prefetch_brings_files_into_the_cache_alone(world: World) -> None:
    ref = world.add({"a.bin": content_of(MIB), "d/b.txt": b"b", "d/c.bin": b"c"})
    world.open()
    started, _ = world.tasks.prefetch(ref, 1, ["*.bin"])
    done = world.ended(started)
    assert (done.status, done.order.target_dir, done.counts.total_files) == (COMPLETED, None, 2)
    assert [(here.path, here.is_here) for here in world.tasks.check(ref, 1)] == [
        ("a.bin", True),
        ("d/b.txt", False),
        ("d/c.bin", True),
    ]
    assert not (world.own / "downloads").exists()


def test_prefetch_refuses_what_does_not_fit(world: World) -> None:
    ref = world.add({f"{n}.bin": content_of(MIB, n) for n in range(3)})
    other = world.add({"p.bin": content_of(MIB, 9)}, name="pinned")
    world.open(limit=3 * MIB)
    world.ended(world.tasks.prefetch(ref, 1)[0])
    world.cache.pin("model/net:v1", {file.identity.key: file.size for file in files_of(world, ref)[:2]})
    world.ended(world.tasks.prefetch(ref, 1)[0])
    world.cache.unpin("model/net:v1")
    world.cache.pin("model/pinned:v1", {file.identity.key: file.size for file in files_of(world, other)})
    with pytest.raises(NoSpace, match=r"3\.0MiB do not fit into the cache, which takes 3\.0MiB and has 1\.0MiB"):
        world.tasks.prefetch(ref, 1)
    world.tasks.prefetch(ref, 1, ["0.bin"])


def test_prefetch_refuses_a_file_larger_than_the_cache(world: World) -> None:
    ref = world.add({"a.bin": content_of(3 * MIB)})
    world.open(limit=2 * MIB)
    with pytest.raises(NoSpace, match=r"a\.bin has 3\.0MiB, the cache takes 2\.0MiB"):
        world.tasks.prefetch(ref, 1)


def test_evict_drops_what_is_neither_open_nor_pinned(world: World) -> None:
    ref = world.add({"open.bin": content_of(MIB), "pinned.bin": content_of(MIB, 1), "rest.bin": content_of(MIB, 2)})
    world.open()
    world.ended(world.tasks.prefetch(ref, 1)[0])
    open_, pinned, _ = files_of(world, ref)
    world.cache.pin("model/net:v1", {pinned.identity.key: pinned.size})
    reader = world.cache.open(open_.identity)
    freed = world.tasks.evict(ref, 1)
    assert (freed.files, freed.size_bytes) == (1, MIB)
    assert [here.is_here for here in world.tasks.check(ref, 1)] == [True, True, False]
    reader.close()


def test_clear_forgets_what_has_ended_and_removes_what_nobody_changed(world: World) -> None:
    ref = world.add({"a.bin": b"aaaa", "d/b.bin": b"bbbb"})
    changed = world.add({"c.bin": b"cccc"}, name="changed")
    world.open()
    mine = world.folder / "mine"
    default = Path(str(world.download(ref).order.target_dir))
    world.download(ref, target_dir=str(mine))
    kept = Path(str(world.download(changed).order.target_dir))
    (kept / "c.bin").write_bytes(b"CCCC")
    assert world.tasks.clear_finished() == 8
    assert world.tasks.all() == []
    assert not default.parent.exists()
    assert files_in(kept) == {"c.bin": b"CCCC"}
    assert sorted(files_in(mine)) == ["a.bin", "d/b.bin"]
    world.end()
    assert world.open().all() == []


def test_changes_are_told(world: World) -> None:
    ref = world.add({"a.bin": b"a"})
    world.open()
    told: list[Download] = []
    world.tasks.on_change(told.append)
    done = world.download(ref)
    wait_until(lambda: told and told[-1] == done, "the last word")
    assert told[0].status == RUNNING


def test_progress_moves_inside_a_file(world: World) -> None:
    ref = world.add({"a.bin": content_of(8 * MIB)})
    world.open()
    world.transfers.hold(4)
    started, _ = world.tasks.download(ref, 1)

    def now() -> Download:
        return world.tasks.get(started.order.task_id)

    wait_until(lambda: now().counts.downloaded_bytes >= MIB, "some of it")
    wait_until(lambda: now().bytes_per_second > 0, "the rate")
    assert (now().current_file, now().status) == ("a.bin", RUNNING)
    assert (now().eta_seconds or 0) > 0
    assert 0 < now().progress_percent < 100
    world.transfers.release()
    assert world.ended(started).eta_seconds is None


def test_after_the_end_nothing_can_be_started(world: World) -> None:
    ref = world.add({"a.bin": b"a"})
    tasks: DownloadTasks = world.open()
    tasks.close()
    tasks.close()
    with pytest.raises(Conflict, match="ends"):
        tasks.download(ref, 1)

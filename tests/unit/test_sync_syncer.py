"""One sync at a time, all at once or not at all, and what happens around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.update import Changes
from runicornfs.errors import Interrupted, NoSpace, Unreachable
from runicornfs.remote.events import Event, Gone, Notice, Plan
from runicornfs.store.observed import Observed, ObservedKind
from runicornfs.sync.export import MetadataExport
from runicornfs.sync.syncer import Syncer, SyncRun
from tests.disks import fill_up, free, small_disk
from tests.waiting import wait_until

META = Observed("runs/r1/meta.json", ObservedKind.DOCUMENT, b"1", 2, 0, b"{}")
LOG = Observed("runs/r1/logs.txt", ObservedKind.FILE, b"1", 10, 0, None)


class World:
    """A catalog, a server that answers what the test says, and what the mount was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalog = Catalog.open(folder / "index.db")
        self.answer: Callable[[], Iterable[Event]] = lambda: [META, LOG]
        self.asked: list[dict[bytes, bytes]] = []
        self.changes: list[Changes] = []
        export = MetadataExport(folder / "metadata", self.catalog.document)
        self.catalog.on_change(self.changes.append)
        self.syncer = Syncer(self.catalog, self.scan, export)

    def scan(self, known: Iterable[tuple[bytes, bytes]]) -> Iterator[Event]:
        self.asked.append(dict(known))
        yield from self.answer()

    def sync(self, full: bool = False) -> SyncRun:
        run = self.syncer.start(full)
        run.wait(run.finished, 20)
        return run


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.syncer.cancel()
    world.syncer.join()
    world.catalog.close()


@pytest.mark.promise("S2")
@pytest.mark.parametrize("room", [True, False])
def test_a_full_disk_keeps_what_was_shown_unless_room_can_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, room: bool
) -> None:
    with small_disk(tmp_path / "disk", "3m") as disk:
        catalog = Catalog.open(disk / "index.db")
        answer: list[Event] = [META]

        def make_room() -> bool:
            if room:
                free(disk)
            return room

        syncer = Syncer(
            catalog, lambda known: iter(answer), MetadataExport(disk / "metadata", catalog.document), make_room
        )
        first = syncer.start()
        first.wait(first.finished, 20)
        shown = catalog.children("runs/r1")
        answer.append(Observed("runs/r2/summary.json", ObservedKind.DOCUMENT, b"1", 0, 0, b"[0]" + b" " * 500_000))
        fill_up(disk)
        run = syncer.start()
        if room:
            run.wait(run.finished, 20)
        else:
            with pytest.raises(NoSpace, match="the disk is full"):
                run.wait(run.finished, 20)
            assert "the disk is full" in syncer.progress.errors[-1]
            assert catalog.children("runs/r2") == []
            free(disk)
            again = syncer.start()
            again.wait(again.finished, 20)
        assert catalog.children("runs/r1") == shown
        assert catalog.lookup("runs/r2/summary.json") is not None
        syncer.cancel()
        syncer.join()
        catalog.close()


def test_what_was_seen_is_shown_and_told(world: World) -> None:
    world.sync()
    assert [name for name, _ in world.catalog.children("runs/r1")] == ["logs.txt", "meta.json"]
    assert "runs/r1/meta.json" in world.changes[0].changed_paths
    assert world.syncer.progress.status == "completed"
    assert (world.folder / "metadata/experiments/runs/r1/meta.json").read_bytes() == b"{}"


def test_the_next_sync_tells_the_server_what_is_known(world: World) -> None:
    world.sync()
    world.answer = list
    world.sync()
    assert world.asked[1] == {b"runs/r1/meta.json": b"1", b"runs/r1/logs.txt": b"1"}
    assert len(world.changes) == 1, "nothing has changed, so nobody is told"


def test_a_full_sync_asks_for_everything_again(world: World) -> None:
    world.sync()
    world.answer = lambda: [META, Gone("runs/r1/logs.txt")]
    world.sync(full=True)
    assert world.asked[1] == {b"runs/r1/meta.json": b"", b"runs/r1/logs.txt": b""}
    assert [name for name, _ in world.catalog.children("runs/r1")] == ["meta.json"]


def test_what_a_full_sync_could_not_read_stays(world: World) -> None:
    """Unreadable is not deleted: the server names it in a notice and does not tell it as gone."""
    world.sync()
    world.answer = lambda: [META, Notice("runs/r1/logs.txt: cannot be examined")]
    world.sync(full=True)
    assert [name for name, _ in world.catalog.children("runs/r1")] == ["logs.txt", "meta.json"]
    assert world.catalog.problems() == ["runs/r1/logs.txt: cannot be examined"]


def test_a_sync_that_breaks_off_shows_nothing_and_is_not_repeated_from_the_start(world: World) -> None:
    def broken() -> Iterator[Event]:
        yield META
        raise Unreachable("the line broke")

    world.answer = broken
    with pytest.raises(Unreachable):
        world.sync()
    assert world.catalog.children("") == []
    assert world.syncer.progress.status == "failed"
    assert world.syncer.progress.errors == ["the line broke"]
    world.answer = lambda: [LOG]
    world.sync()
    assert world.asked[1] == {b"runs/r1/meta.json": b"1"}
    assert [name for name, _ in world.catalog.children("runs/r1")] == ["logs.txt", "meta.json"]


def test_a_second_request_joins_the_sync_that_runs(world: World) -> None:
    go_on = threading.Event()

    def slow() -> Iterator[Event]:
        go_on.wait(20)
        yield META

    world.answer = slow
    first = world.syncer.start()
    assert world.syncer.start() is first
    go_on.set()
    first.wait(first.finished, 20)
    assert world.syncer.counts == (1, 0)
    assert world.syncer.start() is not first


def test_a_sync_that_is_owed_is_not_the_one_that_runs_already(world: World) -> None:
    """It may have passed what has changed."""
    reached, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[Event]:
        yield META
        reached.set()
        go_on.wait(20)

    world.answer = slow
    world.syncer.start()
    assert reached.wait(20)
    world.syncer.owe()
    go_on.set()
    wait_until(lambda: world.syncer.counts == (2, 0), "the sync that is owed")
    world.syncer.reached()
    assert len(world.asked) == 2, "nothing is owed any more"


def test_a_sync_that_is_owed_is_made_when_the_server_can_be_reached(world: World) -> None:
    def away() -> Iterator[Event]:
        raise Unreachable("the server is away")
        yield

    world.answer = away
    world.syncer.owe()
    wait_until(lambda: world.syncer.counts == (0, 1), "the sync to fail")
    world.answer = lambda: [META]
    world.syncer.reached()
    wait_until(lambda: world.syncer.counts == (1, 1), "the sync that is owed")
    assert world.catalog.children("runs/r1") != []


def test_the_line_may_be_back_before_the_sync_that_it_broke_has_ended(world: World) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def broken() -> Iterator[Event]:
        reached.set()
        go_on.wait(20)
        world.answer = lambda: [META]
        raise Unreachable("the line broke")
        yield

    world.answer = broken
    world.syncer.owe()
    assert reached.wait(20)
    world.syncer.reached()
    go_on.set()
    wait_until(lambda: world.syncer.counts == (1, 1), "the sync that is owed")


def test_where_nothing_is_owed_a_line_that_is_back_starts_no_sync(world: World) -> None:
    world.syncer.reached()
    world.sync()
    world.syncer.reached()
    assert len(world.asked) == 1


def test_a_sync_need_not_wait_for_the_export_of_the_one_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    write = MetadataExport.write

    def slow(export: MetadataExport, changed: Iterable[tuple[str, int | None]]) -> None:
        go_on.wait(20)
        write(export, changed)

    monkeypatch.setattr(MetadataExport, "write", slow)
    first = world.syncer.start()
    first.wait(first.committed, 20)
    world.answer = list
    second = world.syncer.start()
    second.wait(second.finished, 20)
    assert not first.finished.is_set()
    assert second is not first
    assert world.syncer.progress.status == "completed"
    go_on.set()
    first.wait(first.finished, 20)
    assert (world.folder / "metadata/experiments/runs/r1/meta.json").exists()


def test_when_the_last_sync_was_outlives_the_program(world: World) -> None:
    world.sync()
    noted = world.catalog.last_sync()
    world.answer = list
    world.sync()
    assert world.catalog.last_sync() == noted, "nothing is written for a sync that finds nothing new"
    latest = world.syncer.last_sync
    assert latest != noted
    world.syncer.cancel()
    world.syncer.join()
    assert world.catalog.last_sync() == latest


def test_progress_counts_documents(world: World) -> None:
    world.answer = lambda: [Plan(2, 100), META]
    world.sync()
    progress = world.syncer.progress
    assert (progress.total_files, progress.total_bytes) == (2, 100)
    assert (progress.synced_files, progress.synced_bytes) == (1, 2)


def test_an_export_that_was_cut_off_is_made_whole_by_the_next_sync(world: World) -> None:
    world.sync()
    exported = world.folder / "metadata/experiments/runs/r1/meta.json"
    exported.unlink()
    (world.folder / "metadata/.being-written").touch()
    world.answer = list
    world.sync()
    assert exported.read_bytes() == b"{}"


def test_a_sync_of_nothing_new_leaves_the_export_alone(world: World) -> None:
    world.sync()
    before = (world.folder / "metadata").stat().st_mtime_ns
    world.answer = list
    world.sync()
    assert (world.folder / "metadata").stat().st_mtime_ns == before


def test_the_end_of_the_program_ends_a_sync(world: World) -> None:
    started = threading.Event()

    def endless() -> Iterator[Event]:
        while True:
            started.set()
            yield LOG

    world.answer = endless
    run = world.syncer.start()
    assert started.wait(20)
    world.syncer.cancel()
    world.syncer.join()
    with pytest.raises(Interrupted):
        run.wait(run.finished, 20)
    with pytest.raises(Interrupted):
        world.syncer.start()


def test_the_interval_syncs_again_and_again(world: World) -> None:
    world.syncer.every(0.01)
    enough = threading.Event()

    def answer() -> Iterator[Event]:
        if len(world.asked) >= 3:
            enough.set()
        yield from ()

    world.answer = answer
    assert enough.wait(20)


def test_an_interval_can_be_ended_and_begun_anew(world: World) -> None:
    world.syncer.every(0.01)
    wait_until(lambda: len(world.asked) >= 2, "two syncs")
    world.syncer.every(0)
    world.sync()
    asked = len(world.asked)
    world.syncer.every(0.01)
    wait_until(lambda: len(world.asked) > asked, "another one")


def test_starting_over_reads_everything_and_writes_the_export_anew(world: World) -> None:
    world.sync()
    (world.folder / "metadata/left by somebody").touch()
    run = world.syncer.start_over()
    run.wait(run.finished, 20)
    assert world.asked[1] == {b"runs/r1/meta.json": b"", b"runs/r1/logs.txt": b""}
    assert [path.name for path in (world.folder / "metadata").rglob("*") if path.is_file()] == ["meta.json"]
    assert not any(change.changed_paths for change in world.changes[1:]), "the catalog shows what it showed"


def test_starting_over_waits_for_the_sync_that_runs(world: World) -> None:
    """It may have begun before what it should forget."""
    go = threading.Event()

    def held() -> Iterator[Event]:
        go.wait(20)
        yield META

    world.answer = held
    first = world.syncer.start()
    wait_until(lambda: world.asked, "the first to be under way")
    second = world.syncer.start_over()
    assert second is not first
    assert world.syncer.start() is second, "who wants a sync now joins the second"
    assert len(world.asked) == 1
    go.set()
    second.wait(second.finished, 20)
    assert first.finished.is_set()
    assert len(world.asked) == 2
    assert world.syncer.progress.status == "completed"


def test_what_cannot_be_read_again_can_be_forgotten(world: World) -> None:
    world.sync()
    before = world.syncer.last_sync
    run = world.syncer.start_over(forget=True)
    run.wait(run.finished, 20)
    assert len(world.asked) == 1, "nobody is asked"
    assert world.catalog.children("") == []
    assert "runs/r1/meta.json" in world.changes[-1].changed_paths
    assert not list((world.folder / "metadata").rglob("meta.json"))
    assert world.syncer.last_sync == before
    world.sync()
    assert [name for name, _ in world.catalog.children("runs/r1")] == ["logs.txt", "meta.json"]

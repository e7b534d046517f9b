"""An edit while a sync is under way: it shows at once, and the sync does not bring back what was before it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.update import Changes
from runicornfs.errors import Conflict, NoSpace, ServerError, Unreachable
from runicornfs.manage.editors import Done, Edit
from runicornfs.manage.manager import Manager
from runicornfs.remote.events import Event, Gone, Known
from runicornfs.store import edits
from runicornfs.store.observed import Observed
from runicornfs.sync.export import MetadataExport
from runicornfs.sync.syncer import Syncer, SyncRun
from tests.disks import fill_up, free, small_disk
from tests.unit.observing import a_version, document, index
from tests.waiting import wait_until

NET = "artifacts/model/net"
ALIAS: Edit = {"action": edits.SET_ALIAS, "version": 1, "alias": "best"}


def an_index(*aliases: str, token: bytes, versions: Iterable[int] = (1,)) -> Observed:
    record = index(dict.fromkeys(versions, "ready"), dict.fromkeys(aliases, 1))
    return document(f"{NET}/versions.json", record, token)


class World:
    """A catalog that a sync and edits change; what server and edits answer is what the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalog = Catalog.open(folder / "index.db")
        self.scan: Callable[[], Iterable[Event]] = lambda: [an_index("latest", token=b"0"), *a_version(f"{NET}/v1")]
        self.known: list[dict[bytes, bytes]] = []
        self.done: Callable[[], Done] = lambda: Done([], [])
        self.swept: Callable[[], None] = lambda: None
        self.told: list[Changes] = []
        self.catalog.on_change(self.told.append)
        export = MetadataExport(folder / "metadata", self.catalog.document)
        self.syncer = Syncer(self.catalog, self._scan, export)
        self.manager = Manager(self.catalog, self, self.syncer.export, self.syncer.owe)

    def _scan(self, known: Known) -> Iterator[Event]:
        self.known.append(dict(known))
        yield from self.scan()

    def edit(self, artifact: str, edit: Edit, known: Known) -> Done:
        return self.done()

    def sweep(self, artifact: str) -> None:
        self.swept()

    def sync(self) -> SyncRun:
        run = self.syncer.start()
        run.wait(run.finished, 20)
        return run

    def links(self) -> list[str]:
        return [name for name, node in self.catalog.children(NET) if node.target is not None]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.sync()
    yield world
    world.syncer.cancel()
    world.syncer.join()
    world.catalog.close()


class SlowScan:
    """A scan that has told `before`, and tells `after` when the test lets it."""

    def __init__(self, before: list[Event], after: list[Event]) -> None:
        self.before, self.after = before, after
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> Iterator[Event]:
        yield from self.before
        self.reached.set()
        assert self.go_on.wait(20)
        yield from self.after


def changed_alias(*aliases: str) -> Callable[[], Done]:
    return lambda: Done([], [an_index(*aliases, token=b"edited")])


def test_an_edit_shows_at_once_and_is_told(world: World) -> None:
    world.done = changed_alias("latest", "best")
    assert world.manager.edit(NET, ALIAS) == []
    assert world.links() == ["best", "latest"]
    assert f"{NET}/best" in world.told[-1].changed_paths
    assert world.catalog.problems() == []


@pytest.mark.parametrize("seen", ["before", "after"])
def test_an_edit_during_a_long_sync_shows_at_once_and_stays(world: World, seen: str) -> None:
    """The sync has seen, or sees yet, the artifact as it was before the edit; it also brings news of its own."""
    old: list[Event] = [an_index("latest", "old", token=b"1"), Gone(f"{NET}/v1/metadata.json")]
    other: list[Event] = [document("runs/r1/meta.json", {})]
    slow = SlowScan(old, other) if seen == "before" else SlowScan(other, old)
    world.scan = slow
    run = world.syncer.start()
    assert slow.reached.wait(20)
    world.done = changed_alias("latest", "best")
    world.manager.edit(NET, ALIAS)
    assert world.links() == ["best", "latest"]
    assert world.catalog.children("runs") == [], "nothing of a sync shows before its end"
    slow.go_on.set()
    run.wait(run.finished, 20)
    assert world.links() == ["best", "latest"]
    assert [name for name, _ in world.catalog.children("runs/r1")] == ["meta.json"]


def test_the_next_sync_brings_what_else_has_changed_there(world: World) -> None:
    slow = SlowScan([an_index("latest", token=b"1")], [])
    world.scan = slow
    run = world.syncer.start()
    assert slow.reached.wait(20)
    world.done = changed_alias("latest", "best")
    world.manager.edit(NET, ALIAS)
    slow.go_on.set()
    run.wait(run.finished, 20)
    world.scan = lambda: [an_index("latest", "best", "other", token=b"2")]
    world.sync()
    assert world.known[-1][f"{NET}/versions.json".encode()] == b"edited"
    assert world.links() == ["best", "latest", "other"]


def test_a_sync_that_broke_off_brings_back_nothing_later(world: World) -> None:
    """What it had staged is kept for the next one, but not of an artifact that was edited meanwhile."""

    def broken() -> Iterator[Event]:
        yield an_index("latest", "old", token=b"1")
        yield document("runs/r1/meta.json", {})
        raise Unreachable("the line broke")

    world.scan = broken
    with pytest.raises(Unreachable):
        world.sync()
    world.done = changed_alias("latest", "best")
    world.manager.edit(NET, ALIAS)
    assert world.links() == ["best", "latest"]
    assert world.catalog.children("runs") == []
    world.scan = list
    world.sync()
    assert world.links() == ["best", "latest"]
    assert [name for name, _ in world.catalog.children("runs/r1")] == ["meta.json"]


def test_what_an_edit_removed_is_gone_and_no_content_is_left_behind(world: World) -> None:
    gone: list[Event] = [Gone(f"{NET}/v1/metadata.json"), Gone(f"{NET}/v1/manifest.json")]
    world.done = lambda: Done([], [document(f"{NET}/versions.json", index({1: "deleted"}), b"edited"), *gone])
    world.manager.edit(NET, {"action": edits.DELETE_FOR_GOOD, "version": 1})
    assert world.catalog.lookup(f"{NET}/v1") is None
    assert [path for path, _ in world.catalog.documents()] == [f"{NET}/versions.json"]
    assert len(world.catalog._database.rows("SELECT id FROM documents")) == 1


def test_a_new_version_that_an_edit_met_is_shown_whole(world: World) -> None:
    """An SDK has saved v2 since the last sync: the index names it now, and so its documents come, too."""
    new: list[Event] = [an_index("latest", token=b"edited", versions=(1, 2)), *a_version(f"{NET}/v2")]
    world.done = lambda: Done([], new)
    world.manager.edit(NET, ALIAS)
    assert world.catalog.lookup(f"{NET}/v2/files/w.bin") is not None
    assert world.catalog.problems() == []


def test_an_edit_changes_nothing_outside_of_its_artifact(world: World) -> None:
    """The answer comes from the server, and is not trusted."""
    strange: list[Event] = [document("artifacts/model/other/versions.json", index({}), b"x"), Gone("runs/r1/meta.json")]
    world.scan = lambda: [document("runs/r1/meta.json", {})]
    world.sync()
    world.done = lambda: Done([], strange)
    world.manager.edit(NET, ALIAS)
    assert world.catalog.lookup("runs/r1/meta.json") is not None
    assert world.catalog.lookup("artifacts/model/other") is None


def test_an_edit_that_failed_changes_nothing(world: World) -> None:
    def fail() -> Done:
        raise Unreachable("the server is away")

    world.done = fail
    with pytest.raises(Unreachable):
        world.manager.edit(NET, {"action": edits.DELETE_FOR_GOOD, "version": 1})
    assert world.catalog.lookup(f"{NET}/v1/files/w.bin") is not None, "unreachable is not deleted"
    world.done = changed_alias("latest", "best")
    world.manager.edit(NET, ALIAS)


def test_an_edit_of_which_nothing_was_heard_is_shown_by_a_sync(world: World) -> None:
    world.scan = lambda: [an_index("latest", "best", token=b"1")]
    world.done = lambda: Done([], None)
    (note,) = world.manager.edit(NET, ALIAS)
    assert "next sync" in note
    wait_until(lambda: world.links() == ["best", "latest"], "the sync")


def test_an_edit_that_is_made_and_cannot_be_kept_here_says_both_and_is_shown_by_a_sync(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        world = World(disk)
        world.sync()
        records = "x" * 500_000
        world.done = lambda: Done(
            [], [an_index("latest", "best", token=b"1"), document(f"{NET}/v1/more.json", records)]
        )
        world.scan = lambda: [an_index("latest", "best", token=b"1")]
        fill_up(disk)
        (note,) = world.manager.edit(NET, ALIAS)
        assert "it is made, and shown after a sync that succeeds: the disk is full" in note
        free(disk)

        def synced() -> bool:
            with contextlib.suppress(NoSpace):  # of the sync that was started when the disk was still full
                world.sync()
            return bool(world.links() == ["best", "latest"])

        wait_until(synced, "a sync that succeeds")
        world.syncer.cancel()
        world.syncer.join()
        world.catalog.close()


def test_files_that_could_not_be_removed_are_said(world: World) -> None:
    def fail() -> None:
        raise ServerError("the disk is tired")

    world.swept = fail
    (note,) = world.manager.edit(NET, {"action": edits.DELETE_FOR_GOOD, "version": 1})
    assert "the disk is tired" in note


def test_files_that_take_long_to_remove_are_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicornfs.manage.manager.SWEEP_S", 0.01)
    go_on = threading.Event()

    def slow() -> None:
        go_on.wait(20)

    world.swept = slow
    (note,) = world.manager.edit(NET, {"action": edits.DELETE_FOR_GOOD, "version": 1})
    assert "still being removed" in note
    go_on.set()


def test_edits_take_turns_and_the_wait_has_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicornfs.manage.manager.TURN_S", 0.01)
    reached, go_on = threading.Event(), threading.Event()

    def slow() -> Done:
        reached.set()
        go_on.wait(20)
        return Done([], [])

    world.done = slow
    first = threading.Thread(target=world.manager.edit, args=(NET, ALIAS))
    first.start()
    assert reached.wait(20)
    try:
        with pytest.raises(Conflict):
            world.manager.edit(NET, ALIAS)
    finally:
        go_on.set()
        first.join()


def test_the_export_follows_an_edit(world: World) -> None:
    exported = world.folder / "metadata" / NET / "versions.json"
    world.done = changed_alias("latest", "best")
    world.manager.edit(NET, ALIAS)
    wait_until(lambda: b'"best"' in exported.read_bytes(), "the export")


def test_readers_see_an_edit_whole_or_not_at_all(world: World) -> None:
    """One that fails in the middle leaves the state before it, also for the sync that is under way."""
    slow = SlowScan([document("runs/r1/meta.json", {})], [])
    world.scan = slow
    run = world.syncer.start()
    assert slow.reached.wait(20)

    def broken() -> Iterator[Observed]:
        yield an_index("latest", "best", token=b"edited")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        world.catalog.amend(NET, broken(), [])
    assert world.links() == ["latest"]
    slow.go_on.set()
    run.wait(run.finished, 20)
    assert world.links() == ["latest"]
    assert [name for name, _ in world.catalog.children("runs/r1")] == ["meta.json"]
    assert len(world.catalog._database.rows("SELECT id FROM documents")) == 4

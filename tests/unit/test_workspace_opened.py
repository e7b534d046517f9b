"""One process owns a store's folder; a second one joins it, or is told that it cannot."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.errors import Refused, RunicornFSError, StoreUnusable
from runicornfs.workspace import opened
from runicornfs.workspace.folders import StoreFolder
from runicornfs.workspace.opened import OpenedStore
from runicornfs.workspace.opening import Keeping, open_local, open_nothing
from tests.waiting import wait_until


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping(tmp_path / "cache", cache_size=1 << 20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    writer = StoreWriter(tmp_path / "store")
    writer.add_version("model", "net", {"w.bin": b"weights"})
    return writer.root


def test_the_first_owns_the_folder_and_the_second_joins_it(root: Path, keeping: Keeping) -> None:
    first = open_local(root, keeping)
    second = open_local(root, keeping)
    assert (first.folder.owned, second.folder.owned) == (True, False)
    run = second.upkeep.sync()
    run.wait(run.finished, 20)
    assert [artifact.name for artifact in first.catalog.artifacts.all()] == ["net"]
    assert second.catalog.artifacts.all() == first.catalog.artifacts.all()
    assert second.upkeep.state().last_sync == first.upkeep.state().last_sync is not None
    second.close()
    first.close()


def test_a_guest_that_cannot_take_the_place_of_the_owner_tries_again_and_lets_others_try(
    root: Path, keeping: Keeping, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_local(root, keeping)
    second = open_local(root, keeping)
    (obstacle := first.folder.path / "owner.sock").unlink()
    obstacle.mkdir()
    first.close()
    wait_until(lambda: "cannot be taken yet" in caplog.text, "the guest to fail")
    wait_until(lambda: not second.folder.owned, "it to let others try")
    obstacle.rmdir()
    wait_until(lambda: _syncs(second), "the guest to take its place")
    assert [artifact.name for artifact in second.catalog.artifacts.all()] == ["net"]
    third = open_local(root, keeping)
    assert third.upkeep.state().last_sync == second.upkeep.state().last_sync
    third.close()
    second.close()
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["WARNING"]


def _syncs(store: OpenedStore) -> bool:
    try:
        run = store.upkeep.sync()
        run.wait(run.finished, 20)
    except RunicornFSError:
        return False
    return True


def test_an_owner_that_does_not_answer_is_named(
    root: Path, keeping: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "JOIN_TIMEOUT_S", 0.2)
    silent = StoreFolder.make(keeping.cache_dir, "local_store", {"local": str(root)})
    with pytest.raises(Refused, match=rf"process {silent.owner}.*--cache-dir"):
        open_local(root, keeping)
    silent.close()
    open_local(root, keeping).close()


def test_a_store_can_be_opened_again_after_it_was_closed(root: Path, keeping: Keeping) -> None:
    for _ in range(3):
        store = open_local(root, keeping)
        store.go_online(3600)
        store.close()


def test_a_folder_that_is_no_store_leaves_no_cache_folder(keeping: Keeping, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable):
        open_local(tmp_path, keeping)
    assert not keeping.cache_dir.exists()


def test_the_empty_store_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = open_nothing()
    assert (store.source, store.catalog.artifacts.all()) == ("", [])
    assert json.loads((store.folder.path / "store.json").read_text()) == {}
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_that_a_killed_process_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive = open_nothing()
    left, young = tmp_path / "runicornfs-left", tmp_path / "runicornfs-young"
    for folder in (left, young):
        shutil.copytree(alive.folder.path, folder / "empty", ignore=shutil.ignore_patterns("owner.sock"))
    for folder in (left / "empty", alive.folder.path):
        os.utime(folder / "lock", (1.0, 1.0))
    open_nothing().close()
    assert sorted(tmp_path.iterdir()) == sorted([young, alive.folder.path.parent])
    alive.close()

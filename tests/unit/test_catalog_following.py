"""A second process reads the catalog that a first one writes, and misses no change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.catalog import history
from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.update import Changes
from runicornfs.errors import RunicornFSError
from tests.unit.observing import a_version, apply, document, index, plain_file
from tests.waiting import PATIENCE_S

NET = "artifacts/model/net"
LOG = "vision/train/runs/r1/logs.txt"


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(tmp_path / "index.db")
    yield catalog
    catalog.close()


@pytest.fixture
def follower(writer: Catalog, tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.follow(tmp_path / "index.db")
    yield catalog
    catalog.close()


def heard(catalog: Catalog) -> list[Changes]:
    changes: list[Changes] = []
    catalog.on_change(changes.append)
    return changes


def test_there_is_nothing_to_follow_before_somebody_writes(tmp_path: Path) -> None:
    with pytest.raises(RunicornFSError, match=r"index\.db cannot be used"):
        Catalog.follow(tmp_path / "index.db")
    assert not (tmp_path / "index.db").exists()


def test_it_sees_every_snapshot_at_once(writer: Catalog, follower: Catalog) -> None:
    apply(writer, document(f"{NET}/versions.json", index({1: "ready"})), *a_version(f"{NET}/v1"))
    assert follower.lookup(f"{NET}/v1/files/w.bin") is not None
    assert follower.generation == writer.generation


def test_it_hears_of_what_all_missed_snapshots_changed(writer: Catalog, follower: Catalog) -> None:
    apply(writer, plain_file(LOG, 1))
    follower.catch_up()
    changes = heard(follower)
    apply(writer, plain_file(LOG, 2, b"2"))
    apply(writer, plain_file("vision/train/runs/r2/logs.txt", 1))
    follower.catch_up()
    (change,) = changes
    assert {LOG, "vision/train/runs/r2/logs.txt"} <= set(change.changed_paths)
    assert change.generation == writer.generation
    assert follower.totals() == writer.totals()


def test_nothing_new_is_not_told(writer: Catalog, follower: Catalog) -> None:
    changes = heard(follower)
    follower.catch_up()
    assert changes == []


def test_a_path_that_came_and_went_meanwhile_is_told(writer: Catalog, follower: Catalog) -> None:
    changes = heard(follower)
    apply(writer, plain_file(LOG, 1))
    apply(writer, gone=(LOG,))
    follower.catch_up()
    assert LOG in changes[0].changed_paths


def test_who_missed_too_much_takes_everything_for_changed(writer: Catalog, follower: Catalog) -> None:
    changes = heard(follower)
    apply(writer, document(f"{NET}/versions.json", index({1: "ready"})), *a_version(f"{NET}/v1"))
    for number in range(history.KEPT_SNAPSHOTS):
        apply(writer, plain_file(LOG, number, b"%d" % number))
    follower.catch_up()
    assert {"", NET, f"{NET}/v1/files/w.bin", LOG} <= set(changes[0].changed_paths)


def test_a_snapshot_that_changes_very_much_is_not_listed(
    writer: Catalog, follower: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = heard(follower)
    monkeypatch.setattr(history, "KEPT_PATHS", 3)
    apply(writer, document(f"{NET}/versions.json", index({1: "ready"})), *a_version(f"{NET}/v1"))
    assert writer._database.writer.execute("SELECT count(*) FROM history").fetchone() == (0,)
    follower.catch_up()
    assert f"{NET}/v1/files/w.bin" in changes[0].changed_paths


def test_it_can_write_when_the_writer_is_gone(tmp_path: Path) -> None:
    writer = Catalog.open(tmp_path / "index.db")
    follower = Catalog.follow(tmp_path / "index.db")
    changes = heard(follower)
    apply(writer, plain_file(LOG, 1))
    writer.close()  # before it could tell anybody
    follower.own()
    assert LOG in changes[0].changed_paths
    apply(follower, plain_file(LOG, 2, b"2"))
    assert changes[1].generation == follower.generation == changes[0].generation + 1
    follower.close()


# Another process that follows for a moment and ends, which makes SQLite tidy up if nobody else is there.
PASSER_BY = """
import sys
from runicornfs.catalog.catalog import Catalog
catalog = Catalog.follow(sys.argv[1])
print(catalog.generation)
catalog.close()
"""


def passes_by(path: Path) -> int:
    """Which generation another process sees, that then ends."""
    command = [sys.executable, "-c", PASSER_BY, str(path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout)


def test_who_came_to_write_is_not_overlooked_by_those_who_follow(tmp_path: Path) -> None:
    """Its locks were lost when it took over, so the first follower that ended removed the log it was writing."""
    path = tmp_path / "index.db"
    Catalog.open(path).close()
    heir = Catalog.follow(path)
    heir.own()
    apply(heir, plain_file(LOG, 1))
    assert passes_by(path) == heir.generation
    apply(heir, plain_file(LOG, 2, b"2"))
    assert passes_by(path) == heir.generation
    heir.close()

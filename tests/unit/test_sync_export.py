"""The folder `metadata/` that a sync leaves for people."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

import pytest

from runicornfs.sync.export import TEMPORARY, MetadataExport
from tests.disks import fill_up, free, small_disk

DOCUMENTS = {1: b'{"a": 1}', 2: b'{"b": 2}'}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "metadata"


@pytest.fixture
def export(folder: Path) -> MetadataExport:
    return MetadataExport(folder, DOCUMENTS.__getitem__)


def test_artifacts_keep_their_place_and_runs_go_below_experiments(export: MetadataExport, folder: Path) -> None:
    export.begin()
    export.write([("artifacts/model/net/versions.json", 1), ("vision/train/runs/r1/meta.json", 2)])
    assert (folder / "artifacts/model/net/versions.json").read_bytes() == DOCUMENTS[1]
    assert (folder / "experiments/vision/train/runs/r1/meta.json").read_bytes() == DOCUMENTS[2]


def test_what_is_gone_takes_its_empty_folders_along(export: MetadataExport, folder: Path) -> None:
    export.begin()
    export.write([("artifacts/model/net/v1/metadata.json", 1), ("artifacts/model/other/versions.json", 1)])
    export.write([("artifacts/model/net/v1/metadata.json", None)])
    assert not (folder / "artifacts/model/net").exists()
    assert (folder / "artifacts/model/other/versions.json").exists()


def test_an_export_that_was_cut_off_is_known(export: MetadataExport) -> None:
    assert not export.is_complete, "nothing was ever written"
    export.begin()
    assert not export.is_complete
    export.write([])
    assert export.is_complete


def test_an_export_of_an_edit_that_is_cut_off_is_known_too(folder: Path) -> None:
    def killed(document: int) -> bytes:
        raise KeyboardInterrupt

    export = MetadataExport(folder, killed)
    export.begin()
    export.write([])
    assert export.is_complete
    with pytest.raises(KeyboardInterrupt):
        export.write([("artifacts/model/net/versions.json", 1)])
    assert not export.is_complete


def test_what_a_killed_process_had_half_written_goes_when_it_is_written_again(
    export: MetadataExport, folder: Path
) -> None:
    export.begin()
    (folder / "artifacts/model/net").mkdir(parents=True)
    (folder / "artifacts/model/net" / TEMPORARY).write_text("half")
    export.write([("artifacts/model/net/versions.json", 1)])
    assert [path.name for path in (folder / "artifacts/model/net").iterdir()] == ["versions.json"]


def test_files_are_private(export: MetadataExport, folder: Path) -> None:
    export.begin()
    export.write([("artifacts/model/net/versions.json", 1)])
    assert stat.S_IMODE((folder / "artifacts/model/net/versions.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "artifacts").stat().st_mode) & 0o077 == 0


def test_a_file_in_the_way_costs_that_document_only(
    export: MetadataExport, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export.begin()
    (folder / "artifacts").write_text("in the way")
    export.write([("artifacts/model/net/versions.json", 1), ("p/e/runs/r/meta.json", 2)])
    assert (folder / "experiments/p/e/runs/r/meta.json").exists()
    assert "cannot export" in caplog.text


def test_a_full_disk_leaves_it_incomplete_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        export = MetadataExport(disk / "metadata", lambda id: b"x" * 100_000)
        changed = [(f"artifacts/model/net/v{number}/metadata.json", number) for number in range(4)]
        assert export.begin()
        fill_up(disk)
        export.write(changed)
        assert not export.is_complete
        assert caplog.text.count("not completed: No space left") == len(caplog.records) == 1
        assert not list((disk / "metadata").rglob("*.part"))
        free(disk)
        assert export.begin()
        export.write(changed)
        assert export.is_complete


def test_without_room_for_the_marker_what_will_be_out_of_date_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", "1m", "nr_inodes=8") as disk:
        export = MetadataExport(disk / "metadata", lambda id: b"old")
        export.begin()
        export.write([("artifacts/versions.json", 1)])
        for number in range(8):
            with contextlib.suppress(OSError):
                (disk / f"other {number}").touch()
        assert not export.begin()
        assert not export.is_complete
        assert not (disk / "metadata").exists()
        assert "not exported" in caplog.text
        assert export.begin()


def test_no_link_is_written_or_removed_through(
    export: MetadataExport, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "model").mkdir(parents=True)
    (elsewhere / "model" / "versions.json").write_text("somebody's")
    export.begin()
    (folder / "artifacts").symlink_to(elsewhere)
    export.write([("artifacts/model/versions.json", 1), ("artifacts/model/net/versions.json", 1)])
    export.write([("artifacts/model/versions.json", None)])
    assert [path.name for path in sorted(elsewhere.rglob("*"))] == ["model", "versions.json"]
    assert (elsewhere / "model" / "versions.json").read_text() == "somebody's"
    assert "a link stands in the place of a folder" in caplog.text


def test_a_link_in_the_place_of_the_folder_goes_and_what_it_leads_to_stays(
    export: MetadataExport, folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    folder.symlink_to(elsewhere)
    assert not export.is_complete
    export.begin()
    export.write([("artifacts/model/net/versions.json", 1)])
    assert export.is_complete
    export.remove()
    folder.symlink_to(elsewhere)
    export.remove()
    folder.with_name("metadata.removed").symlink_to(elsewhere)
    export.begin()
    export.remove()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "file"]


def test_an_export_that_was_removed_is_not_complete(export: MetadataExport, folder: Path) -> None:
    export.begin()
    export.write([("artifacts/model/net/versions.json", 1)])
    assert export.is_complete
    export.remove()
    assert not export.is_complete
    assert list(folder.parent.iterdir()) == []
    export.remove()  # there is nothing left

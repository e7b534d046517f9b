"""A target folder: nothing outside of it is written, and nothing partial has a final name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.downloads.target import TargetFolder
from runicornfs.errors import Conflict, InvalidInput, Refused
from tests.unit.downloading import files_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a" / "target"


@pytest.fixture
def target(folder: Path) -> Iterator[TargetFolder]:
    with TargetFolder(str(folder), "0123") as target:
        yield target


def put(target: TargetFolder, path: str, data: bytes, overwrite: bool = False) -> None:
    with target.part() as part:
        os.write(part.fd, data)
        part.finish(1_000_000.5)
        target.place(part, path, overwrite)


def test_the_folder_and_those_below_it_are_made(target: TargetFolder, folder: Path) -> None:
    put(target, "b/c/file", b"data")
    assert files_in(folder) == {"b/c/file": b"data"}


def test_a_file_has_the_time_of_the_manifest_and_an_ordinary_mode(target: TargetFolder, folder: Path) -> None:
    before = os.umask(0o027)
    try:
        put(target, "file", b"data")
    finally:
        os.umask(before)
    status = (folder / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o640, 1_000_000.5)


@pytest.mark.parametrize(("private", "folders", "files"), [(True, 0o700, 0o600), (False, 0o777, 0o644)])
def test_what_is_placed_in_the_cache_is_for_the_user_alone(
    tmp_path: Path, private: bool, folders: int, files: int
) -> None:
    before = os.umask(0)
    try:
        with TargetFolder(str(tmp_path / "a" / "b"), "0123", private) as target:
            put(target, "c/file", b"data")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (folders if path.is_dir() else files), path


def test_what_is_being_written_is_private_and_has_a_name_of_its_own(target: TargetFolder, folder: Path) -> None:
    with target.part() as part:
        os.write(part.fd, b"data")
        (name,) = os.listdir(folder)
        assert name.endswith(".part")
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert os.listdir(folder) == []


def test_a_relative_folder_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be an absolute path"):
        TargetFolder("a/b", "0123")


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Conflict, match="not a folder"):
            TargetFolder(str(path), "0123")


def test_a_folder_that_cannot_be_made_is_said() -> None:
    with pytest.raises(Refused, match="/proc/nowhere cannot be made"):
        TargetFolder("/proc/nowhere", "0123")


@pytest.mark.promise("D2")
def test_no_link_below_the_folder_is_followed(target: TargetFolder, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    with pytest.raises(Conflict, match="is no folder"):
        put(target, "link/file", b"data", overwrite=True)
    with pytest.raises(Conflict, match="is no folder"):
        target.status("link/file")
    assert os.listdir(outside) == []


def test_a_folder_that_becomes_a_link_while_a_file_is_written_is_not_followed(
    target: TargetFolder, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    put(target, "b/first", b"data")
    with target.part() as part:
        part.finish(None)
        (folder / "b").rename(folder / "moved")
        (folder / "b").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(Conflict, match="nothing is written through it"):
            target.place(part, "b/second", overwrite=True)
    with pytest.raises(Conflict):
        target.remove("b/first")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(
    target: TargetFolder, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "file").symlink_to(secret)
    with pytest.raises(Conflict, match="not overwritten"):
        put(target, "file", b"data")
    put(target, "file", b"data", overwrite=True)
    assert (secret.read_bytes(), (folder / "file").is_symlink()) == (b"secret", False)


def test_a_folder_in_the_place_of_a_file_stays(target: TargetFolder, folder: Path) -> None:
    (folder / "file").mkdir()
    with pytest.raises(Conflict, match="is a folder"):
        put(target, "file", b"data", overwrite=True)


def test_names_of_odd_bytes_are_taken(target: TargetFolder, folder: Path) -> None:
    path = os.fsdecode(b"d\xff/\n \xfe")
    put(target, path, b"data")
    assert os.listdir(os.fsencode(folder) + b"/d\xff") == [b"\n \xfe"]


def test_only_what_this_task_left_is_cleaned_up(target: TargetFolder, folder: Path) -> None:
    left, others = [".runicornfs-0123-aa.part"], [".runicornfs-4567-aa.part", "mine.part"]
    for name in (*left, *others):
        (folder / name).touch()
    target.clean()
    assert sorted(os.listdir(folder)) == sorted(others)


def test_folders_that_become_empty_go_with_their_last_file(target: TargetFolder, folder: Path) -> None:
    put(target, "a/b/file", b"data")
    put(target, "a/other", b"data")
    target.remove("a/b/file")
    assert files_in(folder) == {"a/other": b"data"}
    assert os.listdir(folder / "a") == ["other"]


def test_no_descriptor_is_left_behind(target: TargetFolder, folder: Path) -> None:
    (folder / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    for path in ("file/below", "none/below", "file"):
        try:
            put(target, path, b"data")
        except Conflict:
            continue
    assert len(os.listdir("/proc/self/fd")) == before

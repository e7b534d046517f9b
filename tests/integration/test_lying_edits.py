"""Edits of artifacts in which links, pipes and folders lie in the places of the records: nothing beyond is changed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import RunicornFSError
from runicornfs.manage.editors import Editor, LocalEditor, ServerEditor
from runicornfs.store import edits
from tests.remotes import server_at

NET = "artifacts/model/net"
SET_ALIAS = {"action": edits.SET_ALIAS, "version": 1, "alias": "best"}
ADD_TAGS = {"action": edits.ADD_TAGS, "version": 1, "tags": ["good"]}
DELETE = {"action": edits.DELETE, "version": 1}
FOR_GOOD = {"action": edits.DELETE_FOR_GOOD, "version": 1}


@pytest.fixture(scope="module")
def sftp_only() -> Iterator[PrivateSshd]:
    with PrivateSshd(config_lines=["ForceCommand internal-sftp"]) as sshd:
        yield sshd


@pytest.fixture(params=["helper", "sftp", "local"])
def editor(
    request: pytest.FixtureRequest, sshd: PrivateSshd, sftp_only: PrivateSshd, store_writer: StoreWriter
) -> Iterator[Editor]:
    store_writer.add_version("model", "net", {"w.bin": b"one"})
    store_writer.add_version("model", "net", {"w.bin": b"two"})
    if request.param == "local":
        yield LocalEditor(str(store_writer.root))
        return
    with server_at(sshd if request.param == "helper" else sftp_only, store_writer.root) as server:
        yield ServerEditor(server)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, and every link as what it says."""
    return {
        str(path.relative_to(folder)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def outside_of(path: Path, tmp_path: Path) -> Path:
    """Moves what is at `path` out of the store and leaves a link to it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move(path, outside / path.name)
    path.symlink_to(outside / path.name)
    return outside


@pytest.mark.promise("S6")
@pytest.mark.parametrize(
    ("place", "edit"),
    [
        ("versions.json", SET_ALIAS),
        ("versions.json", FOR_GOOD),
        (".lock", SET_ALIAS),
        ("v1/metadata.json", ADD_TAGS),
        ("v1", ADD_TAGS),
        ("v1", DELETE),
        ("v1", FOR_GOOD),
        ("v1/files", FOR_GOOD),
        ("", SET_ALIAS),
        ("", FOR_GOOD),
    ],
    ids=lambda value: value["action"] if isinstance(value, dict) else value or "the artifact itself",
)
def test_no_edit_reaches_through_a_link(
    place: str, edit: dict[str, object], editor: Editor, store_writer: StoreWriter, tmp_path: Path
) -> None:
    folder = store_writer.folder("model", "net")
    outside = outside_of(folder / place if place else folder, tmp_path)
    before = contents(outside)
    with contextlib.suppress(RunicornFSError):
        editor.edit(NET, edit, [])
        editor.sweep(NET)
    assert contents(outside) == before


@pytest.mark.parametrize("place", ["versions.json", "v1/metadata.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(
    place: str, kind: str, editor: Editor, store_writer: StoreWriter
) -> None:
    path = store_writer.folder("model", "net") / place
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(RunicornFSError, match="no file that could be changed|cannot be read|can read"):
        editor.edit(NET, ADD_TAGS if "metadata" in place else SET_ALIAS, [])
    assert path.is_fifo() or path.is_dir()


@pytest.mark.parametrize("place", [".lock", ".runicornfs-edit.tmp"])
def test_a_pipe_in_the_place_of_our_own_files_holds_nothing_up(
    place: str, editor: Editor, store_writer: StoreWriter
) -> None:
    path = store_writer.folder("model", "net") / place
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    editor.edit(NET, SET_ALIAS, [])
    assert store_writer.index("model", "net")["aliases"]["best"] == 1


def test_folders_that_lie_too_deep_are_left_with_a_sentence(editor: Editor, store_writer: StoreWriter) -> None:
    folder = os.open(store_writer.version_folder("model", "net", 1) / "files", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    editor.edit(NET, FOR_GOOD, [])
    assert not store_writer.version_folder("model", "net", 1).exists()
    with contextlib.suppress(RunicornFSError):
        editor.sweep(NET)
    editor.edit(NET, SET_ALIAS | {"version": 2}, [])
    subprocess.run(["rm", "-rf", store_writer.root], check=True)  # pytest's own way cannot go that deep

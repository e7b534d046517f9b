"""Where a store can be mounted, and how a mount is taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runicornfs.errors import Refused
from runicornfs.mount import mountpoint as mountpoints
from tests.conftest import MountLocal, MountStore
from tests.mounts import PATIENCE_S, Mounted
from tests.waiting import wait_until

MODEL = "artifacts/model/resnet50/v3/files/model.pth"
NAMES = {
    "spaces": "my models",
    "Unicode": "モデル été \U0001f984",
    "backslash and quotes": "a\\040b'\"$HOME",
    "comma": "a,allow_other,b=c",
    "like an option": "-o rw",
    "very long": "x" * 255,
}


def refusal(mounted: Mounted, mountpoint: Path) -> str:
    """Why the store of a mount is not mounted a second time, elsewhere."""
    done = mounted.run(
        "mount", mounted.source, str(mountpoint), "--cache-dir", str(mounted.folder / "other cache"), "--no-api",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def local(mount_local: MountLocal, sample_store: Path) -> Mounted:
    return mount_local(sample_store)


# Folders


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_folder_of_any_name(mount_store: MountStore, sample_store: Path, tmp_path: Path, name: str) -> None:
    mountpoint = tmp_path / "where" / name
    mountpoint.parent.mkdir()
    mounted = mount_store(sample_store, mountpoint=mountpoint)
    assert mountpoints.mounted_type(mountpoint) == mountpoints.FILE_SYSTEM_TYPE
    assert (mountpoint / MODEL).read_bytes() == (sample_store / MODEL).read_bytes()
    mounted.run("umount", "--", str(mountpoint))
    assert mounted.process.wait(PATIENCE_S) == 0
    assert mountpoints.mounted_type(mountpoint) is None


def test_a_folder_that_is_not_there_is_made_and_stays(
    mount_store: MountStore, sample_store: Path, tmp_path: Path
) -> None:
    mounted = mount_store(sample_store, mountpoint=tmp_path / "new")
    assert (tmp_path / "new" / MODEL).exists()
    mounted.stop()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_cannot_be_mounted_on_is_refused_with_the_reason(local: Mounted, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "is not empty: mounting there would hide what is in it" in refusal(local, tmp_path / "full")
    assert "is not a folder" in refusal(local, tmp_path / "full/file")
    assert "is not a folder" in refusal(local, tmp_path / "full/file/below")
    assert f"there is no folder {tmp_path}/no" in refusal(local, tmp_path / "no/folder")
    assert "something is mounted" in refusal(local, local.mountpoint)
    assert "name too long" in refusal(local, tmp_path / ("x" * 256)).lower()


def test_a_folder_inside_of_a_mount_is_refused(local: Mounted) -> None:
    """It is read-only, and has nothing in it that is empty but what the SDK needs."""
    assert "read-only" in refusal(local, local.mountpoint / "new").lower()
    assert "is not empty" in refusal(local, local.mountpoint / "artifacts")


@pytest.mark.parametrize("spelling", ["here", "./here/", "here/.", "here/../here//"])
def test_umount_takes_any_spelling_of_the_folder(mount_local: MountLocal, sample_store: Path, spelling: str) -> None:
    mounted = mount_local(sample_store)
    relative = spelling.replace("here", mounted.mountpoint.name)
    subprocess.run(
        [sys.executable, "-m", "runicornfs", "umount", relative],
        cwd=mounted.mountpoint.parent, env=mounted.environment, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert mounted.process.wait(PATIENCE_S) == 0


def test_a_relative_folder_with_a_slash_at_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert mountpoints.prepare(Path("a/../new folder/")) == tmp_path / "new folder"
    assert (tmp_path / "new folder").is_dir()


def test_links_lead_to_the_folder_that_is_mounted_on(
    mount_local: MountLocal, sample_store: Path, tmp_path: Path
) -> None:
    """One whose home is a link, say: mounted_type names what /proc/self/mounts calls by another name."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "home").symlink_to(tmp_path)
    assert mountpoints.prepare(tmp_path / "link") == tmp_path / "folder"
    assert mountpoints.prepare(tmp_path / "home/link") == tmp_path / "folder"
    mounted = mount_local(sample_store)
    (tmp_path / "to the mount").symlink_to(mounted.mountpoint)
    through = tmp_path / "home" / "to the mount"
    assert mountpoints.mounted_type(through) == mountpoints.FILE_SYSTEM_TYPE
    assert "something is mounted" in refusal(mounted, through)
    mounted.run("umount", str(through))
    assert mounted.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("name", ["two\nlines", "line\u2028separator", "next\x85line", "form\x0cfeed"])
def test_other_mounts_may_have_any_name(tmp_path: Path, name: str) -> None:
    """The list of all mounts is read for every one of ours."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    (tmp_path / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / name], check=True, timeout=PATIENCE_S)
    try:
        assert mountpoints.mounted_type(tmp_path / name) == "tmpfs"
        assert mountpoints.mounted_type(tmp_path) is None
        with pytest.raises(Refused, match="something is mounted"):
            mountpoints.prepare(tmp_path / name)
    finally:
        subprocess.run(["umount", tmp_path / name], check=True, timeout=PATIENCE_S)


# Taking it away


@pytest.mark.parametrize("tool", [["fusermount3", "-u"], ["umount"]], ids=" ".join)
def test_other_tools_unmount_it(local: Mounted, tool: list[str]) -> None:
    if tool == ["umount"] and os.getuid() != 0:
        pytest.skip("umount is root's where fstab does not say otherwise")
    subprocess.run([*tool, local.mountpoint], check=True, timeout=PATIENCE_S)
    assert local.process.wait(PATIENCE_S) == 0


def test_a_mount_in_use_stays_until_it_is_not(local: Mounted) -> None:
    with open(local.mountpoint / MODEL, "rb") as held:
        done = local.run("umount", str(local.mountpoint), check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "is in use" in done.stderr
        assert local.is_mounted()
        assert len(held.read()) == 1_500_000
    local.run("umount", str(local.mountpoint))
    assert local.process.wait(PATIENCE_S) == 0


def test_a_mount_taken_away_lazily_serves_its_last_users(local: Mounted) -> None:
    with open(local.mountpoint / MODEL, "rb") as held:
        subprocess.run(["fusermount3", "-u", "-z", local.mountpoint], check=True, timeout=PATIENCE_S)
        assert not local.is_mounted()
        assert len(held.read()) == 1_500_000
        assert local.process.poll() is None
    assert local.process.wait(PATIENCE_S) == 0


def test_umount_of_a_folder_that_is_no_mount_or_is_not_there(local: Mounted, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", local.mountpoint / "artifacts"):
        done = local.run("umount", str(path), check=False)
        assert (done.returncode, done.stderr) == (1, f"Error: nothing is mounted on {path}\n")


def test_the_folder_can_be_mounted_on_again(mount_store: MountStore, sample_store: Path, tmp_path: Path) -> None:
    for _ in range(2):
        mounted = mount_store(sample_store, mountpoint=tmp_path / "folder")
        wait_until((tmp_path / "folder" / MODEL).exists, "the mount")
        mounted.stop()

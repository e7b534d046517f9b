"""The sample store, which the SDK wrote, through a real sshd and a real mount."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MakeRelay, MountStore
from tests.mounts import Mounted

RESNET = "artifacts/model/resnet50"


def files_below(top: Path) -> set[str]:
    """Relative paths of all files, links not followed and not counted."""
    found = set()
    for here, _, names in os.walk(top):
        found |= {os.path.relpath(os.path.join(here, name), top) for name in names}
    return {path for path in found if not os.path.islink(top / path)}


def expected_files(store: Path) -> set[str]:
    """What of the server's files a mount shows: not its own database and pool, not what is deleted."""
    return {
        path
        for path in files_below(store)
        if not path.startswith((f"{RESNET}/v2/", "artifacts/.dedup/")) and path != "runicorn.db"
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.promise("L1")
def test_every_file_is_there_and_has_the_servers_bytes(mounted: Mounted, sample_store: Path) -> None:
    shown = files_below(mounted.mountpoint)
    assert shown == expected_files(sample_store)
    for path in shown:
        assert (mounted.mountpoint / path).read_bytes() == (sample_store / path).read_bytes(), path


@pytest.mark.promise("L1")
def test_sizes_and_times_are_those_of_the_manifest(mounted: Mounted, sample_store: Path) -> None:
    path = f"{RESNET}/v3/files/model.pth"
    there, here = (sample_store / path).stat(), (mounted.mountpoint / path).stat()
    assert here.st_size == there.st_size
    assert abs(here.st_mtime - there.st_mtime) < 1  # unpacking the archive cut the server's times to seconds


@pytest.mark.promise("L2")
def test_aliases_are_links_next_to_the_versions(mounted: Mounted) -> None:
    folder = mounted.mountpoint / RESNET
    links = {entry.name: os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()}
    assert links == {"latest": "v4", "production": "v3", "stable": "v1"}
    assert (folder / "production/files/model.pth").read_bytes() == (folder / "v3/files/model.pth").read_bytes()


@pytest.mark.promise("L3")
def test_a_soft_deleted_version_is_hidden(mounted: Mounted) -> None:
    assert sorted(os.listdir(mounted.mountpoint / RESNET)) == [
        ".lock", "latest", "production", "stable", "v1", "v3", "v4", "versions.json",
    ]  # fmt: skip


def test_one_name_stands_under_two_types(mounted: Mounted) -> None:
    assert (mounted.mountpoint / "artifacts/config/resnet50/latest/files/train.yaml").is_file()
    assert (mounted.mountpoint / f"{RESNET}/latest/files/model.pth").is_file()


def test_an_artifact_of_references_alone_lists_without_files(mounted: Mounted) -> None:
    version = mounted.mountpoint / "artifacts/custom/imagenet-ref/latest"
    assert sorted(os.listdir(version)) == ["files", "manifest.json", "metadata.json"]
    assert os.listdir(version / "files") == []


def test_the_pool_is_an_empty_folder(mounted: Mounted) -> None:
    assert os.listdir(mounted.mountpoint / "artifacts/.dedup") == []


@pytest.mark.promise("L4")
def test_listing_everything_does_not_touch_the_network(
    mount_store: MountStore, sample_store: Path, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    line = relay(sshd)
    mounted = mount_store(sample_store, port=line.port)
    before = line.stats()
    assert "model.pth" in output("ls", "-lR", mounted.mountpoint)
    assert output("find", mounted.mountpoint, "-size", "+1k")
    assert line.stats() == before


def test_reading_again_does_not_touch_the_network(
    mount_store: MountStore, sample_store: Path, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    line = relay(sshd)
    mounted = mount_store(sample_store, port=line.port)
    model = mounted.mountpoint / f"{RESNET}/v3/files/model.pth"
    first = model.read_bytes()
    before = line.stats()
    assert model.read_bytes() == first
    assert line.stats() == before


@pytest.mark.promise("R1")
def test_the_same_bytes_in_two_versions_are_fetched_once(
    mount_store: MountStore, sample_store: Path, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    line = relay(sshd)
    mounted = mount_store(sample_store, port=line.port)
    v3, v4 = (mounted.mountpoint / f"{RESNET}/{version}/files/model.pth" for version in ("v3", "v4"))
    first = v3.read_bytes()
    before = line.stats()
    assert v4.read_bytes() == first
    assert line.stats() == before


def test_tools_read_it_like_any_folder(mounted: Mounted, sample_store: Path, tmp_path: Path) -> None:
    top, path = mounted.mountpoint, f"{RESNET}/v3"
    assert (
        output("md5sum", top / path / "files/model.pth").split()[0]
        == (output("md5sum", sample_store / path / "files/model.pth").split()[0])
    )
    output("cp", "-r", top / "artifacts/dataset", tmp_path / "copy")
    output("diff", "-r", sample_store / "artifacts/dataset/cifar-mini/v1", tmp_path / "copy/cifar-mini/v1")
    archive = tmp_path / "all.tar"
    output("tar", "cf", archive, "-C", top, "artifacts/dataset")
    (tmp_path / "untarred").mkdir()
    output("tar", "xf", archive, "-C", tmp_path / "untarred")
    output("diff", "-r", tmp_path / "copy", tmp_path / "untarred/artifacts/dataset")


def test_df_and_mount_show_what_it_is(mounted: Mounted, sshd: PrivateSshd, sample_store: Path) -> None:
    head, line = output("df", "-T", mounted.mountpoint).splitlines()
    assert "fuse.runicornfs" in line
    assert str(sample_store) in line
    assert f"on {mounted.mountpoint} type fuse.runicornfs (ro," in output("mount")


def test_statfs_tells_the_size_of_the_store(mounted: Mounted) -> None:
    space = os.statvfs(mounted.mountpoint)
    total = sum((mounted.mountpoint / path).stat().st_size for path in files_below(mounted.mountpoint))
    assert abs(space.f_blocks * space.f_frsize - total) <= 2 * space.f_frsize
    assert space.f_flag & os.ST_RDONLY


@pytest.mark.promise("L6")
def test_du_shows_the_local_share_and_ls_the_real_size(mount_store: MountStore, sample_store: Path) -> None:
    mounted = mount_store(sample_store)
    model = mounted.mountpoint / f"{RESNET}/v3/files/model.pth"
    assert model.stat().st_size == 1_500_000
    assert model.stat().st_blocks == 0
    model.read_bytes()
    mounted.stop()
    again = mount_store(sample_store, "--cache-dir", str(mounted.cache_dir))
    assert (again.mountpoint / f"{RESNET}/v3/files/model.pth").stat().st_blocks * 512 >= 1_500_000


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "new").write_text("x"),
        lambda top: (top / RESNET / "versions.json").write_text("x"),
        lambda top: (top / RESNET / "versions.json").unlink(),
        lambda top: (top / RESNET / "v1").rename(top / RESNET / "v9"),
        lambda top: (top / "folder").mkdir(),
        lambda top: os.truncate(top / RESNET / "v1/files/model.pth", 0),
        lambda top: (top / RESNET / "versions.json").chmod(0o600),
    ],
)
@pytest.mark.promise("L7")
def test_nothing_can_be_changed(mounted: Mounted, change: object) -> None:
    with pytest.raises(OSError, match="Read-only file system"):
        change(mounted.mountpoint)  # type: ignore[operator]


@pytest.mark.promise("L5")
def test_inode_numbers_stay(mount_store: MountStore, sample_store: Path) -> None:
    def numbers(mounted: Mounted) -> dict[str, int]:
        return {path: (mounted.mountpoint / path).stat().st_ino for path in files_below(mounted.mountpoint)}

    first = mount_store(sample_store)
    before = numbers(first)
    assert len(set(before.values())) == len(before)
    first.stop()
    assert numbers(mount_store(sample_store)) == before


def test_modes_and_owner(mount_store: MountStore, sample_store: Path) -> None:
    mounted = mount_store(sample_store, "-o", "uid=1234,gid=4321,umask=027")
    file = (mounted.mountpoint / RESNET / "versions.json").stat()
    assert (file.st_uid, file.st_gid) == (1234, 4321)
    assert stat.S_IMODE(file.st_mode) == 0o440
    assert stat.S_IMODE((mounted.mountpoint / RESNET).stat().st_mode) == 0o550


def test_without_xattr_the_kernel_is_told_once(mounted: Mounted) -> None:
    with pytest.raises(OSError, match="Operation not supported"):
        os.getxattr(mounted.mountpoint / RESNET, "user.runicorn.state")


def test_extended_attributes_tell_what_is_known(mount_store: MountStore, sample_store: Path) -> None:
    mounted = mount_store(sample_store, "-o", "xattr")
    model = mounted.mountpoint / f"{RESNET}/v3/files/model.pth"

    def attribute(name: str) -> str:
        return os.getxattr(model, f"user.runicorn.{name}").decode()

    assert attribute("sha256") == sha256(sample_store / f"{RESNET}/v3/files/model.pth")
    assert (attribute("state"), attribute("cached_bytes")) == ("remote", "0")
    assert (attribute("artifact"), attribute("version"), attribute("aliases")) == ("model/resnet50", "v3", "production")
    model.read_bytes()
    assert (attribute("state"), attribute("cached_bytes")) == ("verified", "1500000")
    assert "user.runicorn.sha256" in os.listxattr(model)
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(model, "user.other")

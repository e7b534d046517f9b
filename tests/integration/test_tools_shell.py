"""The tools of a shell, and Python's own, on the mount: as on any folder, and quick where they only look."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore
from tests.integration.test_mount_lazy import cache
from tests.mounts import PATIENCE_S, Mounted
from tests.stores import replace_record

DATA = "artifacts/dataset/signs"
OLD = 1_500_000_000.25  # July 2017
KIB = 1024


@pytest.fixture
def store(store_writer: StoreWriter) -> StoreWriter:
    """A data set of two versions whose first is of July 2017, with names that tools stumble over."""
    files = {
        "labels.csv": b"folder,meaning\nstop sign,stop\n",
        "train/stop sign/000.png": os.urandom(300_000),
        "train/止まれ/-rf": b"a name like an option\n",
        "train/line\nbreak": b"needle in a file with a newline in its name\n",
        "empty": b"",
    }
    store_writer.add_version("dataset", "signs", files)
    manifest = json.loads((store_writer.version_folder("dataset", "signs", 1) / "manifest.json").read_bytes())
    for entry in manifest["files"]:
        entry["modified_at"] = OLD
        os.utime(store_writer.version_folder("dataset", "signs", 1) / "files" / entry["path"], (OLD, OLD))
    replace_record(store_writer, "dataset", "signs", 1, "manifest.json", manifest)
    store_writer.add_version("dataset", "signs", files | {"labels.csv": b"folder,meaning\nstop sign,halt\n"})
    store_writer.set_alias("dataset", "signs", "first", 1)
    store_writer.add_run("vision", "train", log=["epoch 1", "the needle"], summary={"acc": 0.5})
    return store_writer


@pytest.fixture
def shown(store: StoreWriter, mount_store: MountStore) -> Mounted:
    return mount_store(store.root)


def run(*command: str | Path, status: int = 0) -> str:
    """Standard output of a command that has to end with this status and without a word of complaint."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def fetched(mounted: Mounted) -> int:
    return cache(mounted)["bytes_fetched"]


def assert_same_trees(here: Path, there: Path) -> None:
    """Same names, bytes, and whole seconds of the files' times."""
    names = sorted(path.relative_to(there) for path in there.rglob("*"))
    assert sorted(path.relative_to(here) for path in here.rglob("*")) == names
    for name in names:
        if (there / name).is_file():
            assert filecmp.cmp(here / name, there / name, shallow=False), name
            assert int((here / name).stat().st_mtime) == int((there / name).stat().st_mtime), name


# Looking


def test_find_compares_the_times_of_the_manifest(shown: Mounted, tmp_path: Path) -> None:
    between = tmp_path / "between"
    between.touch()
    os.utime(between, (OLD + 1, OLD + 1))
    files = shown.mountpoint / DATA
    newer = run("find", files / "v1/files", files / "v2/files", "-type", "f", "-newer", between, "-printf", "%P\\0")
    assert "labels.csv" in newer.split("\0")
    assert run("find", files / "v1/files", "-type", "f", "-newer", between) == ""
    assert run("find", files / "v1/files", "-type", "f", "-newermt", "2018-01-01") == ""
    assert run("find", files / "v1/files", "-name", "*.csv", "-mtime", "+3000", "-printf", "%f") == "labels.csv"
    assert run("find", files / "v2/files", "-name", "*.csv", "-mtime", "-1", "-printf", "%f") == "labels.csv"
    assert fetched(shown) == 0


def test_find_counts_what_the_server_has(shown: Mounted, store: StoreWriter) -> None:
    def files(top: Path) -> str:
        listed = run("find", top / DATA / "v1", top / DATA / "v2", "-type", "f", "-printf", "%P %s\\0")
        return "\0".join(sorted(listed.split("\0")))

    assert files(shown.mountpoint) == files(store.root)
    assert run("find", "-L", shown.mountpoint / DATA / "first/", "-name", "empty", "-empty", "-printf", "%f") == "empty"


def test_du_shows_the_local_share_and_its_apparent_size_the_real_one(shown: Mounted) -> None:
    picture = shown.mountpoint / DATA / "v1/files/train/stop sign/000.png"

    def du(*options: str) -> int:
        return int(run("du", *options, "-B1", picture).split()[0])

    assert du("--apparent-size") == 300_000
    assert du() == 0
    picture.read_bytes()
    deadline = time.monotonic() + PATIENCE_S
    while du() < 300_000 and time.monotonic() < deadline:  # it may lag by the time that the kernel keeps attributes
        time.sleep(0.5)
    assert 300_000 <= du() <= 301_000
    assert run("ls", "-l", picture).split()[4] == "300000"


def test_df_tells_the_size_of_the_store_and_the_room_of_the_cache(store: StoreWriter, mount_store: MountStore) -> None:
    mounted = mount_store(store.root, "--cache-size", "8MiB", "--min-free", "0")

    def df(column: str) -> int:
        return int(run("df", f"--output={column}", "-B1", mounted.mountpoint).split()[1])

    listed = run("find", mounted.mountpoint, "-type", "f", "-printf", "%s ")
    total = sum(map(int, listed.split()))
    assert total <= df("size") <= total + 4 * KIB
    assert df("used") == df("size")
    assert df("avail") == 8 * KIB * KIB
    (mounted.mountpoint / DATA / "v1/files/train/stop sign/000.png").read_bytes()
    assert df("avail") <= 8 * KIB * KIB - 300_000 + 4 * KIB


def test_ncdu_exports_what_there_is(shown: Mounted) -> None:
    needs("ncdu")
    _, _, _, tree = json.loads(run("ncdu", "-0", "-o", "-", shown.mountpoint))

    def names(entries: list[object]) -> Iterator[str]:
        for entry in entries:
            item = entry[0] if isinstance(entry, list) else entry
            assert isinstance(item, dict)
            assert "read_error" not in item
            yield item["name"]
            if isinstance(entry, list):
                yield from names(entry[1:])

    found = set(names(tree[1:]))
    assert {"artifacts", "signs", "v1", "v2", "latest", "止まれ", "line\nbreak", "logs.txt"} <= found
    assert fetched(shown) == 0


def test_pathlib_and_glob_find_what_the_server_has(shown: Mounted, store: StoreWriter) -> None:
    top = shown.mountpoint
    assert sorted(path.name for path in top.glob("artifacts/*/*/v*/files/*.csv")) == ["labels.csv", "labels.csv"]
    assert [path.name for path in top.glob("vision/*/runs/*/logs.txt")] == ["logs.txt"]
    here = {path.relative_to(top) for path in (top / DATA / "v1").rglob("*")}
    assert here == {path.relative_to(store.root) for path in (store.root / DATA / "v1").rglob("*")}
    assert (top / DATA / "first").readlink() == Path("v1")
    assert (top / DATA / "first/files/empty").resolve() == top / DATA / "v1/files/empty"
    assert fetched(shown) == 0


# Reading


def test_grep_reads_everything_below_a_folder(shown: Mounted) -> None:
    found = run("grep", "-rlZ", "needle", shown.mountpoint / DATA / "v1", shown.mountpoint / "vision")
    assert sorted(Path(path).name for path in found.split("\0") if path) == ["line\nbreak", "logs.txt"]
    assert run("grep", "-r", "no such words", shown.mountpoint, status=1) == ""


def test_git_tells_how_two_versions_differ(shown: Mounted) -> None:
    needs("git")
    versions = [shown.mountpoint / DATA / version / "files" for version in ("v1", "v2")]
    shown_difference = run("git", "diff", "--no-index", "--stat", *versions, status=1)
    assert "1 file changed, 1 insertion(+), 1 deletion(-)" in shown_difference
    assert run("git", "diff", "--no-index", versions[0], versions[0]) == ""


def test_rsync_copies_once_and_then_finds_nothing_to_do(shown: Mounted, store: StoreWriter, tmp_path: Path) -> None:
    needs("rsync")
    copy = tmp_path / "copy"
    source = f"{shown.mountpoint / DATA}/"
    assert "train/stop sign/000.png" in run("rsync", "-n", "-a", "-i", source, copy)
    assert fetched(shown) == 0
    run("rsync", "-a", source, copy)
    assert run("rsync", "-n", "-a", "-i", source, copy) == ""
    assert run("rsync", "-n", "-a", "-i", "--checksum", source, copy) == ""
    assert_same_trees(copy / "v1", store.root / DATA / "v1")
    assert os.readlink(copy / "first") == "v1"


def test_rsync_finds_the_mount_and_the_server_alike(shown: Mounted, store: StoreWriter) -> None:
    """What somebody copied off the server by hand need not be copied again."""
    needs("rsync")
    files = f"{shown.mountpoint / DATA}/v1/files/"
    changes = run("rsync", "-n", "-r", "-t", "-i", "--omit-dir-times", files, f"{store.root / DATA}/v1/files")
    assert changes == ""
    assert fetched(shown) == 0


@pytest.mark.parametrize("how", ["cp", "copytree"])
def test_a_copy_has_the_servers_bytes_and_times(shown: Mounted, store: StoreWriter, tmp_path: Path, how: str) -> None:
    version = shown.mountpoint / DATA / "v1"
    if how == "cp":
        run("cp", "-a", version, tmp_path / "v1")
    else:
        shutil.copytree(version, tmp_path / "v1", symlinks=True)
    assert_same_trees(tmp_path / "v1", store.root / DATA / "v1")
    assert (tmp_path / "v1/files/labels.csv").stat().st_mtime == OLD


def test_an_archive_has_the_servers_bytes_and_times(shown: Mounted, store: StoreWriter, tmp_path: Path) -> None:
    archive = tmp_path / "signs.tar"
    run("tar", "-C", shown.mountpoint / DATA, "-cf", archive, "v1", "first")
    run("tar", "-C", tmp_path, "-xf", archive)
    assert_same_trees(tmp_path / "v1", store.root / DATA / "v1")
    assert os.readlink(tmp_path / "first") == "v1"
    with tarfile.open(archive) as members:
        picture = members.extractfile("v1/files/train/stop sign/000.png")
        assert picture is not None
        assert picture.read() == (store.root / DATA / "v1/files/train/stop sign/000.png").read_bytes()


def test_a_copy_of_everything_is_a_store(shown: Mounted, store: StoreWriter, tmp_path: Path) -> None:
    """`cp -a` of the mount, and what is in it can be mounted as a local store."""
    run("cp", "-a", shown.mountpoint, tmp_path / "copy")
    assert_same_trees(tmp_path / "copy/vision", store.root / "vision")
    assert os.listdir(tmp_path / "copy/artifacts/.dedup") == []


# Extended attributes


def test_tools_list_and_copy_extended_attributes(store: StoreWriter, mount_store: MountStore, tmp_path: Path) -> None:
    mounted = mount_store(store.root, "-o", "xattr")
    labels = mounted.mountpoint / DATA / "v1/files/labels.csv"
    copies = [tmp_path / "cp", tmp_path / "rsync"]
    run("cp", "--preserve=xattr", labels, copies[0])
    if shutil.which("rsync"):
        run("rsync", "-t", "-X", labels, copies[1])
        assert run("rsync", "-n", "-i", "-t", labels, copies[1]) == ""
    for copy in filter(Path.exists, copies):
        for name in ("artifact", "version", "sha256"):
            attribute = f"user.runicorn.{name}"
            assert os.getxattr(copy, attribute) == os.getxattr(labels, attribute)
    if shutil.which("getfattr"):
        dumped = run("getfattr", "--absolute-names", "-d", labels)
        assert 'user.runicorn.version="v1"\n' in dumped
        assert 'user.runicorn.aliases="first"\n' in dumped
        everything = run("getfattr", "--absolute-names", "-R", "-d", mounted.mountpoint)
        assert 'user.runicorn.artifact="dataset/signs"' in everything


def test_without_the_option_tools_find_no_extended_attributes(shown: Mounted, tmp_path: Path) -> None:
    labels = shown.mountpoint / DATA / "v1/files/labels.csv"
    run("cp", "-a", labels, tmp_path / "copy")
    assert os.listxattr(tmp_path / "copy") == []
    if shutil.which("rsync"):
        run("rsync", "-a", "-X", labels, tmp_path / "synced")

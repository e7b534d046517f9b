"""The disk of the cache is full, read-only or emptied under a mount; what a program and a person see of it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore
from tests.disks import fill_up, free, small_disk
from tests.mounts import PATIENCE_S, Mounted

MIB = 1024 * 1024
NET = "artifacts/model/net"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "12m") as disk:
        yield disk


@pytest.fixture
def contents(store_writer: StoreWriter) -> dict[str, bytes]:
    """The files of a version of four."""
    contents = {f"f{number}.bin": os.urandom(MIB) for number in range(4)}
    store_writer.add_version("model", "net", contents)
    return contents


def file_of(mounted: Mounted, name: str) -> Path:
    return mounted.mountpoint / NET / "v1/files" / name


def served(mounted: Mounted, name: str) -> bytes:
    """What the daemon gives, not what the kernel has kept."""
    with open(file_of(mounted, name), "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return b"".join(iter(lambda: file.read(128 * 1024), b""))


def store_folder(cache_dir: Path) -> Path:
    (folder,) = (path for path in cache_dir.iterdir() if path.is_dir())
    return folder


def refusal_of(mounted: Mounted) -> str:
    """Why a mount did not come to be, which is all that it says."""
    assert mounted.process.wait(PATIENCE_S) == 1
    (line,) = mounted.log().splitlines()
    return line.removeprefix("Error: ")


@pytest.mark.timeout(120)  # it starts ten programs
@pytest.mark.promise("C3")
def test_a_disk_that_others_fill_ends_nothing(
    store_writer: StoreWriter, contents: dict[str, bytes], mount_store: MountStore, disk: Path
) -> None:
    mounted = mount_store(store_writer.root, "--cache-dir", str(disk / "cache"))
    mounted.expect_log("cannot be recorded|not exported|not completed|is made, and cannot be shown|written down")
    assert served(mounted, "f0.bin") == contents["f0.bin"]
    fill_up(disk)
    assert served(mounted, "f0.bin") == contents["f0.bin"]
    assert served(mounted, "f1.bin") == contents["f1.bin"]
    assert "connected" in mounted.run("status").stdout
    mounted.run("cache", "list")
    assert "there is no space left" in mounted.run("get", "net:v1", check=False).stderr
    store_writer.add_version("model", "other", {f"{number}.txt": b"%d" % number for number in range(8000)})
    failed = mounted.run("sync", check=False)
    assert failed.returncode == 1
    assert "the disk is full" in failed.stderr
    assert os.listdir(mounted.mountpoint / "artifacts/model") == ["net"]
    mounted.run("alias", "net:v1", "best")
    free(disk)
    mounted.run("sync")
    assert sorted(os.listdir(mounted.mountpoint / "artifacts/model")) == ["net", "other"]
    assert os.readlink(mounted.mountpoint / NET / "best") == "v1"
    assert served(mounted, "f2.bin") == contents["f2.bin"]
    assert (store_folder(disk / "cache") / "metadata/artifacts/model/other/versions.json").exists()


@pytest.mark.promise("C5")
def test_a_cache_that_is_deleted_under_a_mount_is_not_missed(
    store_writer: StoreWriter, contents: dict[str, bytes], mount_store: MountStore
) -> None:
    mounted = mount_store(store_writer.root)
    mounted.expect_log("cannot be used; it will be fetched again|cannot be recorded")
    for name in ("f0.bin", "f1.bin"):
        assert served(mounted, name) == contents[name]
    with open(file_of(mounted, "f1.bin"), "rb", buffering=0) as opened:
        shutil.rmtree(store_folder(mounted.cache_dir))
        assert opened.read(1000) == contents["f1.bin"][:1000]
        for name, content in contents.items():
            assert served(mounted, name) == content
    store_writer.add_version("model", "other", {"a.txt": b"a"})
    mounted.run("sync")
    listing = subprocess.run(["ls", "-lR", mounted.mountpoint], capture_output=True, text=True, check=True)
    assert "a.txt" in listing.stdout
    assert "connected" in mounted.run("status").stdout
    mounted.stop()
    again = mount_store(store_writer.root, "--cache-dir", str(mounted.cache_dir))
    assert served(again, "f0.bin") == contents["f0.bin"]


@pytest.mark.parametrize("options", [(), ("--offline",)])
def test_a_read_only_cache_is_refused_with_a_sentence(
    store_writer: StoreWriter, contents: dict[str, bytes], mount_store: MountStore, disk: Path, options: tuple[str, ...]
) -> None:
    first = mount_store(store_writer.root, "--cache-dir", str(disk / "cache"))
    first.stop()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    refused = mount_store(store_writer.root, "--cache-dir", str(disk / "cache"), *options, wait=False)
    assert (
        refusal_of(refused) == f"the cache folder {store_folder(disk / 'cache')} cannot be used: Read-only file system"
    )


@pytest.mark.promise("C11")
def test_an_index_of_a_newer_program_is_refused_with_a_sentence(
    store_writer: StoreWriter, contents: dict[str, bytes], mount_store: MountStore
) -> None:
    first = mount_store(store_writer.root)
    first.stop()
    index = store_folder(first.cache_dir) / "index.db"
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("PRAGMA user_version = 99")
    refused = mount_store(store_writer.root, "--cache-dir", str(first.cache_dir), wait=False)
    assert refusal_of(refused).startswith(f"{index} was written by a newer runicornfs (schema 99,")


@pytest.mark.promise("C1")
def test_a_cache_may_be_a_link_to_another_disk_whose_free_room_counts(
    store_writer: StoreWriter, contents: dict[str, bytes], mount_store: MountStore, disk: Path, tmp_path: Path
) -> None:
    (disk / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(disk / "real")
    mounted = mount_store(store_writer.root, "--cache-dir", str(link))
    assert served(mounted, "f0.bin") == contents["f0.bin"]
    assert (store_folder(disk / "real") / "index.db").exists()
    mounted.stop()
    greedy = mount_store(store_writer.root, "--cache-dir", str(link), "--min-free", "1GiB")
    with pytest.raises(OSError, match="No space left"):
        served(greedy, "f1.bin")
    assert (greedy.mountpoint / NET / "versions.json").read_bytes()


@pytest.mark.promise("C1")
def test_a_large_read_past_the_kernels_pages_fits_through_the_smallest_cache(
    store_writer: StoreWriter, mount_store: MountStore
) -> None:
    content = os.urandom(6 * MIB)
    store_writer.add_version("model", "net", {"a.bin": content})
    mounted = mount_store(store_writer.root, "--cache-size", "1MiB")
    read = ["dd", f"if={file_of(mounted, 'a.bin')}", "bs=1M", "iflag=direct", "status=none"]
    assert subprocess.run(read, capture_output=True, check=True, timeout=PATIENCE_S).stdout == content

"""Downloads while the line breaks, the process is killed, the disk is full and the server's bytes are wrong."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.cacheverifier import recorded_bytes
from tests.conftest import MakeRelay, MountStore
from tests.downloads import DownloadApi
from tests.waiting import wait_until

MIB = 1 << 20
LOST = "the connection to 127.0.0.1 "


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False, capture_output=True)
    if mount.returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.promise("D3")
def test_a_line_that_is_cut_in_the_middle_does_not_end_it(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    content = os.urandom(24 * MIB)
    store_writer.add_version("model", "net", {"a.bin": content})
    line = relay(sshd)
    mounted = mount_store(store_writer.root, port=line.port)
    mounted.expect_log(LOST)
    before = line.stats().down
    line.drop_after(8 * MIB)
    api = DownloadApi(mounted)
    done = api.ended(api.start("net/v1")["task_id"])
    assert (done["status"], done["error"]) == ("completed", None)
    assert (Path(done["target_dir"]) / "a.bin").read_bytes() == content
    assert line.stats().down - before < 24 * MIB + 12 * MIB


def test_a_line_that_is_cut_amid_many_small_files_does_not_end_it(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    files = {f"{number}.bin": os.urandom(50_000) for number in range(200)}
    store_writer.add_version("model", "net", files)
    line = relay(sshd)
    mounted = mount_store(store_writer.root, port=line.port)
    mounted.expect_log(LOST)
    before = line.stats().down
    line.drop_after(5 * MIB)
    api = DownloadApi(mounted)
    done = api.ended(api.start("net/v1")["task_id"])
    assert (done["status"], done["error"]) == ("completed", None)
    target = Path(done["target_dir"])
    assert {name: (target / name).read_bytes() for name in files} == files
    assert line.stats().connections >= 2
    assert line.stats().down - before < 10_000_000 + 4 * MIB


@pytest.mark.promise("D3")
def test_a_server_that_is_away_for_a_while_is_waited_for(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    content = os.urandom(16 * MIB)
    store_writer.add_version("model", "net", {"a.bin": content})
    line = relay(sshd, mbit=200)
    mounted = mount_store(store_writer.root, port=line.port)
    mounted.expect_log(LOST)
    api = DownloadApi(mounted)
    task = api.start("net/v1")["task_id"]
    wait_until(lambda: api.status(task)["downloaded_bytes"] > MIB, "some of it")
    line.refuse()
    wait_until(lambda: api.status(task)["waiting"], "the download to notice")
    assert (api.status(task)["status"], api.status(task)["error"]) == ("running", None)
    line.accept()
    done = api.ended(task)
    assert (done["status"], done["waiting"]) == ("completed", None)
    assert (Path(done["target_dir"]) / "a.bin").read_bytes() == content


@pytest.mark.promise("D3")
def test_a_daemon_that_is_killed_goes_on_when_it_starts_again(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    content = os.urandom(32 * MIB)
    store_writer.add_version("model", "net", {"small.bin": b"small", "large.bin": content})
    line = relay(sshd, mbit=200)
    first = mount_store(store_writer.root, port=line.port)
    api = DownloadApi(first)
    task, queued = api.start("net/v1")["task_id"], api.start("net/v1", target_dir=str(first.folder / "mine"))["task_id"]
    folder = Path(api.status(task)["target_dir"])
    wait_until((folder / "small.bin").exists, "the small file")
    inode = (folder / "small.bin").stat().st_ino
    (cache,) = first.cache_dir.iterdir()
    wait_until(lambda: recorded_bytes(cache) > 16 * MIB, "half of it")
    first.kill()
    assert [path.name for path in folder.iterdir() if path.suffix != ".part"] == ["small.bin"]
    assert any(folder.glob(".*.part"))
    before = line.stats().down
    again = mount_store(store_writer.root, "--cache-dir", str(first.cache_dir), port=line.port)
    api = DownloadApi(again)
    for entry in (api.ended(task), api.ended(queued)):
        assert (entry["status"], entry["error"]) == ("completed", None)
        assert (Path(entry["target_dir"]) / "large.bin").read_bytes() == content
        assert sorted(os.listdir(entry["target_dir"])) == ["large.bin", "small.bin"]
    assert (folder / "small.bin").stat().st_ino == inode
    assert line.stats().down - before < 24 * MIB, "the first half was in the cache"


def test_a_daemon_that_ends_in_the_middle_goes_on_when_it_starts_again(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    content = os.urandom(16 * MIB)
    store_writer.add_version("model", "net", {"a.bin": content})
    line = relay(sshd, mbit=80)
    first = mount_store(store_writer.root, port=line.port)
    api = DownloadApi(first)
    task = api.start("net/v1")["task_id"]
    wait_until(lambda: api.status(task)["downloaded_bytes"] > 2 * MIB, "some of it")
    folder = Path(api.status(task)["target_dir"])
    first.stop()
    assert os.listdir(folder) == []
    again = mount_store(store_writer.root, "--cache-dir", str(first.cache_dir), port=line.port)
    assert DownloadApi(again).ended(task)["status"] == "completed"
    assert (folder / "a.bin").read_bytes() == content


def test_a_target_without_room_is_said_with_the_numbers(
    store_writer: StoreWriter, mount_store: MountStore, small_disk: Path
) -> None:
    store_writer.add_version("model", "net", {"a.bin": os.urandom(6 * MIB)})
    mounted = mount_store(store_writer.root)
    api = DownloadApi(mounted)
    done = api.ended(api.start("net/v1", target_dir=str(small_disk / "net"))["task_id"])
    assert done["status"] == "failed"
    assert done["error"].startswith("Download failed: there is no space left")
    assert str(6 * MIB) in done["error"]
    assert os.listdir(small_disk / "net") == []


def test_a_target_that_becomes_full_fails_it_and_leaves_the_cache_usable(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay, small_disk: Path
) -> None:
    content = os.urandom(3 * MIB)
    store_writer.add_version("model", "net", {"a.bin": content})
    line = relay(sshd, mbit=16)
    mounted = mount_store(store_writer.root, port=line.port)
    api = DownloadApi(mounted)
    task = api.start("net/v1", target_dir=str(small_disk / "net"))["task_id"]
    wait_until(lambda: api.status(task)["downloaded_bytes"] > 0, "it to begin")
    fill_up(small_disk)
    done = api.ended(task)
    assert done["status"] == "failed"
    assert "bytes are still needed and" in done["error"]
    assert os.listdir(small_disk / "net") == []
    assert (mounted.mountpoint / "artifacts/model/net/v1/files/a.bin").read_bytes() == content
    assert api.ended(api.start("net/v1")["task_id"])["status"] == "completed"


def fill_up(disk: Path) -> None:
    with contextlib.suppress(OSError), open(disk / "other", "wb", buffering=0) as other:
        while True:
            other.write(bytes(65536))


@pytest.mark.promise("D1")
def test_bytes_that_do_not_match_fail_it_and_name_the_file(store_writer: StoreWriter, mount_store: MountStore) -> None:
    content = os.urandom(2 * MIB)
    store_writer.add_version("model", "net", {"d/a.bin": content})
    there = store_writer.version_folder("model", "net", 1) / "files/d/a.bin"
    mounted = mount_store(store_writer.root)
    mounted.expect_log("sha256")
    there.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    api = DownloadApi(mounted)
    done = api.ended(api.start("net/v1")["task_id"])
    assert (done["status"], done["error"]) == ("failed", "Download failed: checksum mismatch: d/a.bin")
    assert not [path for path in Path(done["target_dir"]).rglob("*") if path.is_file()]
    there.write_bytes(content)
    again = api.ended(api.start("net/v1")["task_id"])
    assert again["status"] == "completed"


def test_a_file_that_the_server_lost_fails_it_and_names_the_file(
    store_writer: StoreWriter, mount_store: MountStore
) -> None:
    store_writer.add_version("model", "net", {"a.bin": os.urandom(MIB)})
    (store_writer.version_folder("model", "net", 1) / "files/a.bin").unlink()
    api = DownloadApi(mount_store(store_writer.root))
    done = api.ended(api.start("net/v1")["task_id"])
    assert done["status"] == "failed"
    assert done["error"].startswith("Download failed: ")
    assert "a.bin" in done["error"]

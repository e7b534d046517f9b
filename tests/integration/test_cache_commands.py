"""What is kept, what stays, what goes: the commands and the API, and what programs that read the mount see of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MountLocal, MountStore
from tests.mounts import Mounted
from tests.terminals import on_terminal
from tests.waiting import wait_until

MIB = 1024 * 1024
# What the sparse files take beyond their bytes: each ends in the middle of a block of the disk.
DISK_BLOCK = 4096


@pytest.fixture
def nets(store_writer: StoreWriter, mount_store: MountStore) -> Mounted:
    """Six models of 4 MiB each, in a cache that holds five of them."""
    for number in range(6):
        store_writer.add_version("model", f"net{number}", {"w.bin": os.urandom(4 * MIB)})
    return mount_store(store_writer.root, "--cache-size", "20MiB")


def weights(mounted: Mounted, number: int) -> Path:
    return mounted.mountpoint / f"artifacts/model/net{number}/v1/files/w.bin"


def digest(path: Path) -> str:
    """Of what the daemon serves, not of what the kernel has kept of it."""
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.sha256(file.read()).hexdigest()


def asked(mounted: Mounted, *command: str) -> Any:
    """The answer of a command that knows --json."""
    return json.loads(mounted.run(*command, "--json").stdout)


def status(mounted: Mounted) -> dict[str, Any]:
    answer: dict[str, Any] = asked(mounted, "cache", "status")
    return answer


def states(mounted: Mounted) -> dict[str, str]:
    """The state of each model of which something is here."""
    return {
        file["where"][0].removeprefix("model/").removesuffix(":v1"): file["state"]
        for file in asked(mounted, "cache", "list")["files"]
    }


def blocks(mounted: Mounted) -> Path:
    (folder,) = mounted.cache_dir.glob("*/content/blocks")
    return folder


def disk_bytes(mounted: Mounted) -> int:
    total = 0
    for entry in os.scandir(blocks(mounted)):
        try:
            total += entry.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # evicted this moment
    return total


def local_share(folder: Path) -> int:
    """What `du` says, of the files alone."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*.bin"))


@contextmanager
def sampled(mounted: Mounted) -> Iterator[list[int]]:
    """What the cache takes on the disk, looked at again and again while the block runs."""
    seen = [disk_bytes(mounted)]
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(disk_bytes(mounted))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


# What is kept


def test_the_list_says_what_is_here_and_where_it_belongs(store_writer: StoreWriter, mount_store: MountStore) -> None:
    store_writer.add_version("model", "net", {"w.bin": b"w" * 3000, "config.json": b"{}"})
    store_writer.add_version("model", "net", {"w.bin": b"w" * 3000})
    run = store_writer.add_run("vision", "train", media={"a.png": b"p" * 2000})
    mounted = mount_store(store_writer.root)
    (mounted.mountpoint / "artifacts/model/net/v2/files/w.bin").read_bytes()
    (there,) = (store_writer.run_folder(run) / "media").iterdir()
    picture = there.relative_to(store_writer.root)
    (mounted.mountpoint / picture).read_bytes()
    files = asked(mounted, "cache", "list", "--sort", "size")["files"]
    assert [(file["size_bytes"], file["cached_bytes"], file["state"], file["where"]) for file in files] == [
        (3000, 3000, "verified", ["model/net:v1", "model/net:v2"]),
        (2000, 2000, "cached", [picture.as_posix()]),
    ]
    assert [file["sha256"] for file in files] == [hashlib.sha256(b"w" * 3000).hexdigest(), None]
    table = mounted.run("cache", "list").stdout.splitlines()
    assert table[0].split() == ["SIZE", "CACHED", "STATE", "PINNED", "USED", "WHERE"]
    assert any("model/net:v1 w.bin (and 1 more)" in line for line in table)
    assert len(mounted.run("cache", "list", "--limit", "1").stdout.splitlines()) == 2
    assert mounted.run("cache").stdout == mounted.run("cache", "status").stdout


# Pins


@pytest.mark.promise("C2")
def test_what_is_pinned_stays_while_everything_else_is_read(nets: Mounted) -> None:
    shown = nets.run("pin", "net0:latest").stdout
    assert "pinned model/net0:v1: 1 files, 0B of 4.0MiB are here" in shown
    assert "prefetch model/net0:v1" in shown
    for number in (0, 1, 2, 3, 4, 5, 1, 2, 3):
        digest(weights(nets, number))
    found = states(nets)
    assert found["net0"] == "verified"
    assert len(found) == 5
    assert status(nets)["size_bytes"] <= 20 * MIB
    pins = asked(nets, "cache", "list")["pins"]
    assert pins == [
        {"artifact": "model/net0:v1", "files": 1, "size_bytes": 4 * MIB, "cached_bytes": 4 * MIB, "in_store": True}
    ]
    assert "model/net0:v1" in nets.run("unpin", "model/net0:1").stdout
    for number in (4, 5, 1, 2, 3):
        digest(weights(nets, number))
    assert "net0" not in states(nets)


@pytest.mark.promise("C3")
def test_a_read_for_which_nothing_may_go_says_that_there_is_no_space(nets: Mounted) -> None:
    for number in range(5):
        nets.run("pin", f"net{number}:v1")
        digest(weights(nets, number))
    with pytest.raises(OSError, match="No space left"):
        weights(nets, 5).read_bytes()
    refused = nets.run("pin", "net5:v1", check=False)
    assert refused.returncode == 1
    assert "at most 20.0MiB, of which 20.0MiB are pinned already" in refused.stderr
    nets.run("unpin", "net2:v1")
    assert digest(weights(nets, 5))
    assert sorted(states(nets)) == ["net0", "net1", "net3", "net4", "net5"]


def test_a_pin_outlives_the_program_and_its_version(
    nets: Mounted, store_writer: StoreWriter, mount_store: MountStore
) -> None:
    nets.run("pin", "net0:v1")
    nets.stop()
    again = mount_store(store_writer.root, "--cache-size", "20MiB", "--cache-dir", str(nets.cache_dir))
    store_writer.soft_delete("model", "net0", 1)
    again.run("sync")
    (pin,) = asked(again, "cache", "list")["pins"]
    assert (pin["artifact"], pin["in_store"]) == ("model/net0:v1", False)
    assert "no longer in the store" in again.run("cache", "list").stdout
    assert again.run("pin", "net0:v1", check=False).returncode == 1
    again.run("unpin", "net0:v1")
    assert asked(again, "cache", "list")["pins"] == []
    assert "is not pinned" in again.run("unpin", "net0:v1", check=False).stderr


def test_a_pin_of_a_name_that_stands_under_several_types_asks_which(mounted: Mounted) -> None:
    refused = mounted.run("pin", "resnet50:v1", check=False)
    assert (refused.returncode, "TYPE/NAME" in refused.stderr) == (1, True)
    mounted.run("pin", "resnet50:v1", "--type", "model")
    mounted.run("pin", "config/resnet50:v1")
    refused = mounted.run("unpin", "resnet50:v1", check=False)
    assert "config, model" in refused.stderr
    mounted.run("unpin", "config/resnet50:v1")
    mounted.run("unpin", "resnet50:v1")


# The limit


@pytest.mark.promise("C1")
def test_the_limit_is_kept_while_many_files_are_read_at_once(
    store_writer: StoreWriter, mount_store: MountStore
) -> None:
    for number in range(16):
        store_writer.add_version("model", f"net{number}", {"w.bin": os.urandom(3 * MIB)})
    mounted = mount_store(store_writer.root, "--cache-size", "12MiB")
    with sampled(mounted) as seen, ThreadPoolExecutor(3) as threads:
        there = [digest(store_writer.root / weights(mounted, n).relative_to(mounted.mountpoint)) for n in range(16)]
        assert list(threads.map(lambda n: digest(weights(mounted, n)), range(16))) == there
    assert len(seen) > 10
    assert max(seen) <= 12 * MIB + 16 * DISK_BLOCK


def test_a_smaller_cache_is_kept_after_a_restart(
    nets: Mounted, store_writer: StoreWriter, mount_store: MountStore
) -> None:
    for number in range(5):
        digest(weights(nets, number))
    nets.stop()
    again = mount_store(store_writer.root, "--cache-size", "9MiB", "--cache-dir", str(nets.cache_dir))
    wait_until(lambda: status(again)["size_bytes"] <= 9 * MIB, "the limit to be kept")
    assert sorted(states(again)) == ["net3", "net4"], "what was used last"
    assert disk_bytes(nets) == 8 * MIB
    assert again.run("cache", "cleanup").stdout == "0 files removed, 0B freed\n"


# Clearing


def test_a_clear_is_seen_at_once(nets: Mounted) -> None:
    for number in range(3):
        digest(weights(nets, number))
    (folder,) = nets.cache_dir.glob("*_*")
    assert (folder / "metadata/artifacts/model/net0/versions.json").exists()
    assert "3 files removed, 12.0MiB freed" in nets.run("cache", "clear", "--yes").stdout
    assert status(nets)["size_bytes"] == disk_bytes(nets) == 0
    assert asked(nets, "cache", "list")["files"] == []
    wait_until(lambda: local_share(nets.mountpoint) == 0, "the attributes that the kernel kept to be asked for again")
    wait_until((folder / "metadata/artifacts/model/net0/versions.json").exists, "the export to be written anew")
    assert digest(weights(nets, 0))
    assert status(nets)["size_bytes"] == 4 * MIB


@pytest.mark.promise("R6")
def test_an_open_file_goes_on_through_a_clear(nets: Mounted, store_writer: StoreWriter) -> None:
    path = weights(nets, 0)
    content = (store_writer.root / path.relative_to(nets.mountpoint)).read_bytes()
    with open(path, "rb", buffering=0) as file:
        assert file.read(MIB) == content[:MIB]
        said = nets.run("cache", "clear", "--yes").stdout
        assert "in use and go when they are closed" in said
        assert status(nets)["size_bytes"] > 0
        assert b"".join(iter(lambda: file.read(MIB), b"")) == content[MIB:]
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # not from the kernel's pages
        assert os.pread(file.fileno(), MIB, 0) == content[:MIB]
    wait_until(lambda: status(nets)["size_bytes"] == 0, "the closed file to go")
    assert disk_bytes(nets) == 0


def test_the_tree_is_never_empty_while_it_is_read_again(nets: Mounted) -> None:
    artifacts = nets.mountpoint / "artifacts/model"
    whole = sorted(os.listdir(artifacts))
    done = threading.Event()
    seen: list[list[str]] = []

    def look() -> None:
        while not done.is_set():
            seen.append(sorted(os.listdir(artifacts)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(3):
            nets.run("cache", "clear", "--yes")
        wait_until(lambda: asked(nets, "status")["sync_progress"]["status"] == "completed", "the last sync")
    finally:
        done.set()
        watcher.join()
    assert seen
    assert all(names == whole for names in seen)


def test_a_clear_asks_on_a_terminal_and_refuses_where_nobody_can_be_asked(nets: Mounted) -> None:
    digest(weights(nets, 0))
    refused = nets.run("cache", "clear", check=False)
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    command = [sys.executable, "-m", "runicornfs", "cache", "clear"]
    for answer, expected in (b"n\r", 4 * MIB), (b"y\r", 0):
        with on_terminal(command, nets.environment) as terminal:
            terminal.read_until(b"[y/N]")
            terminal.type(answer)
            terminal.wait()
        assert status(nets)["size_bytes"] == expected


def test_without_the_server_a_clear_is_refused_unless_it_is_forced(
    store_writer: StoreWriter, own_sshd: PrivateSshd, mount_store: MountStore
) -> None:
    store_writer.add_version("model", "net", {"w.bin": b"w" * MIB})
    mounted = mount_store(store_writer.root, sshd=own_sshd)
    mounted.expect_log("the connection to .* (was lost|is back)")
    (mounted.mountpoint / "artifacts/model/net/v1/files/w.bin").read_bytes()
    own_sshd.stop()
    wait_until(lambda: not asked(mounted, "status")["connected"], "the loss to be noticed")
    with httpx.Client(base_url=mounted.api, trust_env=False) as client:
        refused = client.post("/api/remote/cache/clear")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert mounted.run("cache", "clear", "--yes", check=False).returncode == 1
    assert status(mounted)["size_bytes"] == MIB
    assert (mounted.mountpoint / "artifacts/model/net").exists()
    mounted.run("cache", "clear", "--yes", "--force")
    wait_until(lambda: os.listdir(mounted.mountpoint) == [], "the tree to be empty")
    assert status(mounted)["size_bytes"] == 0
    own_sshd.start()
    wait_until(lambda: asked(mounted, "status")["connected"], "the connection to come back")
    mounted.run("sync")
    assert (mounted.mountpoint / "artifacts/model/net/v1/files/w.bin").read_bytes() == b"w" * MIB


def test_a_cache_outlives_a_daemon_that_is_killed_while_it_is_cleared(
    nets: Mounted, store_writer: StoreWriter, mount_store: MountStore
) -> None:
    for number in range(5):
        digest(weights(nets, number))
    clearing = threading.Thread(target=nets.run, args=("cache", "clear", "--yes"), kwargs={"check": False})
    clearing.start()
    wait_until(lambda: len(os.listdir(blocks(nets))) < 5, "the clear to be under way")
    nets.kill()
    clearing.join()
    again = mount_store(
        store_writer.root, "--cache-size", "20MiB", "--cache-dir", str(nets.cache_dir), mountpoint=nets.mountpoint
    )
    again.expect_log("will be fetched again")  # gone, and the record of that had not been written
    for number in range(5):
        assert digest(weights(again, number)) == digest(
            store_writer.root / f"artifacts/model/net{number}/v1/files/w.bin"
        )
    assert status(again)["size_bytes"] == disk_bytes(nets) == 20 * MIB


# Verifying


def rot(mounted: Mounted, content: bytes) -> None:
    """One byte of this content changes on the disk."""
    for file in blocks(mounted).iterdir():
        if file.read_bytes() == content:
            with file.open("r+b") as stored:
                stored.seek(len(content) // 2)
                stored.write(bytes([content[len(content) // 2] ^ 1]))
            return
    pytest.fail("the content is not cached")


def test_what_is_sound_is_said_to_be(nets: Mounted) -> None:
    for number in range(3):
        digest(weights(nets, number))
    assert nets.run("cache", "verify").stdout == "3 files checked (12.0MiB): all match\n"
    assert status(nets)["verify"]["status"] == "completed"


@pytest.mark.promise("C6")
def test_what_has_rotted_is_an_error_for_its_reader_and_right_for_the_next(
    nets: Mounted, store_writer: StoreWriter
) -> None:
    path = weights(nets, 0)
    content = (store_writer.root / path.relative_to(nets.mountpoint)).read_bytes()
    digest(weights(nets, 1))
    with open(path, "rb", buffering=0) as file:
        assert file.read(len(content)) == content[: len(content)]
        rot(nets, content)
        nets.expect_log("do not have the sha256")
        found = nets.run("cache", "verify", check=False)
        assert found.returncode == 1
        assert "2 files checked (8.0MiB): 1 did not match" in found.stderr

        def read_again() -> bool:
            try:
                assert os.pread(file.fileno(), len(content), 0) == content[: len(content)], "pages of the kernel"
                return False
            except OSError:
                return True

        wait_until(read_again, "the kernel's pages to be dropped")
    assert path.read_bytes() == content
    assert status(nets)["mismatches"] == 1
    assert nets.run("cache", "verify").returncode == 0


# The API


def test_the_api_answers_as_described(nets: Mounted) -> None:
    digest(weights(nets, 0))
    with httpx.Client(base_url=nets.api, trust_env=False) as api:
        assert api.get("/api/remote/cache").json()["verify"]["status"] == "idle"
        pinned = api.post("/api/remote/cache/pins", json={"artifact": "net0:v1"}).json()
        assert (pinned["ok"], pinned["artifact"]) == (True, "model/net0:v1")
        assert api.get("/api/remote/cache/pins").json()["pins"][0]["artifact"] == "model/net0:v1"
        unpinned = api.request("DELETE", "/api/remote/cache/pins", json={"artifact": "net0:v1"})
        assert unpinned.json()["ok"] is True
        assert api.delete("/api/remote/cache/pins", params={"artifact": "net0:v1"}).status_code == 404
        listed = api.get("/api/remote/cache/files", params={"sort": "oldest", "limit": 5}).json()["files"]
        assert {"sha256", "path", "size_bytes", "cached_bytes", "state", "pinned", "last_used", "where"} <= set(
            listed[0]
        )
        cleaned = api.post("/api/remote/cache/cleanup").json()
        assert (cleaned["ok"], cleaned["files_removed"], cleaned["freed_bytes"]) == (True, 0, 0)
        assert api.post("/api/remote/cache/verify").json()["verify"]["status"] == "running"
        cleared = api.post("/api/remote/cache/clear", content='{"force": false}').json()
        assert (cleared["ok"], cleared["freed_bytes"]) == (True, 4 * MIB)


def test_the_api_refuses_what_makes_no_sense(nets: Mounted) -> None:
    with httpx.Client(base_url=nets.api, trust_env=False) as api:
        for answer, status_code in [
            (api.get("/api/remote/cache/files", params={"sort": "name"}), 422),
            (api.get("/api/remote/cache/files", params={"limit": "0"}), 422),
            (api.get("/api/remote/cache/files", params={"limit": "all"}), 422),
            (api.post("/api/remote/cache/pins"), 422),
            (api.post("/api/remote/cache/pins", json={"artifact": "net0"}), 422),
            (api.post("/api/remote/cache/pins", json={"artifact": "net0:v9"}), 404),
            (api.post("/api/remote/cache/clear", content=b"[]"), 422),
        ]:
            assert answer.status_code == status_code
            assert answer.json()["detail"]


def test_a_store_of_this_machine_has_nothing_to_pin_or_check(
    mount_local: MountLocal, store_writer: StoreWriter
) -> None:
    store_writer.add_version("model", "net", {"w.bin": b"1"})
    mounted = mount_local(store_writer.root)
    for command in (["pin", "net:v1"], ["cache", "verify"]):
        refused = mounted.run(*command, check=False)
        assert (refused.returncode, "lies on this machine" in refused.stderr) == (1, True)
    assert mounted.run("cache", "clear", "--yes").stdout == "0 files removed, 0B freed\n"
    assert subprocess.check_output(["cat", mounted.mountpoint / "artifacts/model/net/v1/files/w.bin"]) == b"1"


def test_a_second_process_on_the_same_cache_says_and_does_the_same(
    nets: Mounted, store_writer: StoreWriter, mount_store: MountStore
) -> None:
    guest = mount_store(store_writer.root, "--cache-size", "20MiB", "--cache-dir", str(nets.cache_dir))
    digest(weights(nets, 0))
    assert list(states(guest)) == ["net0"]
    guest.run("pin", "net0:v1")
    assert asked(nets, "cache", "list")["pins"][0]["artifact"] == "model/net0:v1"
    assert "all match" in guest.run("cache", "verify").stdout
    with open(weights(guest, 0), "rb", buffering=0) as file:
        start = file.read(MIB)
        assert "4.0MiB are in use" in guest.run("cache", "clear", "--yes").stdout
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), MIB, 0) == start
    wait_until(lambda: status(nets)["size_bytes"] == status(guest)["size_bytes"] == 0, "the closed file to go")

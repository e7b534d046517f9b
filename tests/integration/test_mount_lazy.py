"""Only what is read is fetched, it is fetched once, and the second time is local."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MakeRelay, MountStore
from tests.mounts import Mounted
from tests.stores import add_described_version, add_many_versions, holes

MIB = 1024 * 1024
# A line measured on loopback lets read-ahead grow to its bound, however little was read.
READ_AHEAD_BOUND = 64 * MIB


def cache(mounted: Mounted) -> dict[str, int]:

    answer: dict[str, int] = json.loads(mounted.run("cache", "status", "--json").stdout)
    return answer


def test_a_megabyte_of_a_gigabyte_costs_about_a_megabyte(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    store_writer.add_version("model", "huge", {"w.bin": holes(1024 * MIB)})
    line = relay(sshd)
    mounted = mount_store(store_writer.root, port=line.port)
    before = line.stats().down
    with open(mounted.mountpoint / "artifacts/model/huge/v1/files/w.bin", "rb") as file:
        assert file.read(MIB) == bytes(MIB)
    assert cache(mounted)["bytes_fetched"] <= MIB + 4 * MIB
    assert line.stats().down - before <= 6 * MIB


def test_random_reads_fetch_their_blocks_alone(store_writer: StoreWriter, mount_store: MountStore) -> None:
    store_writer.add_version("model", "huge", {"w.bin": holes(256 * MIB)})
    mounted = mount_store(store_writer.root)
    with open(mounted.mountpoint / "artifacts/model/huge/v1/files/w.bin", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # the kernel would read ahead by itself
        for offset in range(200 * MIB, 0, -20 * MIB):
            assert os.pread(file.fileno(), 4096, offset) == bytes(4096)
    assert cache(mounted)["bytes_fetched"] <= 10 * 2 * 128 * 1024


def test_sync_and_listing_fetch_no_content(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    """By counting what came down the line: 40 MB lie in files/ and media/, and none of them is random by chance."""
    store_writer.add_version("model", "net", {"w.bin": os.urandom(30 * MIB)})
    store_writer.add_run("vision", "train", summary={"a": 1}, media={"a.png": os.urandom(10 * MIB)})
    line = relay(sshd)
    mounted = mount_store(store_writer.root, port=line.port)
    subprocess.run(["ls", "-lR", mounted.mountpoint], check=True, stdout=subprocess.DEVNULL)
    mounted.run("sync")
    mounted.run("sync", "--full")
    assert line.stats().down < 100_000
    assert cache(mounted)["bytes_fetched"] == 0


def test_a_restart_finds_what_was_fetched(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    content = os.urandom(8 * MIB)
    store_writer.add_version("model", "net", {"w.bin": content})
    line = relay(sshd)
    first = mount_store(store_writer.root, port=line.port)
    path = "artifacts/model/net/v1/files/w.bin"
    assert (first.mountpoint / path).read_bytes() == content
    first.stop()
    again = mount_store(store_writer.root, "--cache-dir", str(first.cache_dir), port=line.port)
    before = line.stats()
    assert (again.mountpoint / path).read_bytes() == content
    assert line.stats() == before
    assert cache(again)["verified_files"] == 1


@pytest.mark.promise("C7")
def test_a_cache_that_was_deleted_between_two_mounts_is_made_anew(
    store_writer: StoreWriter, mount_store: MountStore, tmp_path: Path
) -> None:
    store_writer.add_version("model", "net", {"w.bin": b"weights" * 1000})
    for _ in range(2):
        mounted = mount_store(store_writer.root, "--cache-dir", str(tmp_path / "everything"))
        assert (mounted.mountpoint / "artifacts/model/net/v1/files/w.bin").read_bytes() == b"weights" * 1000
        assert cache(mounted)["bytes_fetched"] == 7000
        mounted.close()
        shutil.rmtree(tmp_path / "everything")


@pytest.mark.promise("R9")
def test_eight_readers_of_one_file_fetch_it_once(store_writer: StoreWriter, mount_store: MountStore) -> None:
    content = os.urandom(16 * MIB)
    store_writer.add_version("model", "net", {"w.bin": content})
    mounted = mount_store(store_writer.root)
    path = mounted.mountpoint / "artifacts/model/net/v1/files/w.bin"
    seen: list[bytes] = []
    readers = [threading.Thread(target=lambda: seen.append(path.read_bytes())) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert all(bytes_ == content for bytes_ in seen)
    assert len(seen) == 8
    assert cache(mounted)["bytes_fetched"] == len(content)


@pytest.mark.promise("C1")
def test_the_cache_keeps_its_limit(store_writer: StoreWriter, mount_store: MountStore) -> None:
    for number in range(4):
        store_writer.add_version("model", f"net{number}", {"w.bin": os.urandom(8 * MIB)})
    mounted = mount_store(store_writer.root, "--cache-size", "20MiB")
    for number in range(4):
        path = f"artifacts/model/net{number}/v1/files/w.bin"
        assert (mounted.mountpoint / path).read_bytes() == (store_writer.root / path).read_bytes()
        assert cache(mounted)["size_bytes"] <= 20 * MIB
    (content,) = mounted.cache_dir.glob("*/content")
    used = sum(file.stat().st_blocks * 512 for file in content.rglob("*") if file.is_file())
    assert used <= 21 * MIB
    assert cache(mounted)["evictions"] >= 2


def test_a_file_larger_than_the_cache_streams_past_it(store_writer: StoreWriter, mount_store: MountStore) -> None:
    content = os.urandom(40 * MIB)
    store_writer.add_version("model", "net", {"w.bin": content})
    mounted = mount_store(store_writer.root, "--cache-size", "16MiB")
    path = mounted.mountpoint / "artifacts/model/net/v1/files/w.bin"
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert cache(mounted)["size_bytes"] <= 16 * MIB


def test_find_goes_on_while_a_file_is_read_at_full_speed(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    """At 200 Mbit/s the file takes several seconds; `find` starts after and ends before it."""
    store_writer.add_version("model", "net", {"w.bin": os.urandom(64 * MIB)})
    store_writer.add_version("dataset", "many", {f"{n % 20}/{n}": b"%d" % n for n in range(1000)})
    line = relay(sshd, mbit=200)
    mounted = mount_store(store_writer.root, port=line.port)
    path = mounted.mountpoint / "artifacts/model/net/v1/files/w.bin"
    with subprocess.Popen(["sha256sum", path], stdout=subprocess.PIPE, text=True) as reader:
        found = subprocess.run(
            ["find", mounted.mountpoint, "-type", "f", "-size", "+0"], check=True, capture_output=True, text=True
        )
        assert len(found.stdout.splitlines()) > 1000
        assert reader.poll() is None, "the reader was still at work"
        assert reader.stdout is not None
        there = store_writer.root / path.relative_to(mounted.mountpoint)
        assert reader.stdout.read().split()[0] == hashlib.sha256(there.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_thousand_files_and_a_manifest_of_a_hundred_thousand(
    store_writer: StoreWriter, mount_store: MountStore
) -> None:
    add_many_versions(store_writer, versions=100, files=200)
    add_described_version(
        store_writer, "dataset", "wide", {f"{n // 1000:03}/{n:06}.bin": 1000 + n % 7 for n in range(100_000)}
    )
    mounted = mount_store(store_writer.root)
    many = subprocess.run(
        ["find", mounted.mountpoint / "artifacts/dataset/many", "-type", "f", "-path", "*/files/*"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert len(many.stdout.splitlines()) == 20_000
    wide = mounted.mountpoint / "artifacts/dataset/wide/v1/files"
    assert len(os.listdir(wide)) == 100
    assert len(os.listdir(wide / "042")) == 1000
    assert (wide / "042/042007.bin").stat().st_size == 1000 + 42007 % 7
    assert resident_bytes(mounted.process.pid) < 400 * MIB


def resident_bytes(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(f"most that was resident: {line}", file=sys.stderr)
    return int(line.split()[1]) * 1024

"""Two mounts of one store: one process owns the cache folder, the other works through it and takes its place."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MakeRelay, MountLocal, MountStore
from tests.mounts import PATIENCE_S, Mounted
from tests.waiting import wait_until

MiB = 1 << 20
BIG = "artifacts/model/big/v1/files/weights.bin"
LINE_GONE = r"the connection to .* (was lost|is back)"


def ask(mounted: Mounted, path: str) -> Any:
    with httpx.Client(base_url=mounted.api, trust_env=False) as client:
        return client.get(path).raise_for_status().json()


@pytest.fixture
def weights(store_writer: StoreWriter) -> bytes:
    content = os.urandom(24 * MiB)
    store_writer.add_version("model", "big", {"weights.bin": content})
    return content


@pytest.fixture
def two(mount_store: MountStore, store_writer: StoreWriter, weights: bytes) -> tuple[Mounted, Mounted]:
    """The owner of a cache folder, and a second process that has mounted the same store."""
    owner = mount_store(store_writer.root)
    return owner, mount_store(store_writer.root, "--cache-dir", str(owner.cache_dir))


def test_what_one_has_read_the_other_has(two: tuple[Mounted, Mounted], weights: bytes) -> None:
    owner, guest = two
    assert (guest.mountpoint / BIG).read_bytes() == weights
    fetched = ask(owner, "/api/remote/cache")["bytes_fetched"]
    assert (owner.mountpoint / BIG).read_bytes() == weights
    assert ask(owner, "/api/remote/cache")["bytes_fetched"] == fetched == len(weights)
    assert ask(guest, "/api/remote/cache")["bytes_fetched"] == fetched


def test_both_see_what_a_sync_brings(two: tuple[Mounted, Mounted], store_writer: StoreWriter) -> None:
    for number, mounted in enumerate(two, start=2):
        store_writer.add_version("model", "big", {"weights.bin": b"new"})
        mounted.run("sync")
        for other in two:
            folder = other.mountpoint / "artifacts/model/big"
            wait_until(lambda folder=folder, number=number: (folder / f"v{number}").exists(), "the new version")  # type: ignore[misc]
            assert os.readlink(folder / "latest") == f"v{number}"
            assert (folder / "latest/files/weights.bin").read_bytes() == b"new"


def test_status_of_the_second_is_that_of_the_owner(two: tuple[Mounted, Mounted]) -> None:
    first, second = (ask(mounted, "/api/remote/status") for mounted in two)
    assert second["connected"]
    assert second["stats"]["last_sync"] == first["stats"]["last_sync"]
    assert second["mounts"] == [str(two[1].mountpoint)]


@pytest.mark.parametrize("end", ["killed", "unmounted"])
def test_the_second_takes_the_place_of_an_owner_that_ends(
    two: tuple[Mounted, Mounted], weights: bytes, store_writer: StoreWriter, end: str
) -> None:
    owner, guest = two
    with open(guest.mountpoint / BIG, "rb", buffering=0) as file:
        assert file.read(MiB) == weights[:MiB]
        if end == "killed":
            owner.kill()
        else:
            owner.stop()
        rest = b""
        while piece := file.read(MiB):
            rest += piece
    assert weights == weights[:MiB] + rest
    store_writer.add_version("model", "big", {"weights.bin": b"new"})
    wait_until(lambda: ask(guest, "/api/remote/status")["connected"], "the new owner to connect")
    guest.run("sync")
    assert (guest.mountpoint / "artifacts/model/big/v2/files/weights.bin").read_bytes() == b"new"


@pytest.mark.promise("C8")
def test_a_read_that_waits_for_the_server_goes_on_when_the_owner_ends_in_order(
    mount_store: MountStore, store_writer: StoreWriter, weights: bytes, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    """The owner closed its connection first, and guests took that for the server being away."""
    line = relay(sshd, mbit=60)
    owner = mount_store(store_writer.root, port=line.port)
    guest = mount_store(store_writer.root, "--cache-dir", str(owner.cache_dir), port=line.port)
    owner.expect_log(LINE_GONE)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit((guest.mountpoint / BIG).read_bytes)
        wait_until(lambda: line.stats().down > 4 * MiB, "the read to be under way")
        owner.stop()
        assert reading.result(PATIENCE_S) == weights


@pytest.mark.promise("C8")
def test_readers_go_on_while_owners_are_killed_in_turn(
    two: tuple[Mounted, Mounted], mount_store: MountStore, store_writer: StoreWriter, weights: bytes
) -> None:
    owner, guest = two
    third = mount_store(store_writer.root, "--cache-dir", str(owner.cache_dir))
    failures: list[BaseException] = []

    def read() -> None:
        try:
            assert (third.mountpoint / BIG).read_bytes() == weights
        except BaseException as error:
            failures.append(error)

    for mounted in (owner, guest):
        reader = threading.Thread(target=read)
        reader.start()
        mounted.kill()
        reader.join(60)
        assert not reader.is_alive()
        assert not failures
    read()
    assert not failures


def test_a_killed_owner_comes_back_as_the_second(
    two: tuple[Mounted, Mounted], mount_store: MountStore, store_writer: StoreWriter, weights: bytes
) -> None:
    owner, guest = two
    owner.kill()
    again = mount_store(store_writer.root, "--cache-dir", str(owner.cache_dir), mountpoint=owner.mountpoint)
    assert (again.mountpoint / BIG).read_bytes() == weights
    assert (guest.mountpoint / BIG).read_bytes() == weights
    assert ask(again, "/api/remote/cache")["bytes_fetched"] == len(weights)


@pytest.mark.promise("A6")
def test_a_stopped_owner_holds_up_no_listing_no_mount_and_no_umount(
    two: tuple[Mounted, Mounted], mount_store: MountStore, store_writer: StoreWriter
) -> None:
    owner, guest = two
    owner.process.send_signal(signal.SIGSTOP)
    try:
        listed = subprocess.run(
            ["ls", "-l", guest.mountpoint / BIG], capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert str(24 * MiB) in listed.stdout
        subprocess.run(["df", guest.mountpoint], stdout=subprocess.DEVNULL, timeout=PATIENCE_S, check=True)
        refused = guest.run("mount", str(store_writer.root), str(owner.mountpoint), check=False)
        assert (refused.returncode, "does not answer, it may be stopped" in refused.stderr) == (1, True)
        guest.run("umount", str(owner.mountpoint))
        assert not owner.is_mounted()
    finally:
        owner.process.send_signal(signal.SIGCONT)
    assert owner.process.wait(PATIENCE_S) == 0


def test_a_local_store_is_mounted_twice(mount_local: MountLocal, sample_store: Path) -> None:
    first = mount_local(sample_store)
    second = mount_local(sample_store, "--cache-dir", str(first.cache_dir))
    model = "artifacts/model/resnet50/v3/files/model.pth"
    assert (second.mountpoint / model).read_bytes() == (sample_store / model).read_bytes()
    first.kill()
    wait_until(lambda: second.run("sync", check=False).returncode == 0, "the second to take over")
    assert (second.mountpoint / model).read_bytes() == (sample_store / model).read_bytes()

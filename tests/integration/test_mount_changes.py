"""The server changes, a sync runs, and the mount shows it; what is open keeps its bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore
from tests.mounts import Mounted
from tests.waiting import wait_until

NET = "artifacts/model/net"


@pytest.fixture
def store(store_writer: StoreWriter) -> StoreWriter:
    store_writer.add_version("model", "net", {"w.bin": b"one" * 100_000, "sub/readme": b"first"})
    store_writer.add_version("model", "net", {"w.bin": b"two" * 100_000})
    return store_writer


@pytest.fixture
def net(store: StoreWriter, mount_store: MountStore) -> Mounted:
    return mount_store(store.root)


def listing(mounted: Mounted) -> list[str]:
    return sorted(os.listdir(mounted.mountpoint / NET))


def test_a_new_version_and_the_move_of_latest(net: Mounted, store: StoreWriter) -> None:
    latest = net.mountpoint / NET / "latest/files/w.bin"
    assert latest.read_bytes() == b"two" * 100_000
    store.add_version("model", "net", {"w.bin": b"three" * 100_000})
    assert "v3" not in listing(net)
    net.run("sync")
    assert "v3" in listing(net)
    assert latest.read_bytes() == b"three" * 100_000


def test_a_new_alias(net: Mounted, store: StoreWriter) -> None:
    store.set_alias("model", "net", "production", 1)
    net.run("sync")
    assert os.readlink(net.mountpoint / NET / "production") == "v1"
    store.set_alias("model", "net", "production", 2)
    net.run("sync")
    assert os.readlink(net.mountpoint / NET / "production") == "v2"
    store.set_alias("model", "net", "production", None)
    net.run("sync")
    assert "production" not in listing(net)


def test_a_soft_delete_and_its_restore(net: Mounted, store: StoreWriter) -> None:
    with open(net.mountpoint / NET / "v1/files/w.bin", "rb") as held:
        assert held.read(3) == b"one"
        store.soft_delete("model", "net", 1)
        net.run("sync")
        assert "v1" not in listing(net)
        assert not (net.mountpoint / NET / "v1/files/w.bin").exists()
        assert held.read() == (b"one" * 100_000)[3:]
    store.restore("model", "net", 1)
    net.run("sync")
    assert (net.mountpoint / NET / "v1/files/w.bin").read_bytes() == b"one" * 100_000


def test_a_permanent_delete(net: Mounted, store: StoreWriter) -> None:
    with open(net.mountpoint / NET / "v2/files/w.bin", "rb") as held:
        held.read()
        store.delete_permanently("model", "net", 2)
        net.run("sync")
        assert "v2" not in listing(net)
        held.seek(0)
        assert held.read() == b"two" * 100_000


@pytest.mark.parametrize("size", [1_000, 300_000, 900_000], ids=["shorter", "as long", "longer"])
@pytest.mark.promise("R7")
def test_a_version_number_that_came_back_with_other_bytes(net: Mounted, store: StoreWriter, size: int) -> None:
    path = net.mountpoint / NET / "v2/files/w.bin"
    old, new = b"two" * 100_000, os.urandom(size)
    with open(path, "rb") as held:
        assert held.read() == old
        store.delete_permanently("model", "net", 2)
        assert store.add_version("model", "net", {"w.bin": new}) == 2
        net.run("sync")
        assert path.read_bytes() == new
        assert path.stat().st_size == size
        held.seek(0)
        assert held.read() == old
        assert path.read_bytes() == new
    assert path.read_bytes() == new


def test_an_old_file_that_was_not_read_yet_is_not_mixed_with_the_new_one(net: Mounted, store: StoreWriter) -> None:
    """Its bytes are gone from the server: the reader gets an error, never bytes of the other file."""
    path = net.mountpoint / NET / "v2/files/w.bin"
    with open(path, "rb") as held:
        store.delete_permanently("model", "net", 2)
        store.add_version("model", "net", {"w.bin": os.urandom(200_000)})
        net.run("sync")
        with pytest.raises(OSError, match="Stale file handle"):
            held.read()


def test_a_run_that_goes_on(store: StoreWriter, mount_store: MountStore) -> None:
    run = store.add_run("vision", "train", summary={"acc": 0.5}, log=["epoch 1"])
    mounted = mount_store(store.root)
    folder = mounted.mountpoint / "vision/train/runs" / run
    with open(folder / "summary.json") as held:
        store.append_log(run, "epoch 2")
        (store.run_folder(run) / "summary.json").write_text('{"acc": 0.9}')
        mounted.run("sync")
        assert (folder / "logs.txt").read_bytes() == (store.run_folder(run) / "logs.txt").read_bytes()
        assert (folder / "summary.json").read_text() == '{"acc": 0.9}'
        assert json.load(held) == {"acc": 0.5}


def test_runs_come_and_go(store: StoreWriter, mount_store: MountStore) -> None:
    mounted = mount_store(store.root)
    assert not (mounted.mountpoint / "vision").exists()
    run = store.add_run("vision", "train")
    mounted.run("sync")
    assert os.listdir(mounted.mountpoint / "vision/train/runs") == [run]
    store.soft_delete_run(run)
    mounted.run("sync")
    assert not (mounted.mountpoint / "vision").exists()


def test_the_interval_syncs_without_being_asked(store: StoreWriter, mount_store: MountStore) -> None:
    mounted = mount_store(store.root, "--sync-interval", "0.2")
    store.add_version("model", "net", {"w.bin": b"three"})
    wait_until((mounted.mountpoint / NET / "v3").is_dir, "the new version")


@pytest.mark.promise("S4")
def test_a_malformed_document_costs_itself_and_is_named(store: StoreWriter, mount_store: MountStore) -> None:
    store.add_version("model", "other", {"w.bin": b"fine"})
    manifest = store.version_folder("model", "net", 1) / "manifest.json"
    manifest.write_text("{ this is not JSON")
    mounted = mount_store(store.root)
    mounted.expect_log("artifacts/model/net/v1/manifest.json")
    assert "v1" not in listing(mounted)
    assert (mounted.mountpoint / "artifacts/model/other/v1/files/w.bin").read_bytes() == b"fine"
    assert "artifacts/model/net/v1/manifest.json" in mounted.run("status").stdout


def test_metadata_and_index_lie_where_the_guide_says(net: Mounted, store: StoreWriter) -> None:
    (folder,) = net.cache_dir.iterdir()
    assert folder.name.startswith("127.0.0.1_")
    assert (folder / "index.db").is_file()
    exported = folder / "metadata/artifacts/model/net"
    assert (exported / "versions.json").read_bytes() == (store.folder("model", "net") / "versions.json").read_bytes()
    assert (exported / "v2/manifest.json").is_file()
    store.add_run("vision", "train")
    net.run("sync")
    assert list((folder / "metadata/experiments/vision/train/runs").glob("*/meta.json"))


def test_a_full_sync_reads_everything_again_and_changes_nothing(net: Mounted, store: StoreWriter) -> None:
    before = Path(net.mountpoint / NET / "versions.json").read_bytes()
    done = net.run("sync", "--full")
    assert "synced 5 metadata files" in done.stderr
    assert Path(net.mountpoint / NET / "versions.json").read_bytes() == before
    assert "synced 0 metadata files" in net.run("sync").stderr

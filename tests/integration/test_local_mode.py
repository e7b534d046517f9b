"""A store on this machine: the same tree, contents read directly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountLocal
from tests.integration.test_mount_sample import expected_files, files_below


def test_the_same_tree_with_the_same_bytes(mount_local: MountLocal, sample_store: Path) -> None:
    mounted = mount_local(sample_store)
    shown = files_below(mounted.mountpoint)
    assert shown == expected_files(sample_store)
    for path in shown:
        assert (mounted.mountpoint / path).read_bytes() == (sample_store / path).read_bytes(), path
    assert os.readlink(mounted.mountpoint / "artifacts/model/resnet50/production") == "v3"


def test_contents_are_not_copied(mount_local: MountLocal, store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "net", {"a.bin": os.urandom(2_000_000)})
    mounted = mount_local(store_writer.root)
    path = mounted.mountpoint / "artifacts/model/net/v1/files/a.bin"
    assert path.stat().st_blocks * 512 >= 2_000_000, "all of it is on this machine"
    path.read_bytes()
    assert sum(file.stat().st_size for file in mounted.cache_dir.rglob("content/**/*") if file.is_file()) == 0


def test_a_sync_follows_the_folder(mount_local: MountLocal, store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"1"})
    mounted = mount_local(store_writer.root)
    store_writer.add_version("model", "net", {"a.bin": b"2"})
    mounted.run("sync")
    assert (mounted.mountpoint / "artifacts/model/net/latest/files/a.bin").read_bytes() == b"2"
    assert "local" in mounted.run("status").stdout


def test_a_link_out_of_the_store_is_not_followed(
    mount_local: MountLocal, store_writer: StoreWriter, tmp_path: Path
) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"12345"})
    secret = tmp_path / "secret"
    secret.write_bytes(b"54321")
    file = store_writer.version_folder("model", "net", 1) / "files/a.bin"
    mounted = mount_local(store_writer.root)
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(OSError):  # noqa: PT011 -- refused, whatever the word for it
        (mounted.mountpoint / "artifacts/model/net/v1/files/a.bin").read_bytes()


def test_a_folder_that_is_no_store_is_refused(mount_local: MountLocal, tmp_path: Path) -> None:
    mounted = mount_local(tmp_path / "nowhere", wait=False)
    assert mounted.process.wait(30) == 1
    assert "nowhere" in mounted.log()


def test_a_folder_without_artifacts_and_runs_is_no_store(mount_local: MountLocal, sample_store: Path) -> None:
    mounted = mount_local(sample_store.parent, wait=False)
    assert mounted.process.wait(30) == 1
    assert "is no Runicorn store" in mounted.log()

"""Machines that only have libfuse 2."""

from __future__ import annotations

import os
from ctypes.util import find_library
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore
from tests.integration.test_mount_sample import expected_files, files_below
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _libfuse2(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_library("fuse") is None:
        pytest.skip("libfuse 2 is not installed")
    monkeypatch.setenv("FUSE_LIBRARY_NAME", "fuse")


def test_the_same_tree_with_the_same_bytes(mount_store: MountStore, sample_store: Path) -> None:
    mounted = mount_store(sample_store, "-o", "uid=1234,xattr")
    assert "libfuse.so.2" in Path(f"/proc/{mounted.process.pid}/maps").read_text()
    shown = files_below(mounted.mountpoint)
    assert shown == expected_files(sample_store)
    for path in shown:
        assert (mounted.mountpoint / path).read_bytes() == (sample_store / path).read_bytes(), path
    model = mounted.mountpoint / "artifacts/model/resnet50/v3/files/model.pth"
    assert model.stat().st_uid == 1234
    assert os.getxattr(model, "user.runicorn.state") == b"verified"


def test_what_changed_shows_after_a_short_time(mount_store: MountStore, store_writer: StoreWriter) -> None:
    """libfuse 2 cannot be told to forget a path: short time-outs stand in."""
    store_writer.add_version("model", "net", {"w.bin": b"one"})
    store_writer.add_version("model", "net", {"w.bin": b"two"})
    mounted = mount_store(store_writer.root)
    path = mounted.mountpoint / "artifacts/model/net/v2/files/w.bin"
    assert path.read_bytes() == b"two"
    store_writer.delete_permanently("model", "net", 2)
    store_writer.add_version("model", "net", {"w.bin": b"six"})
    mounted.run("sync")
    wait_until(lambda: path.read_bytes() == b"six", "the new bytes")

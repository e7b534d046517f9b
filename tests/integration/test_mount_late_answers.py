"""An answer from before a sync that reaches the kernel after it: the kernel keeps nothing of it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.catalog.catalog import Catalog
from runicornfs.mount.fuse import Kernel
from runicornfs.mount.operations import Entry, StoreOperations
from runicornfs.mount.options import MountOptions
from runicornfs.mount.session import Mount
from tests.fake_transfers import Caches, FakeTransfers
from tests.mounts import require_fuse
from tests.unit.observing import apply, document, index, manifest
from tests.waiting import wait_until

VERSION = "artifacts/model/net/v1"
PATH = f"{VERSION}/files/w.bin"
# Seconds after which the answer goes out, if the kernel has not been told to forget before.
LATE = 0.5


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(tmp_path / "index.db")
    yield catalog
    catalog.close()


@pytest.fixture
def mount(tmp_path: Path, catalog: Catalog) -> Iterator[Mount]:
    require_fuse()
    with Caches(tmp_path / "cache", FakeTransfers(tmp_path / "server")) as caches:
        mount = Mount(catalog, caches.open(), "net", tmp_path / "mount", MountOptions())
        mount.start()
        yield mount
        mount.stop()


def publish(mount: Mount, catalog: Catalog, size: int) -> None:
    """Version 1 has a file of this size from now on."""
    changes = apply(
        catalog,
        document("artifacts/model/net/versions.json", index({1: "ready"})),
        document(f"{VERSION}/metadata.json", {"name": "net", "status": "ready"}),
        document(f"{VERSION}/manifest.json", manifest({"w.bin": size})),
    )
    mount.changed(catalog, changes)


def size_of(mount: Mount) -> int:
    return int(subprocess.check_output(["stat", "-c", "%s", mount.mountpoint / PATH], timeout=30))


@pytest.mark.promise("S1")
def test_a_size_that_a_sync_changed_meanwhile(mount: Mount, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(mount, catalog, 1000)
    made, release = threading.Event(), threading.Event()
    lookup, drop = StoreOperations.lookup, Kernel.drop

    def slow_lookup(operations: StoreOperations, folder: int, name: bytes) -> Entry:
        entry = lookup(operations, folder, name)
        if name == b"w.bin" and not made.is_set():
            made.set()
            release.wait(30)
        return entry

    def release_at_drop(kernel: Kernel, path: str, number: int, renamed: bool) -> None:
        drop(kernel, path, number, renamed)
        if path == PATH:
            release.set()

    monkeypatch.setattr(StoreOperations, "lookup", slow_lookup)
    monkeypatch.setattr(Kernel, "drop", release_at_drop)
    with subprocess.Popen(["stat", mount.mountpoint / PATH], stdout=subprocess.DEVNULL) as early:
        assert made.wait(30)
        publish(mount, catalog, 2000)
        threading.Timer(LATE, release.set).start()
        assert early.wait(30) == 0
    wait_until(lambda: size_of(mount) == 2000, "the size that the sync brought")

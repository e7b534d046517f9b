"""Whole contents that the kernel reads by itself, where it may."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.catalog.catalog import Catalog
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.mount.options import MountOptions
from runicornfs.mount.passthrough import may_pass_through
from runicornfs.mount.session import Mount
from tests.fake_transfers import Caches, FakeTransfers, content_of
from tests.mounts import require_fuse
from tests.unit.observing import apply, document, index
from tests.waiting import wait_until

FILE, OTHER = content_of(4 * BLOCK), content_of(5 * BLOCK)
VERSION = "artifacts/model/net/v1"
PATH = f"{VERSION}/files/w.bin"


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def cache(tmp_path: Path, server: FakeTransfers) -> Iterator[ContentCache]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches.open()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(tmp_path / "index.db")
    yield catalog
    catalog.close()


@pytest.fixture
def mount(tmp_path: Path, catalog: Catalog, cache: ContentCache) -> Iterator[Mount]:
    require_fuse()
    if not may_pass_through() or tuple(map(int, platform.release().split(".")[:2])) < (6, 9):
        pytest.skip("passthrough needs CAP_SYS_ADMIN and Linux 6.9")
    if b"overlay" in subprocess.check_output(["stat", "-f", "-c", "%T", tmp_path]):
        pytest.skip("passthrough needs a file system that is not stacked")
    mount = Mount(catalog, cache, "net", tmp_path / "mount", MountOptions())
    mount.start()
    yield mount
    mount.stop()


def publish(mount: Mount, catalog: Catalog, server: FakeTransfers, content: bytes) -> None:
    """Version 1 has this file from now on."""
    sha256 = server.add(PATH, content).sha256
    assert sha256 is not None
    told = {"size": len(content), "digest": f"sha256:{sha256.hex()}", "modified_at": None}
    changes = apply(
        catalog,
        document("artifacts/model/net/versions.json", index({1: "ready"})),
        document(f"{VERSION}/metadata.json", {"name": "net", "status": "ready"}),
        document(f"{VERSION}/manifest.json", {"files": [{"path": "w.bin", **told}], "references": []}),
    )
    mount.changed(catalog, changes)


def cat(mount: Mount) -> bytes:
    return subprocess.run(["cat", mount.mountpoint / PATH], check=True, capture_output=True, timeout=30).stdout


def test_once_a_content_is_whole_its_reads_do_not_come_to_us(
    mount: Mount, catalog: Catalog, server: FakeTransfers
) -> None:
    publish(mount, catalog, server, FILE)
    assert cat(mount) == FILE
    assert mount.callbacks.counts["read"] > 0
    mount.callbacks.counts.clear()
    fd = os.open(mount.mountpoint / PATH, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, len(FILE), 0) == FILE
    finally:
        os.close(fd)
    assert mount.callbacks.counts["read"] == 0


@pytest.mark.promise("R7")
def test_other_bytes_at_the_path_of_one_that_is_open(mount: Mount, catalog: Catalog, server: FakeTransfers) -> None:
    publish(mount, catalog, server, FILE)
    cat(mount)
    old = os.open(mount.mountpoint / PATH, os.O_RDONLY)
    try:
        publish(mount, catalog, server, OTHER)
        assert cat(mount) == OTHER
        assert cat(mount) == OTHER
        assert os.pread(old, 2 * len(FILE), 0) == FILE
        assert os.fstat(old).st_size == len(FILE)
        assert os.stat(mount.mountpoint / PATH).st_size == len(OTHER)
    finally:
        os.close(old)


def test_a_reader_that_came_before_it_was_whole_goes_on(mount: Mount, catalog: Catalog, server: FakeTransfers) -> None:
    publish(mount, catalog, server, FILE)
    early = os.open(mount.mountpoint / PATH, os.O_RDONLY)
    try:
        assert os.pread(early, 10, 0) == FILE[:10]
        assert cat(mount) == FILE
        assert os.pread(early, len(FILE), 0) == FILE
    finally:
        os.close(early)
    assert cat(mount) == FILE


def test_who_opens_a_file_that_turned_out_to_be_damaged_gets_the_right_bytes(
    mount: Mount,
    catalog: Catalog,
    server: FakeTransfers,
    cache: ContentCache,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Although another program has the damaged one open, which the kernel cannot be told to let go."""
    cache.on_dropped(lambda key: mount.forget(cache, [PATH]))
    publish(mount, catalog, server, FILE)
    cat(mount)
    old = os.open(mount.mountpoint / PATH, os.O_RDONLY)
    try:
        files = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
        (stored,) = (path for path in files if path.stat().st_size == len(FILE))
        with open(stored, "r+b") as damaged:
            damaged.write(b"X")
        cache.verify()
        wait_until(lambda: cache.verification().corrupt_files == 1, "the damage to be found")
        assert cat(mount) == FILE
    finally:
        os.close(old)
    assert cat(mount) == FILE

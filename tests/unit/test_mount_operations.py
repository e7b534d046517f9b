"""When the kernel may go on using what it kept of a path: pages, and the listing of a folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import ROOT_INODE, inode_of
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import never
from runicornfs.errors import ContentMismatch
from runicornfs.mount.operations import StoreOperations
from runicornfs.mount.options import MountOptions
from tests.fake_transfers import Caches, FakeTransfers, content_of
from tests.unit.observing import apply, document, index, plain_file

FILE = content_of(20 * BLOCK)
FOLDER = "artifacts/model/net/v1/files"
PATH = f"{FOLDER}/w.bin"


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def cache(tmp_path: Path, server: FakeTransfers) -> Iterator[ContentCache]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches.open()


@pytest.fixture
def catalog(tmp_path: Path, server: FakeTransfers) -> Iterator[Catalog]:
    """Of a store with one version, whose file the server has."""
    catalog = Catalog.open(tmp_path / "index.db")
    sha256 = server.add(PATH, FILE).sha256
    assert sha256 is not None
    files = [{"path": "w.bin", "size": len(FILE), "digest": f"sha256:{sha256.hex()}", "modified_at": None}]
    apply(
        catalog,
        document("artifacts/model/net/versions.json", index({1: "ready"})),
        document("artifacts/model/net/v1/metadata.json", {"name": "net", "status": "ready"}),
        document("artifacts/model/net/v1/manifest.json", {"files": files, "references": []}),
    )
    yield catalog
    catalog.close()


@pytest.fixture
def operations(catalog: Catalog, cache: ContentCache) -> Iterator[StoreOperations]:
    """The kernel knows the file: it has looked it up."""
    operations = StoreOperations(catalog, cache, MountOptions())
    number = ROOT_INODE
    for name in PATH.split("/"):
        number = operations.lookup(number, name.encode()).number
    yield operations
    operations.close()


def keeps(operations: StoreOperations) -> bool:
    folder = inode_of(FOLDER)
    try:
        handle, keep = operations.open_file(operations.lookup(folder, b"w.bin").number)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        handle, keep = operations.open_file(operations.lookup(folder, b"w.bin").number)  # so does the kernel, once
    operations.close_file(handle.handle)
    return keep


def test_pages_of_a_file_that_did_not_change_are_kept(operations: StoreOperations) -> None:
    assert keeps(operations)
    assert keeps(operations)


def test_pages_are_not_kept_until_the_kernel_has_dropped_what_a_sync_changed(
    operations: StoreOperations, catalog: Catalog
) -> None:
    changes = apply(catalog, plain_file("vision/train/runs/r1/logs.txt", 1))
    assert not keeps(operations)
    operations.announced(catalog, changes.generation)
    assert keeps(operations)


def test_pages_of_bytes_that_were_wrong_are_not_kept(
    operations: StoreOperations, cache: ContentCache, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    server.corrupt[PATH] = 1
    server.hold(after=1)
    handle, _ = operations.open_file(inode_of(PATH))
    assert operations.read(handle.handle, 0, BLOCK, never) != FILE[:BLOCK]
    server.release()
    with pytest.raises(ContentMismatch):
        operations.read(handle.handle, BLOCK, 19 * BLOCK, never)
    assert not keeps(operations), "from the moment on at which a reader knows"
    operations.close_file(handle.handle)
    operations.forgotten(cache)
    assert keeps(operations)


def test_what_another_store_has_forgotten_does_not_count(
    operations: StoreOperations, catalog: Catalog, cache: ContentCache, tmp_path: Path, server: FakeTransfers
) -> None:
    with Caches(tmp_path / "other", server) as caches:
        other = caches.open()
        operations.show(catalog, other)
        operations.forgotten(cache)
        assert not keeps(operations), "the kernel may still have pages of the store before"
        operations.announced(catalog, catalog.generation)
        assert keeps(operations)
        operations.close()


def listing_is_kept(operations: StoreOperations) -> bool:
    """Whether who reads the folder now need not ask us; if not, it does."""
    folder = inode_of(FOLDER)
    handle, keep = operations.open_folder(folder)
    if not keep:
        assert [name for name, _ in operations.read_folder(folder, handle, 0)] == [b".", b"..", b"w.bin"]
    operations.close_folder(handle)
    return keep


def test_a_listing_is_kept_while_nothing_changes(operations: StoreOperations) -> None:
    assert not listing_is_kept(operations)
    assert listing_is_kept(operations)


def test_a_listing_is_taken_anew_once_something_was_fetched(operations: StoreOperations) -> None:
    """`du` lists a folder before it asks for sizes: so what it says of our share is right."""
    assert not listing_is_kept(operations)
    handle, _ = operations.open_file(inode_of(PATH))
    assert operations.read(handle.handle, 0, BLOCK, never) == FILE[:BLOCK]
    operations.close_file(handle.handle)
    assert not listing_is_kept(operations)


def test_a_sync_costs_the_listings_of_what_it_changed(operations: StoreOperations, catalog: Catalog) -> None:
    assert not listing_is_kept(operations)
    changes = apply(catalog, plain_file("vision/train/runs/r1/logs.txt", 1))
    operations.announce(changes.changed_paths, changes.generation)
    assert listing_is_kept(operations)
    operations.announce([FOLDER], changes.generation)
    assert not listing_is_kept(operations)


def test_a_listing_that_a_sync_has_overtaken_is_not_kept(operations: StoreOperations, catalog: Catalog) -> None:
    apply(catalog, plain_file("vision/train/runs/r1/logs.txt", 1))
    assert not listing_is_kept(operations)
    assert not listing_is_kept(operations), "the mount has not been told yet what changed"


def test_who_comes_with_the_number_of_other_bytes_is_sent_to_look_again(
    operations: StoreOperations, catalog: Catalog, server: FakeTransfers
) -> None:
    old, _ = operations.open_file(inode_of(PATH))
    other = content_of(BLOCK)
    sha256 = server.add(PATH, other).sha256
    assert sha256 is not None
    files = [{"path": "w.bin", "size": len(other), "digest": f"sha256:{sha256.hex()}", "modified_at": None}]
    apply(catalog, document("artifacts/model/net/v1/manifest.json", {"files": files, "references": []}))
    with pytest.raises(OSError, match="Stale file handle"):
        operations.open_file(inode_of(PATH))
    number = operations.lookup(inode_of(FOLDER), b"w.bin").number
    new, _ = operations.open_file(number)
    assert operations.attributes(number).attributes.size == len(other)
    assert operations.attributes(inode_of(PATH)).attributes.size == len(FILE), "fstat comes with the old number"
    operations.close_file(old.handle)
    operations.close_file(new.handle)

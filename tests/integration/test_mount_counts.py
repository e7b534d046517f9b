"""What the kernel asks of a mount, and how often: a second walk is answered by the kernel alone."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runicornfs.catalog.catalog import Catalog
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.mount.options import MountOptions
from runicornfs.mount.session import Mount
from tests.fake_transfers import Caches, FakeTransfers, content_of
from tests.mounts import require_fuse
from tests.unit.observing import apply, document, index

FOLDERS, FILES = 10, 200
FILE = content_of(4 * BLOCK)
VERSION = "artifacts/dataset/many/v1"
FIRST = "000/00000.bin"


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def catalog(tmp_path: Path, server: FakeTransfers) -> Iterator[Catalog]:
    """A data set of ten folders with two hundred files each, all of the same bytes."""
    catalog = Catalog.open(tmp_path / "index.db")
    sha256 = server.add(f"{VERSION}/files/{FIRST}", FILE).sha256
    assert sha256 is not None
    told = {"size": len(FILE), "digest": f"sha256:{sha256.hex()}", "modified_at": None}
    files = [{"path": f"{n // FILES:03}/{n:05}.bin", **told} for n in range(FOLDERS * FILES)]
    apply(
        catalog,
        document("artifacts/dataset/many/versions.json", index({1: "ready"})),
        document(f"{VERSION}/metadata.json", {"name": "many", "status": "ready"}),
        document(f"{VERSION}/manifest.json", {"files": files, "references": []}),
    )
    yield catalog
    catalog.close()


@pytest.fixture
def cache(tmp_path: Path, server: FakeTransfers) -> Iterator[ContentCache]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches.open()


@pytest.fixture
def mount(tmp_path: Path, catalog: Catalog, cache: ContentCache) -> Iterator[Mount]:
    """In this process, so programs that look at it run in others."""
    require_fuse()
    mount = Mount(catalog, cache, "many", tmp_path / "mount", MountOptions())
    mount.start()
    yield mount
    mount.stop()


def files_of(mount: Mount) -> Path:
    return mount.mountpoint / VERSION / "files"


def asked_by(mount: Mount, *command: str | Path) -> Counter[str]:
    """How often the kernel asked for what while this command ran. That something was closed it tells when it likes."""
    mount.callbacks.counts.clear()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=30)
    asked = mount.callbacks.counts.items()
    return Counter({name: count for name, count in asked if not name.startswith(("release", "forget"))})


@pytest.fixture(params=["find -size", "ls -lR"])
def walk(request: pytest.FixtureRequest, mount: Mount) -> Callable[[], Counter[str]]:
    if request.param == "ls -lR":
        return lambda: asked_by(mount, "ls", "-lR", files_of(mount))
    return lambda: asked_by(mount, "find", files_of(mount), "-size", "+0")


def test_a_first_walk_asks_for_folders_and_for_no_file(walk: Callable[[], Counter[str]]) -> None:
    asked = walk()
    assert asked["getattr"] + asked["lookup"] <= 10, "of the folders above"
    assert asked["readdirplus"] >= FOLDERS


def test_a_second_walk_asks_for_nothing_but_to_open_the_folders(walk: Callable[[], Counter[str]]) -> None:
    walk()
    assert walk() == {"opendir": FOLDERS + 1}


def test_du_is_right_as_soon_as_something_was_fetched(mount: Mount) -> None:
    """The folders are read again, but no file is asked for."""

    def local_kib() -> int:
        done = subprocess.run(["du", "-sk", files_of(mount)], check=True, capture_output=True, text=True, timeout=30)
        return int(done.stdout.split()[0])

    assert local_kib() == 0
    subprocess.run(["cat", files_of(mount) / FIRST], check=True, stdout=subprocess.DEVNULL, timeout=30)
    mount.callbacks.counts.clear()
    assert local_kib() == FOLDERS * FILES * len(FILE) // 1024, "one content, wherever it stands"
    assert mount.callbacks.counts["lookup"] == 0
    assert mount.callbacks.counts["getattr"] <= FOLDERS


def test_stat_of_a_file_that_was_read_is_right(mount: Mount) -> None:
    """Its pages stay, so it is not read again."""
    path = files_of(mount) / FIRST

    def blocks() -> int:
        return int(subprocess.check_output(["stat", "-c", "%b", path], timeout=30))

    assert blocks() == 0
    subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL, timeout=30)
    assert blocks() * 512 == len(FILE)
    assert asked_by(mount, "cat", path)["read"] == 0


def test_a_sync_costs_a_walk_what_it_changed(mount: Mount, catalog: Catalog) -> None:
    asked_by(mount, "find", files_of(mount), "-size", "+0")
    changes = apply(
        catalog, document("artifacts/dataset/many/v1/metadata.json", {"name": "many", "status": "ready", "n": 1})
    )
    mount.changed(catalog, changes)
    assert asked_by(mount, "find", files_of(mount), "-size", "+0") == {"opendir": FOLDERS + 1}


def test_a_warm_read_is_asked_for_once(mount: Mount) -> None:
    path = files_of(mount) / FIRST
    assert asked_by(mount, "cat", path)["read"] >= 1
    assert asked_by(mount, "cat", path) == {"getattr": 1, "open": 1}, "its share has changed"
    assert asked_by(mount, "cat", path) == {"open": 1}


def test_aliases_are_asked_for_once(mount: Mount, catalog: Catalog) -> None:
    aliases = index({1: "ready"}) | {"aliases": {"latest": 1}}
    mount.changed(catalog, apply(catalog, document("artifacts/dataset/many/versions.json", aliases)))
    link = mount.mountpoint / "artifacts/dataset/many/latest"
    assert asked_by(mount, "readlink", link)["readlink"] == 1
    assert asked_by(mount, "readlink", link)["readlink"] == 0
    assert os.path.islink(link)

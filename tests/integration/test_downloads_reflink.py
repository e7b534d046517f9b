"""Where the file system can, a download shares its blocks with the cache until one of both is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.downloads.records import COMPLETED
from tests.fake_transfers import content_of
from tests.unit.downloading import World

MIB = 1 << 20
# The smallest that mkfs.xfs makes; the file that holds it takes what is written.
DISK_BYTES = 320 * MIB


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A file system that can."""
    if os.geteuid() or shutil.which("mkfs.xfs") is None:
        pytest.skip("needs root and mkfs.xfs")
    image, folder = tmp_path / "image", tmp_path / "xfs"
    folder.mkdir()
    image.touch()
    os.truncate(image, DISK_BYTES)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    mount = subprocess.run(["mount", "-o", "loop", image, folder], check=False, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no disk can be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def free_bytes(folder: Path) -> int:
    os.sync()
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize


def test_a_download_of_what_is_in_the_cache_takes_no_room(xfs: Path) -> None:
    content = content_of(16 * MIB)
    with World(xfs / "world") as world:
        ref = world.add({"a.bin": content})
        world.open()
        world.ended(world.tasks.prefetch(ref, 1)[0])
        before = free_bytes(xfs)
        done = world.download(ref)
        placed = Path(str(done.order.target_dir)) / "a.bin"
        assert (done.status, done.counts.downloaded_bytes) == (COMPLETED, 16 * MIB)
        assert placed.read_bytes() == content
        assert before - free_bytes(xfs) < MIB
        with open(placed, "r+b") as edited:
            edited.write(b"edited")
        again = world.download(ref, target_dir=str(xfs / "again"))
        assert (Path(str(again.order.target_dir)) / "a.bin").read_bytes() == content

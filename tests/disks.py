"""Small disks of a test's own, to fill, to break and to make read-only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# An unmount takes milliseconds; this is for a machine that is very busy.
PATIENCE_S = 30.0
# ioctl(2): the block of the device that holds a block of a file.
FIBMAP = 1


@contextlib.contextmanager
def small_disk(folder: Path, size: str, options: str = "") -> Iterator[Path]:
    """A file system of this size in memory, mounted on `folder`, which is made. Skips the test where we may not."""
    folder.mkdir(parents=True)
    wanted = f"size={size},{options}".rstrip(",")
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", wanted, "tmpfs", folder], check=False, capture_output=True)
    if mount.returncode:
        pytest.skip("only root can make a small disk")
    try:
        yield folder
    finally:
        _unmount(folder)


def fill_up(disk: Path) -> None:
    """Another program takes all the room that a disk has left, to the last byte; `free` gives it back."""
    with open(disk / "of another program", "ab", buffering=0) as file, contextlib.suppress(OSError):
        for piece in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(piece))


def free(disk: Path) -> None:
    (disk / "of another program").unlink()


def _unmount(folder: Path) -> None:
    done = subprocess.run(["umount", folder], check=False, capture_output=True, timeout=PATIENCE_S)
    if done.returncode:  # something of the test still has it open: it goes with that
        subprocess.run(["umount", "-l", folder], check=True, timeout=PATIENCE_S)


class FailingDisk:
    """An ext4 whose device can fail: it lies in a file of a disk in memory."""

    def __init__(self, folder: Path, device: Path, image: Path) -> None:
        self.folder = folder
        self._device = device  # the file system of the image
        self._image = image

    def take_no_more(self) -> None:
        """What is written from now on is lost when it reaches the device, which only fsync tells."""
        fill_up(self._device)

    def become_read_only(self) -> None:
        """As when the file system has met an error; what is open for writing stays open."""
        subprocess.run(["mount", "-o", "remount,abort", self.folder], check=True, timeout=PATIENCE_S)

    def lose(self, file: Path) -> None:
        """Reads of this file, and of what lies behind it on the device, fail with EIO; new blocks can be written."""
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            first = bytearray(struct.pack("I", 0))
            fcntl.ioctl(opened, FIBMAP, first)
        os.truncate(self._image, struct.unpack("I", first)[0] * os.statvfs(self.folder).f_bsize)


@contextlib.contextmanager
def failing_disk(folder: Path, device_size: str, size: int) -> Iterator[FailingDisk]:
    """One of `size` bytes, of which its device takes `device_size`. Skips the test where we may not make one."""
    with small_disk(folder.with_name(f"{folder.name}-device"), device_size) as device:
        image = device / "image"
        with image.open("wb") as file:
            file.truncate(size)
        make = ["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1", str(image)]
        folder.mkdir()
        try:
            subprocess.run(make, check=True, capture_output=True)
            subprocess.run(["mount", "-o", "loop", image, folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("only root, with mkfs.ext4 and a loop device, can make a disk that fails")
        try:
            (folder / "lost+found").rmdir()
            yield FailingDisk(folder, device, image)
        finally:
            _unmount(folder)


def cool(file: Path) -> None:
    """What is read of it next comes from the device."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

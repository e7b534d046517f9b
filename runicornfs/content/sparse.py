"""The sparse files that hold contents: one a content, in a folder that holds nothing else.

File names are never used twice, so a record that outlived its file (a power cut can bring an old record back) never
finds another content's bytes under its name. Only files with such a name are ever deleted.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import stat
from pathlib import Path

from runicornfs.content.blocks import BLOCK

# fallocate(2), which Python does not offer with a mode.
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

# No fault of the file's: it may be as good as ever.
_OURS_TO_BLAME = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_OUR_NAMES = re.compile(r"[0-9a-f]{32}-[0-9a-f]{8}")


def new_name(key: str) -> str:
    """A file name for a content, different each time."""
    digest = hashlib.blake2b(key.encode(), digest_size=16)
    return f"{digest.hexdigest()}-{secrets.token_hex(4)}"


def modified_ns(fd: int) -> int:
    """When a file was changed last, in Unix nanoseconds."""
    return os.fstat(fd).st_mtime_ns


def reopened(fd: int) -> int:
    """Another descriptor of the same file, which can only be read from. Raises OSError."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


class SparseFiles:
    """The folder. Thread-safe: it has no state but its path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        folder.mkdir(mode=0o700, exist_ok=True)

    def create(self, name: str, size: int) -> int:
        """A new file of `size` bytes that takes no space yet; its descriptor. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._folder / name, flags, 0o600)
        except FileNotFoundError:
            self._make_again()
            fd = os.open(self._folder / name, flags, 0o600)
        try:
            os.ftruncate(fd, size)
        except OSError:  # larger than a file may be here
            os.close(fd)
            self.remove(name)  # the next try makes it
            raise
        return fd

    def open(self, name: str, size: int) -> int | None:
        """The descriptor of a file made earlier; None where it is gone, is not as it was made or cannot be read.

        On a read-only disk it can only be read from. Raises OSError where this process can open no more files.
        """
        if not _OUR_NAMES.fullmatch(name):
            return None
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            try:
                fd = os.open(self._folder / name, os.O_RDWR | flags)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                fd = os.open(self._folder / name, os.O_RDONLY | flags)
        except OSError as error:
            if error.errno in _OURS_TO_BLAME:
                raise
            return None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            os.close(fd)
            return None
        return fd

    def has(self, name: str) -> bool:
        """Whether something stands where this file would."""
        return os.path.lexists(self._folder / name)

    def replace(self, fd: int, name: str, size: int) -> None:
        """Makes `fd` the descriptor of a new file; who is reading from it ends with the old one. Raises OSError."""
        new = self.create(name, size)
        try:
            os.dup2(new, fd, inheritable=False)
        finally:
            os.close(new)

    def remove(self, name: str) -> None:
        """Deletes a file, if it is there and ours. Raises OSError."""
        if _OUR_NAMES.fullmatch(name):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # somebody else's folder is not ours
                (self._folder / name).unlink()

    def remove_others(self, names: set[str]) -> None:
        """Deletes every file of ours but these. Raises OSError."""
        for entry in list(os.scandir(self._folder)):
            if entry.is_file(follow_symlinks=False) and entry.name not in names:
                self.remove(entry.name)

    def sync(self, name: str) -> int | None:
        """Brings a file's bytes to the disk; when it was changed last (Unix nanoseconds), None if it cannot be opened.

        Raises OSError where the disk did not take them: they are lost.
        """
        try:
            fd = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            os.fsync(fd)
            return modified_ns(fd)
        finally:
            os.close(fd)

    def can_punch(self, fd: int, count: int) -> bool:
        """Whether this file system can; tried behind the end of a file of `count` blocks."""
        try:
            self.punch(fd, count, count + 1)
        except OSError:
            return False
        return True

    def punch(self, fd: int, first: int, stop: int) -> None:
        """Gives the space of the blocks from `first` up to `stop` back. Raises OSError."""
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        while self._libc.fallocate(fd, mode, first * BLOCK, (stop - first) * BLOCK):
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    def empty(self, fd: int, size: int) -> None:
        """Gives all space of a file back; it keeps its size. Raises OSError."""
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size)

    def free_bytes(self) -> int:
        """What the disk has left for us. Raises OSError."""
        try:
            status = os.statvfs(self._folder)
        except FileNotFoundError:
            self._make_again()
            status = os.statvfs(self._folder)
        return status.f_bavail * status.f_frsize

    def _make_again(self) -> None:
        """Somebody has deleted the folder while it was in use."""
        for folder in (self._folder.parent.parent, self._folder.parent, self._folder):
            folder.mkdir(mode=0o700, exist_ok=True)

"""The folder that a download is placed in: nothing outside of it is ever written.

Whoever named the folder may have named a link to it; below it no symbolic link is followed. A file is written under a
name that nobody can guess, private to the user, and gets its own name when it is complete; so nothing partial ever has
a final name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator

from runicornfs.downloads.records import Placed
from runicornfs.errors import Conflict, InvalidInput, Refused
from runicornfs.store.fields import nanoseconds_of
from runicornfs.store.paths import parent_of, shown

FILE_MODE, FOLDER_MODE = 0o644, 0o777  # of what a person gets, less what the umask takes
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Part:
    """A file that is being written. `name` is its name in the target's top folder."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        # The kernel has applied the umask, which Python cannot ask for without changing it for all threads.
        self._mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.fchmod(fd, 0o600)

    def finish(self, modified_at: float | None) -> None:
        """All bytes are written: they outlive a power cut when this returns, and have the mode and time of the file."""
        os.fchmod(self.fd, self._mode)
        if modified_at is not None:
            nanoseconds = nanoseconds_of(modified_at)
            os.utime(self.fd, ns=(nanoseconds, nanoseconds))
        os.fsync(self.fd)


class TargetFolder:
    """An open folder; thread-safe. Paths are relative to it, and safe as `check_relative` makes them.

    Every method raises OSError where the file system refuses, and Conflict where a link or a file stands in the place
    of a folder.
    """

    def __init__(self, path: str, task_id: str, private: bool = False) -> None:
        """Makes the folder where it is not there. What is made in a `private` one is for the user alone, as all of the
        cache is. Raises InvalidInput where the path is not absolute, Conflict where it is no folder, and Refused."""
        if not os.path.isabs(path) or "\0" in path:
            raise InvalidInput(f"target_dir must be an absolute path: {shown(path)} is not")
        self.path = path
        self._task_id = task_id
        closed = 0o077 if private else 0
        self._file_mode, self._folder_mode = FILE_MODE & ~closed, FOLDER_MODE & ~closed
        try:
            self._make(path)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileExistsError, NotADirectoryError):
            raise Conflict(f"{path} is not a folder: name another one, or move it away") from None
        except OSError as error:
            raise Refused(f"the folder {path} cannot be made: {error.strerror}") from None

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> TargetFolder:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    @property
    def free_bytes(self) -> int:
        status = os.fstatvfs(self._fd)
        return status.f_bavail * status.f_frsize

    def status(self, path: str) -> os.stat_result | None:
        """What stands at a path, a link itself; None where nothing does."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        return None

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[int]:
        """A regular file to read from."""
        with self._parent(path) as (folder, name):
            # A FIFO must not hold us up before it is looked at.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def part(self) -> Iterator[Part]:
        """A file to write to; it is gone when the block ends, unless it was placed."""
        name = f".runicornfs-{self._task_id}-{secrets.token_hex(8)}.part"
        fd = os.open(name, _NEW, self._file_mode, dir_fd=self._fd)
        try:
            yield Part(name, fd)
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._fd)

    def place(self, part: Part, path: str, overwrite: bool) -> Placed:
        """Gives a finished part its name. Raises Conflict where something has that name and may not be replaced."""
        with self._parent(path, make=True) as (folder, name):
            if not overwrite and self.status(path) is not None:
                raise Conflict(f"{path} has appeared in {self.path} meanwhile: it is not overwritten")
            try:
                os.rename(part.name, name, src_dir_fd=self._fd, dst_dir_fd=folder)
            except IsADirectoryError:
                raise Conflict(f"{path} is a folder in {self.path}: it is not overwritten") from None
        return Placed.of(path, os.fstat(part.fd))

    def clean(self) -> None:
        """Removes what a killed process has left of this task."""
        for name in os.listdir(self._fd):
            if name.startswith(f".runicornfs-{self._task_id}-") and name.endswith(".part"):
                os.unlink(name, dir_fd=self._fd)

    def remove(self, path: str) -> None:
        """Removes a file, and the folders that are empty then."""
        with self._parent(path) as (folder, name):
            os.unlink(name, dir_fd=folder)
        with contextlib.suppress(OSError):  # one that is not empty stays, and so do those above it
            while path := parent_of(path):
                with self._parent(path) as (folder, name):
                    os.rmdir(name, dir_fd=folder)

    @contextlib.contextmanager
    def _parent(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that a path lies in, and the path's last component. Raises FileNotFoundError without `make`."""
        *parents, name = path.split("/")
        folder = os.dup(self._fd)
        try:
            for parent in parents:
                below = self._enter(folder, parent, make)
                os.close(folder)
                folder = below
            yield folder, name
        finally:
            os.close(folder)

    def _make(self, path: str) -> None:
        """With those above it that are missing: makedirs would give these the umask's mode."""
        if not os.path.isdir(path):
            self._make(os.path.dirname(path))
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, self._folder_mode)

    def _enter(self, folder: int, name: str, make: bool) -> int:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, self._folder_mode, dir_fd=folder)
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise Conflict(f"{shown(name)} in {self.path} is no folder: nothing is written through it") from None

"""Edits a store on a disk: the program that runs on the server, and what local mode does in our own process.

It travels over the standard input of a constant command (see `runicornfs.remote.helper`), behind the walk, the helper
program and the pure edits, and leaves nothing there. It knows these and the standard library, and runs on Python 3.8.

What it promises: an edit is made under the SDK's own lock, which it holds for milliseconds, and either as a whole or
not at all. A file is replaced at once by one that is complete and on the disk, with the same mode, and the same owner
and group where the account may give them away. It follows no symbolic link below the root. A version's folder is first
renamed to a name that is no version; a crash leaves that behind, and whoever edits the artifact next is told (`LEFT`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import select
import stat
import sys
import time

from runicornfs.remote.helper_program import (
    ALIVE_EVERY_S,
    END,
    FrameWriter,
    Scan,
    header_of,
    read_exactly,
    token_of,
    unpack_known,
)
from runicornfs.remote.walk import ALIVE, DOCUMENT, RECORD_LIMIT
from runicornfs.store.edits import INDEX, OURS, EditRefused, Plan, State, plan

TYPE_CHECKING = False  # typing.TYPE_CHECKING without loading typing on the server
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from runicornfs.remote.walk import Event

# Kinds on the wire, beside those of a scan: the edit is made (its notes), or it is refused (code, message); and before
# the first, that something is there which an edit has set aside.
DONE, REFUSED, LEFT = 30, 31, 32
# What a request asks for beside the edits themselves: to remove what they set aside.
SWEEP = "sweep"
# The SDK holds the lock while it copies a version's files. Who asks for an edit is not kept waiting that long.
LOCK_WAIT_S = 10.0
LOCK_POLL_S = 0.02
# So often an edit begins anew because something has changed under it.
TRIES = 5
# Under the lock there is no second one; what a killed program left is overwritten by the next.
TEMPORARY = OURS + "edit.tmp"
VERSION_FOLDER = re.compile(r"v([1-9][0-9]{0,8})")
ASIDE = re.compile(re.escape(OURS) + r"removed-v[1-9][0-9]{0,8}-[0-9a-f]{16}")
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
REASONS = {
    errno.EACCES: "access_denied",
    errno.EPERM: "access_denied",
    errno.EROFS: "access_denied",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.ENOENT: "not_found",
}


class Changed(Exception):
    """Somebody who does not take the lock, or broke it, has changed what the edit is based on."""


class ArtifactFolder:
    """The folder of one artifact, open, and with it that of the version that an edit is about (`version_fd`, None where
    there is none). `seen` are the tokens of the files that were read."""

    def __init__(self, root: bytes, artifact: bytes) -> None:
        self.name = artifact.rpartition(b"/")[2].decode("utf-8", "surrogateescape")  # whatever the locale says
        self.seen: dict[str, bytes | None] = {}
        self.version_fd: int | None = None
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for component in artifact.split(b"/"):
                outer = self.fd
                self.fd = os.open(component, FOLDER, dir_fd=outer)
                os.close(outer)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        self.close_version()
        os.close(self.fd)

    def close_version(self) -> None:
        if self.version_fd is not None:
            os.close(self.version_fd)
            self.version_fd = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Holds the SDK's lock; yields its descriptor. Raises EditRefused where it is not to be had in time."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            lock = self.open_lock()
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.holds(lock):
                    break
            except BlockingIOError:
                pass
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            if time.monotonic() > deadline:
                raise EditRefused("conflict", "another program is saving a version of it: try again in a moment")
            time.sleep(LOCK_POLL_S)
        try:
            yield lock
        finally:
            os.close(lock)

    def open_lock(self) -> int:
        try:
            return os.open(".lock", os.O_RDWR | os.O_CREAT | FILE, 0o644, dir_fd=self.fd)
        except PermissionError:
            return os.open(".lock", os.O_RDONLY | FILE, dir_fd=self.fd)  # another account's: good enough to lock

    def holds(self, lock: int) -> bool:
        """An SDK that fails unlinks the file: then the next one locks another."""
        try:
            there = os.stat(".lock", dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(lock))

    def state(self, version: int) -> State:
        """The artifact as it is, of the version's documents those that an edit may need."""
        folders, marked = set(), set()
        self.close_version()
        with os.scandir(self.fd) as entries:
            for entry in entries:
                match = VERSION_FOLDER.fullmatch(entry.name)
                if match and entry.is_dir(follow_symlinks=False):
                    folders.add(int(match.group(1)))
                    if status_in(self.fd, entry.name + "/.deleted") is not None:
                        marked.add(int(match.group(1)))
        metadata = None
        if version in folders:
            self.version_fd = os.open(f"v{version}", FOLDER, dir_fd=self.fd)
            metadata = self.read(f"v{version}/metadata.json")
        return State(self.read(INDEX), metadata, folders, marked)

    def place(self, path: str) -> tuple[int, str]:
        """The open folder in which a path of the artifact is, and its name there."""
        folder, _, name = path.rpartition("/")
        if not folder:
            return self.fd, name
        if self.version_fd is None:
            raise Changed
        return self.version_fd, name

    def read(self, path: str) -> bytes | None:
        """The content of a file, None where this account cannot have it."""
        folder, name = self.place(path)
        try:
            descriptor = os.open(name, os.O_RDONLY | FILE, dir_fd=folder)
        except (FileNotFoundError, PermissionError):
            self.seen[path] = None
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > RECORD_LIMIT:
                raise EditRefused("malformed_record", f"{path} is no file that could be changed")
            self.seen[path] = token_of(status)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(RECORD_LIMIT)
        finally:
            os.close(descriptor)

    def carry_out(self, wanted: Plan, version: int, lock: int) -> list[str]:
        """Returns what is to be said about it. Raises Changed, with nothing done."""
        notes = []
        if wanted.path is not None and wanted.content is not None:
            notes = self.replace(wanted.path, wanted.content, lock)
        elif wanted.path is not None:
            fd, name = self.place(wanted.path)
            os.unlink(name, dir_fd=fd)
            os.fsync(fd)
        if wanted.removes_folder:
            aside = f"{OURS}removed-v{version}-{os.urandom(8).hex()}"
            os.rename(f"v{version}", aside, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            os.fsync(self.fd)
        return notes

    def replace(self, path: str, content: bytes, lock: int) -> list[str]:
        fd, name = self.place(path)
        before = status_in(fd, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(TEMPORARY, dir_fd=fd)
        try:
            # What is new gets the mode that the account's umask leaves, as from the SDK.
            mode = 0o666 if before is None else 0o600
            descriptor = os.open(TEMPORARY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE, mode, dir_fd=fd)
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                notes = [] if before is None else keep_owner(descriptor, before, path)
                os.fsync(descriptor)
            now = status_in(fd, name)
            if (now and token_of(now)) != self.seen.get(path) or not self.holds(lock):
                raise Changed
            os.rename(TEMPORARY, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(TEMPORARY, dir_fd=fd)
            raise
        os.fsync(fd)
        return notes

    def set_aside(self) -> list[str]:
        """The folders that were set aside."""
        with os.scandir(self.fd) as entries:
            return [entry.name for entry in entries if ASIDE.fullmatch(entry.name) and not entry.is_symlink()]

    def sweep(self) -> Iterator[None]:
        """Removes the folders that were set aside; yields after each folder in them."""
        for name in self.set_aside():
            with contextlib.suppress(FileNotFoundError):  # another one sweeps, too
                yield from remove_tree(name, self.fd)


def status_in(fd: int, path: str) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def keep_owner(descriptor: int, before: os.stat_result, path: str) -> list[str]:
    """Gives a new file the mode, owner and group of the one that it replaces. Only root may give a file to another
    account: then it is ours, never readable for more accounts than before, and a note says so."""
    mode = stat.S_IMODE(before.st_mode)
    notes = []
    mine = os.fstat(descriptor)
    if mine.st_gid != before.st_gid:
        try:
            os.fchown(descriptor, -1, before.st_gid)
        except PermissionError:
            mode &= ~stat.S_IRWXG
            notes.append(f"{path} could not keep its group and is closed to it now")
    if mine.st_uid != before.st_uid:
        try:
            os.fchown(descriptor, before.st_uid, -1)
        except PermissionError:
            notes.append(f"{path} belongs to the account that made this change now")
    os.fchmod(descriptor, mode)
    return notes


def remove_tree(name: str, dir_fd: int) -> Iterator[None]:
    for _, folders, files, fd in os.fwalk(name, topdown=False, follow_symlinks=False, dir_fd=dir_fd):
        for file in files:
            os.unlink(file, dir_fd=fd)
        for folder in folders:
            try:
                os.rmdir(folder, dir_fd=fd)
            except NotADirectoryError:
                os.unlink(folder, dir_fd=fd)  # a link to a folder
        yield
    os.rmdir(name, dir_fd=dir_fd)


def edit(
    root: bytes, artifact: bytes, request: dict[str, Any], is_wanted: Callable[[], bool] = lambda: True
) -> list[str]:
    """Makes one edit of the artifact whose folder is named; returns what is to be said about it. Raises EditRefused.

    `is_wanted` is asked under the lock, which may have taken its time.
    """
    with refusals(), contextlib.closing(ArtifactFolder(root, artifact)) as folder:
        for _ in range(TRIES):
            with folder.locked() as lock:
                if not is_wanted():
                    raise EditRefused("conflict", "whoever asked for it has gone: nothing was changed")
                try:
                    wanted = plan(request, folder.name, folder.state(request["version"]), time.time())
                    return folder.carry_out(wanted, request["version"], lock)
                except Changed:
                    continue
    raise EditRefused("conflict", "other programs change it all the time: try again in a moment")


def sweep(root: bytes, artifact: bytes) -> Iterator[None]:
    """Removes what edits of this artifact set aside; yields now and then. Raises EditRefused."""
    with refusals(), contextlib.closing(ArtifactFolder(root, artifact)) as folder:
        yield from folder.sweep()


def is_left(root: bytes, artifact: bytes) -> bool:
    """Whether anything that edits of this artifact set aside is still there."""
    try:
        with contextlib.closing(ArtifactFolder(root, artifact)) as folder:
            return bool(folder.set_aside())
    except OSError:
        return False


def look(root: bytes, artifact: bytes, known: dict[bytes, bytes]) -> Iterator[Event]:
    """What a scan would tell of this artifact; `known` has the paths below its folder alone."""
    return Scan(root, known, artifact).events()


@contextlib.contextmanager
def refusals() -> Generator[None, None, None]:
    """Makes a refusal of what the system says."""
    try:
        yield
    except RecursionError:  # no version's: a path of a manifest has 2,000 folders at most, and os.fwalk takes fewer
        raise EditRefused("server_error", "its folders lie too deep in each other to be removed") from None
    except OSError as error:
        code = REASONS.get(error.errno or 0, "server_error")
        if code == "access_denied":
            raise EditRefused(code, f"the store's files do not let this account change it ({error.strerror})") from None
        if code == "no_space":
            raise EditRefused(code, "the disk of the store is full") from None
        where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, (str, bytes)) else ""
        raise EditRefused(code, f"{error.strerror}{where}") from None


def somebody_listens() -> bool:
    """Whether standard output still leads to somebody: sshd closes its end when the line breaks."""
    listening = select.poll()
    listening.register(1, 0)  # errors and the end are told in any case
    return not listening.poll(0)


def main() -> None:
    """Reads one request from standard input, writes the marker and then the frames to standard output."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    request = json.loads(stdin.readline().decode("ascii"))
    known = unpack_known(read_exactly(stdin, request["known_bytes"]))
    root, artifact = bytes.fromhex(request["root"]), bytes.fromhex(request["artifact"])
    stdout.write(request["marker"].encode("ascii"))
    stdout.flush()  # who does not see it takes it that nothing was changed
    frames = FrameWriter(stdout)
    told = time.monotonic()
    try:
        if request["edit"]["action"] == SWEEP:
            for _ in sweep(root, artifact):
                if time.monotonic() - told > ALIVE_EVERY_S:
                    told = time.monotonic()
                    frames.write(ALIVE, [])
            frames.write(DONE, [])
        else:
            notes = edit(root, artifact, request["edit"], somebody_listens)
            if is_left(root, artifact):
                frames.write(LEFT, [])
            frames.write(DONE, list(notes))
            frames.flush()  # whatever becomes of the line now, this is known
            for event in look(root, artifact, known):
                frames.write(event[0], header_of(event), event[5] if event[0] == DOCUMENT else b"")
        frames.write(END, [])
    except EditRefused as refused:
        frames.write(REFUSED, [refused.code, refused.message])
    frames.close()

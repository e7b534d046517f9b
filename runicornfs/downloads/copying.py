"""One file of a task: read through the cache in order, and written to where it belongs or, in a prefetch, nowhere.

Whatever a reader of the mount would share with others is shared here too: nothing is fetched twice, what is in the
cache is not fetched at all, and what came before a task was stopped is there for the next one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from runicornfs.content.contents import CACHED, VERIFIED, WHOLE, Contents, Reader
from runicornfs.content.reader import CachedReader
from runicornfs.content.wishes import Rank
from runicornfs.downloads.records import FileHere, Placed
from runicornfs.downloads.selection import WantedFile
from runicornfs.downloads.target import Part, TargetFolder
from runicornfs.downloads.task import Task
from runicornfs.errors import ContentMismatch, RunicornFSError
from runicornfs.store.paths import printable

# Read at once. All of it must be in the cache at one time, also in a small cache with several files on their way.
CHUNK = 256 * 1024
# Written data is brought to the disk this often, so that the last fsync, which nothing interrupts, has little to do.
SYNCED_AT_ONCE = 64 << 20
# A server that is away is waited for this long without a byte having come, with growing pauses.
PATIENCE_S = 60.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
# ioctl_ficlone(2): a file takes on all blocks of another, which both share until one of them is written to.
FICLONE = 0x40049409

Result = TypeVar("Result")


def place(file: WantedFile, contents: Contents, task: Task, target: TargetFolder) -> None:
    """Brings a file to its place in the target, verified. Raises ContentMismatch, Conflict, Interrupted, the errors of
    a `Reader`, and OSError where the target refuses."""
    cached, _ = _cached(file, contents)

    def write(reader: Reader) -> Placed:
        with target.part() as part:
            if _clone(reader, part):
                task.advance(file.path, file.size)
            else:
                _write(file, _chunks(file, reader, task), part)
            part.finish(file.modified_at)
            task.check()
            return target.place(part, file.path, task.order.overwrite)

    task.file_begins(file.path, cached)
    placed = None
    try:
        placed = _with_reader(file, contents, task, Rank.DOWNLOAD, write)
    finally:
        task.file_ends(file.path, placed is not None, placed)
    if not cached:
        contents.demote([file.identity.key])


def prefetch(file: WantedFile, contents: Contents, task: Task) -> None:
    """Brings a file into the cache, verified where it has a digest. Raises what `place` does."""
    cached, is_here = _cached(file, contents)

    def read(reader: Reader) -> None:
        if is_here:
            task.advance(file.path, file.size)
            return
        for _ in _chunks(file, reader, task):
            pass  # the last one is given out when all of the content has matched its digest

    task.file_begins(file.path, cached)
    done = False
    try:
        _with_reader(file, contents, task, Rank.PREFETCH, read)
        done = True
    finally:
        task.file_ends(file.path, done)


def look(files: Sequence[WantedFile], contents: Contents) -> list[FileHere]:
    """How much of each file is in the cache."""
    cached = contents.cached_bytes(list({file.identity.key for file in files}))
    found = []
    for file in files:
        size, state = cached[file.identity.key]
        is_here = state == VERIFIED or (state == CACHED and (size == WHOLE or file.identity.sha256 is None))
        found.append(FileHere(file.path, file.size, min(file.size, size), is_here))
    return found


def is_same(file: WantedFile, target: TargetFolder, check: Callable[[], None] = lambda: None) -> bool:
    """Whether what stands in the target is the file that is wanted; one without a digest is known by size and time.

    `check()` is called again and again while a file is read, and may raise.
    """
    status = target.status(file.path)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
        return False
    if file.identity.sha256 is None:
        return file.modified_at is not None and abs(status.st_mtime - file.modified_at) < 1
    digest = hashlib.sha256()
    with target.open(file.path) as fd:
        while data := os.read(fd, CHUNK):
            digest.update(data)
            check()
    return digest.digest() == file.identity.sha256


def _with_reader(
    file: WantedFile, contents: Contents, task: Task, rank: Rank, use: Callable[[Reader], Result]
) -> Result:
    """Uses an open reader of the file; once more, with a new one, where its bytes turned out to be wrong."""
    for last in (False, True):
        with closing(contents.open(file.identity)) as reader:
            if isinstance(reader, CachedReader):
                reader.stand_back(rank)
            try:
                return use(reader)
            except ContentMismatch:
                if last:
                    raise ContentMismatch(f"checksum mismatch: {printable(file.path)}") from None
        task.file_begins_anew(file.path)
    raise AssertionError("the second time returns or raises")


def _clone(reader: Reader, part: Part) -> bool:
    """Lets the part share the blocks of a content that is whole and verified; False where that cannot be."""
    if not isinstance(reader, CachedReader) or reader.state != VERIFIED or (fd := reader.share()) is None:
        return False
    try:
        fcntl.ioctl(part.fd, FICLONE, fd)
    except OSError:  # most file systems cannot, and say so in many ways; the file is as empty as it was
        return False
    finally:
        os.close(fd)
    return True


def _write(file: WantedFile, chunks: Iterator[bytes], part: Part) -> None:
    digest = hashlib.sha256()
    unsynced = 0
    for data in chunks:
        digest.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(part.fd, view) :]
        unsynced += len(data)
        if unsynced >= SYNCED_AT_ONCE:
            os.fdatasync(part.fd)
            unsynced = 0
    if file.identity.sha256 not in (None, digest.digest()):
        raise ContentMismatch(f"checksum mismatch: {printable(file.path)}")


def _chunks(file: WantedFile, reader: Reader, task: Task) -> Iterator[bytes]:
    """All of the file, in order. Waits while the server is away; raises when it has been for too long."""
    offset = 0
    while offset < file.size:
        data = _read(file, reader, offset, task)
        offset += len(data)
        yield data
        task.advance(file.path, len(data))


def _read(file: WantedFile, reader: Reader, offset: int, task: Task) -> bytes:
    deadline = None
    pause = FIRST_PAUSE_S
    while True:
        task.check()
        try:
            return reader.read(offset, CHUNK, task.interrupted)
        except RunicornFSError as error:
            now = time.monotonic()
            deadline = deadline or now + PATIENCE_S
            if not error.is_temporary or now > deadline:
                raise
            task.file_waits(file.path, str(error))
        task.pause(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _cached(file: WantedFile, contents: Contents) -> tuple[int, bool]:
    (here,) = look([file], contents)
    return here.cached_bytes, here.is_here

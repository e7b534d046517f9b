"""A server that is a folder of this machine and fails on command: what the content cache is tested against."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Reader
from runicornfs.content.identity import Identity
from runicornfs.errors import MissingOnServer
from runicornfs.store.files import Job, RemoteFile
from tests.waiting import PATIENCE_S, wait_until

# Ranges that a fill has asked for before the first is answered, as a real one does.
DEPTH = 3


class Fault:
    """Goes wrong in one fill, after so many bytes: raises `error`, or without one ends as if all had come."""

    def __init__(self, error: Exception | None, after: int = 0) -> None:
        self.error = error
        self.after = after


class FakeTransfers:
    """Implements `contents.Transfers`. Thread-safe.

    `asked` are the ranges that were taken, as (path, offset, length). `faults` are used up in order, one a fill or
    a job. `together` says how many jobs each `fill_many` was, which counts as one of the `fills`.
    `corrupt[path]` is how many more times the first byte of this file comes wrong.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[str, int, int]] = []
        self.fills = 0
        self.together: list[int] = []
        self.running = 0
        self.faults: list[Fault] = []
        self.corrupt: dict[str, int] = {}
        self.line_is = (0.05, 0.0)
        self._lock = threading.Condition()
        self._allowed: int | None = None

    def add(self, path: str, content: bytes, digest: bool = True) -> Identity:
        """A file on the server and its identity, by its sha256 or without one."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if not digest:
            return Identity(f"plain-{path}", path, len(content), None, 1)
        sha256 = hashlib.sha256(content)
        return Identity(sha256.hexdigest(), path, len(content), sha256.digest(), None)

    def hold(self, after: int = 0) -> None:
        """From now on only so many more ranges are answered, until `release`."""
        with self._lock:
            self._allowed = after

    def release(self) -> None:
        with self._lock:
            self._allowed = None
            self._lock.notify_all()

    @property
    def bytes_asked(self) -> int:
        return sum(length for _, _, length in list(self.asked))

    def times_asked(self, path: str, block: int) -> int:
        """How often this block was asked for."""
        return sum(
            1 for name, offset, length in list(self.asked) if name == path and offset <= block * BLOCK < offset + length
        )

    def line(self) -> tuple[float, float]:
        return self.line_is

    def fill(
        self, file: RemoteFile, wanted: Iterator[tuple[int, int]], fd: int, received: Callable[[int, int], None]
    ) -> None:
        with self._counted():
            self._fill(file, wanted, fd, received)

    def fill_many(self, jobs: Sequence[Job]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        with self._counted():
            self.together.append(len(jobs))
            for job in jobs:
                try:
                    self._fill(job.file, iter(job.ranges), job.fd, job.received)
                    errors.append(None)
                except Exception as error:
                    errors.append(error)
        return errors

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.fills += 1
            self.running += 1
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1

    def _fill(
        self, file: RemoteFile, wanted: Iterator[tuple[int, int]], fd: int, received: Callable[[int, int], None]
    ) -> None:
        with self._lock:
            fault = self.faults.pop(0) if self.faults else None
        if not (self.root / file.path).exists():
            raise MissingOnServer(f"{file.path} is not there")
        self._answer(file.path, wanted, fd, received, fault)

    def _answer(
        self,
        path: str,
        wanted: Iterator[tuple[int, int]],
        fd: int,
        received: Callable[[int, int], None],
        fault: Fault | None,
    ) -> None:
        source = os.open(self.root / path, os.O_RDONLY)
        sent = 0
        try:
            flying: list[tuple[int, int]] = []
            while True:
                while len(flying) < DEPTH and (span := next(wanted, None)) is not None:
                    self.asked.append((path, *span))
                    flying.append(span)
                if fault is not None and (sent >= fault.after or not flying):
                    if fault.error is not None:
                        raise fault.error
                    return
                if not flying:
                    return
                self._wait_for_leave()
                offset, length = flying.pop(0)
                os.pwrite(fd, self._bytes(path, source, offset, length), offset)
                sent += length
                received(offset, length)
        finally:
            os.close(source)

    def _bytes(self, path: str, source: int, offset: int, length: int) -> bytes:
        data = os.pread(source, length, offset)
        with self._lock:
            if offset == 0 and self.corrupt.get(path, 0) > 0:
                self.corrupt[path] -= 1
                data = bytes([data[0] ^ 1]) + data[1:]
        return data

    def _wait_for_leave(self) -> None:
        with self._lock:
            while self._allowed == 0:
                self._lock.wait()
            if self._allowed is not None:
                self._allowed -= 1


class Caches:
    """Caches over the same folder, one after the other; the last one is closed at the end."""

    def __init__(self, folder: Path, transfers: FakeTransfers) -> None:
        self.folder = folder
        self.transfers = transfers
        self._stack = contextlib.ExitStack()

    def open(self, limit: int = 1 << 40, min_free: int = 0) -> ContentCache:
        cache = ContentCache(self.folder, self.transfers, limit, min_free)
        self._stack.callback(cache.close)
        return cache

    def __enter__(self) -> Caches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.transfers.release()
        self._stack.close()


def content_of(size: int, seed: int = 0) -> bytes:
    """Bytes of which no two blocks are the same."""
    return hashlib.shake_128(b"%d" % seed).digest(size)


def read_on(reader: Reader, size: int) -> bytes:
    """What a program gets that reads `size` bytes from the start, block by block."""
    return b"".join(reader.read(offset, BLOCK) for offset in range(0, size, BLOCK))


def read_all(cache: ContentCache, identity: Identity, step: int = BLOCK) -> bytes:
    """The whole content, as a program reads it from its start."""
    reader = cache.open(identity)
    try:
        return b"".join(reader.read(offset, step) for offset in range(0, identity.size, step))
    finally:
        reader.close()


def copy_as_killed(cache: ContentCache, folder: Path, copy: Path) -> None:
    """The cache's folder as the program would leave it if it were killed now. Nothing is fetched by it afterwards.

    SQLite's log and the page cache outlive a process, so a copy is all there is to it, if nothing writes meanwhile.
    """
    cache._fetcher.workers.stop()
    cache._verifier.workers.stop()
    cache._fetcher.workers.join(PATIENCE_S)
    cache._verifier.workers.join(PATIENCE_S)
    with cache._records.database.writing:
        subprocess.run(["cp", "-a", "--sparse=always", folder, copy], check=True)


def counted(cache: ContentCache) -> tuple[int, int]:
    """What the room says is used, and the sum of what the contents say. Only when nothing is being fetched."""
    entries = cache._table.entries()
    cache._flusher.flush()
    in_use = {entry.key for entry in entries}
    rows = cache._records.database.select("SELECT key, cached_bytes FROM contents")
    at_rest = sum(cached_bytes for key, cached_bytes in rows if key not in in_use)
    return cache._room.used, at_rest + sum(entry.held for entry in entries)


def wait_at_rest(cache: ContentCache) -> None:
    """Returns when all that was closed can be evicted: threads give it back in a moment."""
    wait_until(lambda: not cache._table.entries(), "the contents to be given back")


def disk_bytes(folder: Path) -> int:
    """The space that the sparse files really take."""
    total = 0
    for entry in os.scandir(folder / "blocks"):
        with contextlib.suppress(FileNotFoundError):  # evicted this moment
            total += entry.stat().st_blocks * 512
    return total

"""`python -m scripts.soaking.reading`: one reader, a process that can be killed. Only the standard library.

It takes jobs as lines of JSON on standard input and answers each with lines of JSON: `{"at": bytes}` now and then while
it gets on, and at the end what came of it. Every byte is compared with the plain files that the path may stand for; all
that is read through one descriptor has to be of one of them.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

PIECE = 128 * 1024
SAY_EVERY_S = 1.0  # less than a line a second would look like hanging

T = TypeVar("T")


class Wrong(Exception):
    """Bytes that are not the file's."""


class Plain:
    """The files that a path may stand for; `growing`: it is a log, of which the path shows a beginning."""

    def __init__(self, paths: list[str], growing: bool) -> None:
        self.growing = growing
        self.left: list[tuple[str, int]] = []
        for path in paths:
            self.left.append((path, os.open(path, os.O_RDONLY)))

    def has_size(self, size: int) -> None:
        if self.growing:
            return
        self._keep(lambda fd: os.fstat(fd).st_size == size, f"no such file has {size} bytes")

    def has(self, offset: int, data: bytes) -> None:
        self._keep(lambda fd: os.pread(fd, len(data), offset) == data, f"{len(data)} bytes at {offset} are wrong")

    def _keep(self, is_right: Callable[[int], bool], complaint: str) -> None:
        right = [(path, fd) for path, fd in self.left if is_right(fd)]
        if not right:
            raise Wrong(f"{complaint} (compared with {[os.path.basename(path) for path, _ in self.left]})")
        for path, fd in self.left:
            if (path, fd) not in right:
                os.close(fd)
        self.left = right

    def close(self) -> None:
        for _, fd in self.left:
            os.close(fd)


class Progress:
    """bytes: so far. longest: the longest time that one call took, in seconds."""

    def __init__(self) -> None:
        self.bytes = 0
        self.calls = 0
        self.longest = 0.0
        self._said = time.monotonic()

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        start = time.monotonic()
        answer = function(*arguments)
        now = time.monotonic()
        self.longest = max(self.longest, now - start)
        self.calls += 1
        self.bytes += len(answer) if isinstance(answer, bytes) else 0
        if now - self._said > SAY_EVERY_S:
            self._said = now
            say({"at": self.bytes})
        return answer


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def read_all(path: str, plain: Plain, progress: Progress, rng: random.Random) -> None:
    """From the beginning to the end, perhaps with a rest in the middle."""
    with opened(path, plain, progress) as (fd, size):
        step = rng.choice([4096, PIECE, 1 << 20])
        rest_at = rng.randrange(size + 1) if rng.random() < 0.3 else -1
        offset = 0
        while data := progress.call(os.read, fd, step):
            plain.has(offset, data)
            if offset <= rest_at < offset + len(data):
                time.sleep(rng.random() * 3)
            offset += len(data)
        if offset < size or (offset != size and not plain.growing):
            raise Wrong(f"ends after {offset} bytes of {size}")


def read_at(fd: int, offset: int, length: int, plain: Plain, progress: Progress) -> None:
    """A piece that the file has. An error behind its first bytes makes a read short, and the next one tells of it."""
    while length:
        data = progress.call(os.pread, fd, length, offset)
        if not data:
            raise Wrong(f"ends at {offset}, {length} bytes too early")
        plain.has(offset, data)
        offset, length = offset + len(data), length - len(data)


@contextmanager
def opened(path: str, plain: Plain, progress: Progress) -> Iterator[tuple[int, int]]:
    """A descriptor of a file and its size, which must be the plain one's."""
    fd = progress.call(os.open, path, os.O_RDONLY)
    try:
        size = progress.call(os.fstat, fd).st_size
        plain.has_size(size)
        yield fd, size
    finally:
        os.close(fd)


def read_random(path: str, plain: Plain, progress: Progress, rng: random.Random) -> None:
    """Here and there, any length, also over the end."""
    with opened(path, plain, progress) as (fd, size):
        for _ in range(rng.randrange(1, 40)):
            offset, length = rng.randrange(size + 1), rng.choice([1, 512, 4096, 70_000, 300_000])
            read_at(fd, offset, min(length, size - offset), plain, progress)


def read_part(path: str, plain: Plain, progress: Progress, rng: random.Random) -> None:
    """The beginning or the end, and nothing more."""
    with opened(path, plain, progress) as (fd, size):
        offset = rng.choice([0, max(0, size - 65_557)])
        read_at(fd, offset, min(65_536, size - offset), plain, progress)


def read_mapped(path: str, plain: Plain, progress: Progress, rng: random.Random) -> None:
    """Through mmap: some places, or all of it; an error is a SIGBUS, of which this process dies."""
    with opened(path, plain, progress) as (fd, size):
        if size == 0 or plain.growing:
            return
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapped:
            places = list(range(0, size, PIECE))
            if rng.random() < 0.5:
                places = sorted(rng.choices(places, k=8))
            for offset in places:
                data = progress.call(piece_of, mapped, offset)
                plain.has(offset, data)


def piece_of(mapped: mmap.mmap, offset: int) -> bytes:
    return mapped[offset : offset + PIECE]


def walk(path: str, plain: Plain, progress: Progress, rng: random.Random) -> None:
    """Every name below a folder, with its attributes."""
    folders = [path]
    while folders:
        here = folders.pop()
        for name in progress.call(os.listdir, here):
            there = os.path.join(here, name)
            status = progress.call(os.lstat, there)
            if stat.S_ISDIR(status.st_mode):
                folders.append(there)
            elif stat.S_ISLNK(status.st_mode):
                target = progress.call(os.readlink, there)
                if not target.startswith("v"):
                    raise Wrong(f"{there} leads to {target}")


def stat_often(path: str, plain: Plain, progress: Progress, rng: random.Random) -> None:
    """The attributes of one file, again and again."""
    for _ in range(300):
        plain.has_size(progress.call(os.stat, path).st_size)


KINDS = {f.__name__: f for f in (read_all, read_random, read_part, read_mapped, walk, stat_often)}


def do(job: dict[str, Any]) -> dict[str, Any]:
    progress = Progress()
    answer: dict[str, Any] = {"errno": None, "wrong": None}
    plain = Plain(job["plain"], job["growing"])
    try:
        KINDS[job["kind"]](job["path"], plain, progress, random.Random(job["seed"]))
    except Wrong as error:
        answer["wrong"] = str(error)
    except OSError as error:
        answer["errno"] = error.errno
    finally:
        plain.close()
    return answer | {"bytes": progress.bytes, "calls": progress.calls, "longest": progress.longest}


def main() -> None:
    for line in sys.stdin:
        say(do(json.loads(line)))


if __name__ == "__main__":
    main()

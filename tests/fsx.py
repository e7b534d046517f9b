"""Reads a file in every way that a program has, at random, and compares each with a plain copy of it (after fsx).

    python -m tests.fsx MOUNTED PLAIN SEED COUNT

Prints one line for each read that differs, and what the system refused at the end. Exit status 1 where anything
differed.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import sys
import tempfile
from collections.abc import Callable

from runicornfs.content.blocks import BLOCK

PAGE = mmap.PAGESIZE
BORDERS = [1, PAGE, BLOCK, 8 * BLOCK]
LONGEST = 3 * BLOCK


class Reader:
    """Two open files of the same bytes. Each way to read takes an offset and a size, and returns bytes."""

    def __init__(self, mounted: str, plain: bytes, dice: random.Random) -> None:
        self.path = mounted
        self.plain = plain
        self.dice = dice
        self.ways: list[Callable[[int, int], bytes]] = [
            self.pread,
            self.read,
            self.readv,
            self.mapped,
            self.mapped_at_random,
            self.direct,
            self.sent,
            self.spliced,
            self.copied,
        ]
        self.open()

    def open(self) -> None:
        self.fd = os.open(self.path, os.O_RDONLY)
        self.map = mmap.mmap(self.fd, 0, prot=mmap.PROT_READ)

    def reopen(self) -> None:
        self.map.close()
        os.close(self.fd)
        self.open()

    def offset(self) -> int:
        """Anywhere, most often at or beside a border or the end."""
        size = len(self.plain)
        border = self.dice.choice(BORDERS)
        near = self.dice.randrange(size // border + 2) * border + self.dice.choice([-1, 0, 0, 1])
        return max(0, self.dice.choice([near, near, size - 1, size, size + 1, self.dice.randrange(size)]))

    def length(self) -> int:
        border = self.dice.choice([border for border in BORDERS if border <= LONGEST])
        return max(0, min(LONGEST, self.dice.randint(0, 3) * border + self.dice.choice([-1, 0, 1])))

    def pread(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def read(self, offset: int, size: int) -> bytes:
        os.lseek(self.fd, offset, os.SEEK_SET)
        return os.read(self.fd, size)

    def readv(self, offset: int, size: int) -> bytes:
        first = self.dice.randint(0, size)
        buffers = [bytearray(first), bytearray(1), bytearray(max(0, size - first - 1))]
        count = os.preadv(self.fd, buffers, offset)
        return b"".join(buffers)[:count][:size]

    def mapped(self, offset: int, size: int) -> bytes:
        return self.map[offset : offset + size]

    def mapped_at_random(self, offset: int, size: int) -> bytes:
        self.map.madvise(
            self.dice.choice([mmap.MADV_RANDOM, mmap.MADV_SEQUENTIAL, mmap.MADV_WILLNEED, mmap.MADV_DONTNEED])
        )
        return (
            bytes(self.map[at] for at in range(offset, min(offset + min(size, 64), len(self.plain))))
            + self.map[offset + 64 : offset + size]
        )

    def direct(self, offset: int, size: int) -> bytes:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        start = offset // PAGE * PAGE
        buffer = mmap.mmap(-1, (offset + size - start + PAGE - 1) // PAGE * PAGE or PAGE)
        try:
            count = os.preadv(fd, [buffer], start)
            return buffer[:count][offset - start : offset - start + size]
        finally:
            buffer.close()
            os.close(fd)

    def sent(self, offset: int, size: int) -> bytes:
        with tempfile.TemporaryFile(buffering=0) as target:
            while (left := size - target.tell()) and os.sendfile(
                target.fileno(), self.fd, offset + target.tell(), left
            ):
                continue
            target.seek(0)
            return target.readall()

    def spliced(self, offset: int, size: int) -> bytes:
        out, into = os.pipe()
        data = b""
        try:
            while (left := size - len(data)) and (count := os.splice(self.fd, into, left, offset + len(data))):
                data += os.read(out, count)
            return data
        finally:
            os.close(out)
            os.close(into)

    def copied(self, offset: int, size: int) -> bytes:
        with tempfile.TemporaryFile(buffering=0) as target:
            done = 0
            while (left := size - done) and (
                count := os.copy_file_range(self.fd, target.fileno(), left, offset + done, done)
            ):
                done += count
            target.seek(0)
            return target.readall()

    def seek(self, offset: int) -> str | None:
        """What SEEK_DATA and SEEK_HOLE say: where data ends, nothing is left out."""
        size = len(self.plain)
        if offset >= size:
            return None
        data, hole = os.lseek(self.fd, offset, os.SEEK_DATA), os.lseek(self.fd, offset, os.SEEK_HOLE)
        if any(self.plain[offset:data]) or hole < size:
            return f"data at {data}, a hole at {hole}"
        return None


def run(mounted: str, copy: str, seed: int, count: int) -> int:
    with open(copy, "rb") as file:
        plain = file.read()
    dice = random.Random(seed)
    reader = Reader(mounted, plain, dice)
    wrong = 0
    refused: dict[str, int] = {}
    for step in range(count):
        if dice.random() < 0.05:
            reader.reopen()
        way, offset, size = dice.choice(reader.ways), reader.offset(), reader.length()
        try:
            data = way(offset, size)
            told = reader.seek(offset) if dice.random() < 0.1 else None
            assert os.fstat(reader.fd).st_size == len(plain)
        except OSError as error:
            name = f"{way.__name__}: {errno.errorcode.get(error.errno or 0)}"
            refused[name] = refused.get(name, 0) + 1
            continue
        if data != plain[offset : offset + size] or told:
            wrong += 1
            answer = told or f"{len(data)} bytes, other ones"
            print(f"step {step}: {way.__name__} of {size} at {offset} of {mounted} gave {answer}")
    for name, times in sorted(refused.items()):
        print(f"refused {name}, {times} times")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))

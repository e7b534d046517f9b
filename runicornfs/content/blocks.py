"""Block arithmetic, and the map that says what has become of each block of a content.

The map is one byte a block in memory, so that a reader without a lock can look at it; at rest it is one compressed byte
a block that is on the disk, which for a whole file is a few bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

# What is fetched, kept and dropped as one. The largest read that the kernel's read-ahead makes by default: smaller
# blocks make more work per byte, larger ones fetch what nobody asked for.
BLOCK = 128 * 1024

# States of a block. Only PRESENT ones are served.
ABSENT = 0
PRESENT = 1
WANTED = 2  # in the queue, because a reader waits for it
FLYING = 3  # asked of the server
WITHHELD = 4  # on the disk, but served only when the content's sha256 has been checked

_ON_DISK = bytes(1 if state in (PRESENT, WITHHELD) else 0 for state in range(256))
_ABSENT_RUN = re.compile(rb"\x00+")


def count_of(size: int) -> int:
    """How many blocks a content of `size` bytes has."""
    return -(-size // BLOCK)


def bytes_in(first: int, stop: int, size: int) -> int:
    """The bytes of the blocks from `first` up to `stop` of a content of `size` bytes."""
    return max(0, min(stop * BLOCK, size) - first * BLOCK)


def pack(states: bytearray) -> bytes:
    """Which blocks are on the disk, for `unpack`."""
    return zlib.compress(states.translate(_ON_DISK), 1)


def unpack(data: bytes, count: int) -> bytearray:
    """The map of `count` blocks, PRESENT or ABSENT. Raises ValueError if `data` is anything else."""
    try:
        states = zlib.decompressobj().decompress(data, count + 1)
    except zlib.error as error:
        raise ValueError("the map of blocks does not unpack") from error
    if len(states) != count or states.count(ABSENT) + states.count(PRESENT) != count:
        raise ValueError("the map of blocks is not one")
    return bytearray(states)


def absent_runs(states: bytearray) -> Iterator[tuple[int, int]]:
    """The runs (first, stop) of ABSENT blocks."""
    return (match.span() for match in _ABSENT_RUN.finditer(states))


def runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Block numbers as runs (first, stop), in order."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and found[-1][1] == block:
            found[-1] = (found[-1][0], block + 1)
        else:
            found.append((block, block + 1))
    return found

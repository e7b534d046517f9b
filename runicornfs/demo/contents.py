"""File contents for sample stores: what programs of this field really open, made quickly and the same every time."""

from __future__ import annotations

import json
import math
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeAlias

# A file's content: the bytes, or something that writes them (for what should not lie in memory).
Content: TypeAlias = bytes | Callable[[IO[bytes]], None]
# Random bytes are made in pieces of this size; larger ones are no faster.
PIECE = 1 << 20


def safetensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Callable[[IO[bytes]], None]:
    """A valid safetensors file of int8 tensors, of which every bit pattern is a number."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        header[name] = {"dtype": "I8", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()

    def write(file: IO[bytes]) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        random_bytes(end, seed)(file)

    return write


def random_bytes(size: int, seed: int) -> Callable[[IO[bytes]], None]:
    """Content of `size` bytes that does not compress and is the same for the same seed."""

    def write(file: IO[bytes]) -> None:
        source = random.Random(seed)  # noqa: S311 (content of a sample, no secret)
        for start in range(0, size, PIECE):
            file.write(source.randbytes(min(PIECE, size - start)))

    return write


def picture(side: int, colour: int) -> bytes:
    """A square PNG of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes((colour * 37 % 256, colour * 91 % 256, colour * 151 % 256)) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * side)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body

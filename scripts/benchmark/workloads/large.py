"""The store of large files that several workloads read: random bytes, which nothing on the way can compress.

They repeat after 16 MiB, farther apart than anything looks back, since a gigabyte of them takes seconds to make.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import IO

from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark.bench import MIB, Bench

READERS = 8  # files that are read at the same time
TILE = 16 * MIB


def sizes(bench: Bench) -> dict[str, int]:
    """Bytes of each file, by the name of its artifact."""
    quick = 4 if bench.quick else 1
    files = {"large": 1024 * MIB // quick, "medium": 256 * MIB // quick, "small": 64 * MIB // quick}
    return files | {f"reader-{number}": 32 * MIB // quick for number in range(READERS)}


def root(bench: Bench) -> Path:
    def build(writer: StoreWriter) -> None:
        for seed, (name, size) in enumerate(sizes(bench).items()):
            writer.add_version("model", name, {"weights.bin": content(size, seed)})

    return bench.store("large", build)


def content(size: int, seed: int) -> Callable[[IO[bytes]], None]:
    """`size` bytes, the same for the same seed."""

    def write(file: IO[bytes]) -> None:
        tile = random.Random(seed).randbytes(TILE)
        for start in range(0, size, TILE):
            file.write(tile[: size - start])

    return write


def path(name: str) -> Path:
    """Below the root, on the server as in a mount."""
    return Path("artifacts/model") / name / "v1/files/weights.bin"

"""The store of large files that several workloads read: random bytes, which nothing on the way can compress."""

from __future__ import annotations

from pathlib import Path

from runicornfs.demo.contents import random_bytes
from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark.bench import MIB, Bench

READERS = 8  # files that are read at the same time


def sizes(bench: Bench) -> dict[str, int]:
    """Bytes of each file, by the name of its artifact."""
    quick = 4 if bench.quick else 1
    files = {"large": 1024 * MIB // quick, "medium": 256 * MIB // quick, "small": 64 * MIB // quick}
    return files | {f"reader-{number}": 32 * MIB // quick for number in range(READERS)}


def root(bench: Bench) -> Path:
    def build(writer: StoreWriter) -> None:
        for seed, (name, size) in enumerate(sizes(bench).items()):
            writer.add_version("model", name, {"weights.bin": random_bytes(size, seed)})

    return bench.store("large", build)


def path(name: str) -> Path:
    """Below the root, on the server as in a mount."""
    return Path("artifacts/model") / name / "v1/files/weights.bin"

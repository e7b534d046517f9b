"""The vocabulary of contents, and the two seams of this part: who reads from it, and from where it fetches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from runicornfs.content.identity import Identity
from runicornfs.store.files import RemoteFile

# How much of a content is on this machine, and whether its sha256 has been checked.
REMOTE: Final = "remote"
PARTIAL: Final = "partial"
CACHED: Final = "cached"
VERIFIED: Final = "verified"

# What `cached_bytes` answers for a content that is whole here, however large it is.
WHOLE: Final = 1 << 62

Interruption = Callable[[], bool]


def never() -> bool:
    """For a reader that nobody interrupts."""
    return False


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What the cache holds and has done since it was opened. Sizes in bytes."""

    size_bytes: int
    limit_bytes: int
    files: int
    partial_files: int
    verified_files: int
    hits: int  # reads that were answered at once
    misses: int  # reads that had to wait for the server
    hit_ratio: float  # 0 while nothing has been read
    bytes_fetched: int
    bytes_served: int
    evictions: int  # whole contents
    mismatches: int  # contents whose bytes did not have their sha256


class Reader(Protocol):
    """An open content. Thread-safe."""

    @property
    def state(self) -> str: ...

    def read(self, offset: int, size: int, interrupted: Interruption = never) -> bytes:
        """Up to `size` bytes from `offset`, fewer only at the end of the file. May wait for the server.

        Raises Interrupted as soon as `interrupted()` says so (asked every quarter of a second), NoSpace,
        ContentMismatch, StaleFile, the other ServerErrors, and OSError where the disk fails.
        """
        ...

    def close(self) -> None:
        """Gives the content back. A second time does nothing."""
        ...


class Contents(Protocol):
    """Where a mount gets bytes from: the cache of a server's files, or the files of this machine. Thread-safe."""

    def open(self, identity: Identity) -> Reader:
        """Raises StaleFile where the content is known to have another size."""
        ...

    def cached_bytes(self, keys: list[str]) -> dict[str, tuple[int, str]]:
        """Of each key, how many bytes are on this machine, and the state.

        The number may be larger than the file (`WHOLE` in local mode, which knows no sizes): take the smaller of both.
        """
        ...

    def free_bytes(self) -> int:
        """What can still be stored without evicting anything."""
        ...

    def status(self) -> CacheStatus: ...

    def on_dropped(self, callback: Callable[[str], None]) -> None:
        """`callback(key)` is called, with no lock held, when a content was dropped because its sha256 did not match."""
        ...

    def close(self) -> None:
        """Ends all transfers; readers that wait get an error. A second time does nothing."""
        ...


class Transfers(Protocol):
    """The server, as contents see it. Thread-safe: several fills run at once."""

    def fill(
        self, file: RemoteFile, wanted: Iterator[tuple[int, int]], fd: int, received: Callable[[int, int], None]
    ) -> None:
        """Writes the ranges (offset, length) of `file` into `fd` at the same offsets, calling `received` for each.

        `wanted` is asked for the next range only when there is room for it on the line; when it ends, what is on its
        way is awaited. Raises ServerErrors; an OSError of a write passes through.
        """
        ...

    def line(self) -> tuple[float, float]:
        """Round trip in seconds, throughput in bytes per second (0 while unknown)."""
        ...

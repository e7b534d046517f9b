"""The vocabulary of contents, and the two seams of this part: who reads from it, and from where it fetches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from runicornfs.content.identity import Identity
from runicornfs.store.files import Job, RemoteFile

# How much of a content is on this machine, and whether its sha256 has been checked.
REMOTE: Final = "remote"
PARTIAL: Final = "partial"
CACHED: Final = "cached"
VERIFIED: Final = "verified"

# What `cached_bytes` answers for a content that is whole here, however large it is.
WHOLE: Final = 1 << 62

# Contents of up to this many bytes are fetched together where several are wanted at the same time: each takes less time
# than a round trip, 2.6 ms at 100 MB/s.
SMALL: Final = 256 << 10

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
    waits: list[int]  # reads that waited, by how long: see `counters.WAIT_BOUNDS_S`
    waited_s: float  # all of them together, in seconds


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A content of which something is here. `key` is the hex of its sha256 where it has one; `path` is a place in the
    store where it lies or lay. Sizes in bytes, `last_used` in Unix seconds."""

    key: str
    path: str
    size_bytes: int
    cached_bytes: int
    state: str
    pinned: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class Pin:
    """Contents that no lack of room evicts. Sizes in bytes: of all of them, and of what is here."""

    label: str
    files: int
    size_bytes: int
    cached_bytes: int


@dataclass(frozen=True, slots=True)
class Freed:
    """What a removal has done: contents that are gone, their bytes, and the bytes that go when they are closed."""

    files: int
    size_bytes: int
    open_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Verification:
    """How far the check of what is cached is. Contents that are evicted meanwhile count no more; times in Unix seconds.

    `skipped_files` have no sha256. `error` says why it failed.
    """

    status: str = "idle"  # then running, completed, failed
    started_at: float | None = None
    completed_at: float | None = None
    total_files: int = 0
    checked_files: int = 0
    total_bytes: int = 0
    checked_bytes: int = 0
    corrupt_files: int = 0
    skipped_files: int = 0
    error: str | None = None


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

    def share(self) -> int | None:
        """A read-only descriptor of all of the content, that the caller closes; None while it is not whole here, or may
        still change. What it shows never does. Raises OSError."""
        ...

    def close(self) -> None:
        """Gives the content back. A second time does nothing."""
        ...


class Contents(Protocol):
    """Where a mount gets bytes from: the cache of a server's files, or the files of this machine. Thread-safe."""

    def open(self, identity: Identity, given: bool = False) -> Reader:
        """Raises StaleFile where the content is known to have another size.

        `given`: whoever opens it has been given bytes of it by an earlier owner of the cache, so it must hear of it
        where they turn out to be wrong.
        """
        ...

    def cached_bytes(self, keys: list[str]) -> dict[str, tuple[int, str]]:
        """Of each key, how many bytes are on this machine, and the state.

        The number may be larger than the file (`WHOLE` in local mode, which knows no sizes): take the smaller of both.
        """
        ...

    def moves(self) -> int:
        """Another number than before when `cached_bytes` may answer something else: compare, do not count."""
        ...

    def free_bytes(self) -> int:
        """What can still be stored without evicting anything."""
        ...

    def status(self) -> CacheStatus: ...

    def mismatches(self) -> int:
        """How many contents did not have their sha256 so far. A content is counted before any reader hears of it: who
        has opened one, and finds as many as `on_dropped` has told of, knows that no bad bytes of it are in use."""
        ...

    def on_dropped(self, callback: Callable[[str], None]) -> None:
        """`callback(key)` is called, with no lock held, when a content was dropped because its sha256 did not match."""
        ...

    def files(self, sort: str, limit: int) -> list[CachedFile]:
        """What is cached: the first `limit` in the order of `sort`, which is `last_used` (newest first), `oldest` or
        `size` (largest share here first). Raises InvalidInput for anything else."""
        ...

    def pin(self, label: str, sizes: dict[str, int]) -> None:
        """Keeps these contents (key: bytes), which may not be here yet, from being evicted until `unpin(label)`; what
        the label stood for before is let go. Raises NoSpace where all that is pinned does not fit into the cache,
        Refused where nothing is ever kept."""
        ...

    def unpin(self, label: str) -> None:
        """Raises NotFound where nothing is pinned under this label."""
        ...

    def pins(self) -> list[Pin]:
        """By label."""
        ...

    def cleanup(self) -> Freed:
        """Evicts, least recently used first, what is more than the limit, or more than the disk has room for."""
        ...

    def demote(self, keys: list[str]) -> None:
        """Those of these contents that nobody has open will be the first to be evicted."""
        ...

    def evict(self, keys: list[str]) -> Freed:
        """Drops those of these contents that are neither open nor pinned."""
        ...

    def clear(self) -> Freed:
        """Drops everything, pinned or not. What is open stays until it is closed for the last time, and goes then; pins
        stay as wishes."""
        ...

    def verify(self) -> Verification:
        """Starts to check every whole content against its sha256, or joins the check that runs; returns at once.

        A content that does not match is dropped. Raises Refused where nothing is ever kept."""
        ...

    def verification(self) -> Verification:
        """How far the check is that was started last."""
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

    def fill_many(self, jobs: Sequence[Job]) -> list[Exception | None]:
        """Does the jobs, of small files, at once and in few round trips; returns what `fill` would have raised for
        each, None where all of it has come."""
        ...

    def line(self) -> tuple[float, float]:
        """Round trip in seconds, throughput in bytes per second (0 while unknown)."""
        ...

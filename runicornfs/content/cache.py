"""The cache of a server's contents on this machine's disk: composes the parts of this package and is their face."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from runicornfs.content.contents import (
    CACHED,
    PARTIAL,
    REMOTE,
    VERIFIED,
    CachedFile,
    CacheStatus,
    Freed,
    Pin,
    Transfers,
    Verification,
)
from runicornfs.content.counters import Counters
from runicornfs.content.eviction import Evictor
from runicornfs.content.fetch import Fetcher
from runicornfs.content.flusher import Flusher
from runicornfs.content.identity import Identity
from runicornfs.content.pins import Pins
from runicornfs.content.reader import CachedReader
from runicornfs.content.records import ORDERS, Records
from runicornfs.content.room import Room
from runicornfs.content.scrub import Scrub
from runicornfs.content.sparse import SparseFiles
from runicornfs.content.table import Table
from runicornfs.content.verify import Verifier
from runicornfs.errors import InvalidInput, RunicornFSError, Unreachable

log = logging.getLogger("runicornfs.content")

# Transfers that are still running get this long to end when the cache is closed. One that waits for a dead server does
# not make it: it ends by itself, and its file is closed then.
CLOSING_S = 5.0
# A person looks at the first ones.
LISTED_AT_MOST = 1000


class ContentCache:
    """Contents fetched block by block through `transfers` and kept in `folder`; implements `contents.Contents`.

    One process at a time may have a folder (its owner sees to that). At most `limit_bytes` are kept, and
    `min_free_bytes` of the disk are left to others. Thread-safe.
    """

    def __init__(self, folder: Path, transfers: Transfers, limit_bytes: int, min_free_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = SparseFiles(folder / "blocks")
        self._records = Records(folder)
        if self._records.anew:
            files.remove_others(self._records.files())
        self._counters = Counters()
        self._pins = Pins(self._records.database)
        self._room = Room(limit_bytes, min_free_bytes, self._records.totals().cached_bytes, files.free_bytes)
        self._flusher = Flusher(files, self._records)
        self._table = Table(files, self._records, self._room, self._flusher)
        self._table.recover()
        self._evictor = Evictor(files, self._records, self._pins, self._room, self._table, self._counters)
        self._verifier = Verifier(self._table, self._flusher, self._counters)
        self._scrub = Scrub(files, self._records, self._table, self._flusher, self._verifier)
        self._fetcher = Fetcher(
            transfers, self._table, self._evictor, self._room, self._flusher, self._verifier, self._counters
        )
        self._verifier.resubmit = self._fetcher.submit
        self._closed = False
        # The limit may be lower than last time. Nobody waits for that: what is written makes room for itself.
        self._cleaner = threading.Thread(target=self._clean_up_quietly, name="runicornfs-cleanup", daemon=True)
        self._cleaner.start()

    def open(self, identity: Identity, given: bool = False) -> CachedReader:
        """See `contents.Contents`. Also raises OSError where the cache's file cannot be opened."""
        entry = self._table.open(identity)
        generation = entry.generation
        if entry.whole and entry.fd >= 0 and os.fstat(entry.fd).st_size != entry.size:
            self._verifier.corrupt(entry, generation)  # somebody else has cut it off while it was open
        reader = CachedReader(entry, self._fetcher)
        if given:
            entry.given = True
        if entry.unchecked:
            self._verifier.submit(entry)
        return reader

    def cached_bytes(self, keys: list[str]) -> dict[str, tuple[int, str]]:
        """See `contents.Contents`."""
        # Those in use first: one that is given back meanwhile has its record by then. The other way round, a content
        # that was closed between the two questions would count as not here.
        in_use = self._table.cached_now(keys)
        at_rest = [key for key in keys if key not in in_use]
        found = dict.fromkeys(at_rest, (0, REMOTE)) | in_use
        for key, (cached, size, verified) in self._records.cached(at_rest).items():
            found[key] = (cached, _state(cached, size, verified))
        return found

    def moves(self) -> int:
        """See `contents.Contents`."""
        return self._room.moves

    def free_bytes(self) -> int:
        """See `contents.Contents`."""
        return self._room.left()

    def status(self) -> CacheStatus:
        """See `contents.Contents`. Raises RunicornFSError."""
        self._flusher.try_flush()
        totals = self._records.totals()
        counters = self._counters
        hits, misses, served = counters.hits, counters.misses, counters.bytes_served
        for entry in self._table.entries():
            with entry.condition:
                readers = list(entry.readers)
            hits += sum(reader.hits for reader in readers)
            misses += sum(reader.misses for reader in readers)
            served += sum(reader.bytes_served for reader in readers)
        return CacheStatus(
            size_bytes=totals.cached_bytes,
            limit_bytes=self._room.limit,
            files=totals.files,
            partial_files=totals.partial_files,
            verified_files=totals.verified_files,
            hits=hits,
            misses=misses,
            hit_ratio=hits / (hits + misses) if hits + misses else 0.0,
            bytes_fetched=counters.bytes_fetched,
            bytes_served=served,
            evictions=counters.evictions,
            mismatches=counters.mismatches,
            waits=list(counters.waits),
            waited_s=counters.waited_s,
        )

    def mismatches(self) -> int:
        """See `contents.Contents`."""
        return self._counters.mismatches

    def on_dropped(self, callback: Callable[[str], None]) -> None:
        """See `contents.Contents`."""
        self._verifier.on_dropped(callback)

    def files(self, sort: str, limit: int) -> list[CachedFile]:
        """See `contents.Contents`; `limit` is at most LISTED_AT_MOST. Raises RunicornFSError."""
        if sort not in ORDERS:
            raise InvalidInput(f"{sort!r} is no order of cached files: say one of {', '.join(ORDERS)}")
        if not 1 <= limit <= LISTED_AT_MOST:
            raise InvalidInput(f"at most {LISTED_AT_MOST} cached files are listed at once, and at least one")
        for entry in self._table.entries():
            self._records.touch(entry.key, entry.last_used())
        self._flusher.try_flush()
        return [
            CachedFile(
                key=record.key,
                path=record.path,
                size_bytes=record.size,
                cached_bytes=record.cached_bytes,
                state=_state(record.cached_bytes, record.size, record.verified),
                pinned=self._pins.holds(record.key),
                last_used=record.last_used,
            )
            for record in self._records.listed(sort, limit)
        ]

    def pin(self, label: str, sizes: dict[str, int]) -> None:
        """See `contents.Contents`. Outlives a power cut when this returns. Raises RunicornFSError."""
        with self._evictor.nothing_leaves():
            self._pins.pin(label, sizes, self._room.limit)

    def unpin(self, label: str) -> None:
        """See `contents.Contents`. Raises RunicornFSError."""
        self._pins.unpin(label)

    def pins(self) -> list[Pin]:
        """See `contents.Contents`. Raises RunicornFSError."""
        self._flusher.try_flush()
        return self._pins.all()

    def cleanup(self) -> Freed:
        """See `contents.Contents`. Raises RunicornFSError."""
        return self._evictor.cleanup()

    def demote(self, keys: list[str]) -> None:
        """See `contents.Contents`."""
        self._table.demote(keys)

    def evict(self, keys: list[str]) -> Freed:
        """See `contents.Contents`. Raises RunicornFSError."""
        return self._evictor.evict(keys)

    def clear(self) -> Freed:
        """See `contents.Contents`. Raises RunicornFSError."""
        return self._evictor.clear()

    def verify(self) -> Verification:
        """See `contents.Contents`. Raises Interrupted when the cache is closed."""
        return self._scrub.start()

    def verification(self) -> Verification:
        """See `contents.Contents`."""
        return self._scrub.progress

    def close(self) -> None:
        """See `contents.Contents`. What is cached outlives a power cut when this returns."""
        if self._closed:
            return
        self._closed = True
        self._table.close()
        self._cleaner.join(CLOSING_S)
        self._scrub.stop(CLOSING_S)
        self._fetcher.workers.stop()
        self._verifier.workers.stop()
        for entry in self._table.entries():
            with entry.condition:
                readers = list(entry.readers)
            for reader in readers:
                reader.end(Unreachable(f"{entry.paths[0]} is not read any more: the cache is closed"))
        if not all([self._fetcher.workers.join(CLOSING_S), self._verifier.workers.join(CLOSING_S)]):
            log.info("a transfer is still waiting for the server; the cache is closed without it")
        self._flusher.stop()
        self._records.close()

    def _clean_up_quietly(self) -> None:
        try:
            self._evictor.cleanup()
        except (RunicornFSError, OSError) as error:
            log.warning("what is more than the cache may hold stays until something is written: %s", error)


def _state(cached_bytes: int, size: int, verified: bool) -> str:
    if verified:
        return VERIFIED
    if cached_bytes == size:
        return CACHED
    return PARTIAL if cached_bytes else REMOTE

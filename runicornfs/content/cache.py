"""The cache of a server's contents on this machine's disk: composes the parts of this package and is their face."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from runicornfs.content.contents import CACHED, PARTIAL, REMOTE, VERIFIED, CacheStatus, Transfers
from runicornfs.content.counters import Counters
from runicornfs.content.fetch import Fetcher
from runicornfs.content.flusher import Flusher
from runicornfs.content.identity import Identity
from runicornfs.content.reader import CachedReader
from runicornfs.content.records import Records
from runicornfs.content.room import Room
from runicornfs.content.sparse import SparseFiles
from runicornfs.content.table import Table
from runicornfs.content.verify import Verifier
from runicornfs.errors import Unreachable

log = logging.getLogger("runicornfs.content")

# Transfers that are still running get this long to end when the cache is closed. One that waits for a dead server does
# not make it: it ends by itself, and its file is closed then.
CLOSING_S = 5.0


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
            files.remove_all()
        self._counters = Counters()
        self._room = Room(limit_bytes, min_free_bytes, self._records.totals().cached_bytes, files.free_bytes)
        self._flusher = Flusher(files, self._records)
        self._table = Table(files, self._records, self._room, self._flusher, self._counters)
        self._table.recover()
        self._verifier = Verifier(self._table, self._flusher, self._counters)
        self._fetcher = Fetcher(transfers, self._table, self._room, self._flusher, self._verifier, self._counters)
        self._verifier.resubmit = self._fetcher.submit
        self._closed = False

    def open(self, identity: Identity) -> CachedReader:
        """See `contents.Contents`. Also raises OSError where the cache's file cannot be opened."""
        entry = self._table.open(identity)
        reader = CachedReader(entry, self._fetcher)
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
            found[key] = (cached, VERIFIED if verified else CACHED if cached == size else PARTIAL if cached else REMOTE)
        return found

    def free_bytes(self) -> int:
        """See `contents.Contents`."""
        return self._room.left()

    def status(self) -> CacheStatus:
        """See `contents.Contents`. Raises sqlite3.Error."""
        self._flusher.flush()
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
        )

    def on_dropped(self, callback: Callable[[str], None]) -> None:
        """See `contents.Contents`."""
        self._verifier.on_dropped(callback)

    def close(self) -> None:
        """See `contents.Contents`. What is cached outlives a power cut when this returns."""
        if self._closed:
            return
        self._closed = True
        self._table.close()
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

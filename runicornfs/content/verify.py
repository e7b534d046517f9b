"""Checks contents against their sha256, and drops those that do not match.

Blocks are hashed in order soon after they have come, while they are in the page cache; where they came in another
order, the rest is read back when the last one is here. The block that makes a content complete is withheld from readers
until its digest has been checked, so nobody gets all the bytes of a content that does not match.

A reader of a content that was dropped gets ContentMismatch and no more bytes if anybody had been given some: together
with good ones they would make a file that never existed. The content is fetched once more for those who open it anew,
and for readers who have only waited.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

from runicornfs.content.blocks import BLOCK, bytes_in
from runicornfs.content.counters import Counters
from runicornfs.content.digest import Hash, RunningDigest
from runicornfs.content.entry import Entry
from runicornfs.content.flusher import Flusher
from runicornfs.content.table import Table
from runicornfs.content.wishes import RANGE
from runicornfs.content.workers import Workers
from runicornfs.errors import ContentMismatch

log = logging.getLogger("runicornfs.content")

# hashlib lets go of the GIL, so two contents are hashed at once; more would take the time from transfers.
THREADS = 2
# Pieces (of 1 MiB) hashed when a fetch needs room that only the hash can make: about 8 ms of waiting.
CATCH_UP = 16
# Nobody waits longer than this without looking again.
POLL_S = 0.25


class _Piece(NamedTuple):
    """Blocks (first, stop) to hash next, and what must still be so when they have been read."""

    first: int
    stop: int
    generation: int
    hash: Hash


class Verifier:
    """Thread-safe. `_lock` protects the callbacks. `resubmit(entry)` is told what is to be fetched again."""

    def __init__(self, table: Table, flusher: Flusher, counters: Counters) -> None:
        self._table = table
        self._flusher = flusher
        self._counters = counters
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[str], None]] = []
        self.resubmit: Callable[[Entry], None] = lambda entry: None
        self.workers: Workers[Entry] = Workers("hash", THREADS, self._run)

    def submit(self, entry: Entry) -> None:
        """There may be blocks to hash. The entry is in use now."""
        self.workers.submit(entry)

    def on_dropped(self, callback: Callable[[str], None]) -> None:
        with self._lock:
            self._callbacks.append(callback)

    def corrupt(self, entry: Entry, generation: int) -> bool:
        """A whole content was read from the disk and does not match: drops it; False if it has changed since.

        The caller has retained the entry, and looked at its generation before it read.
        """
        with entry.condition:
            if entry.generation != generation or not entry.whole:
                return False
            self._mismatched(entry, "that were cached")
        self._announce(entry)
        self.resubmit(entry)
        return True

    def _run(self, entry: Entry) -> None:
        with self._table.retained(entry) as in_use:
            if not in_use:
                return
            with entry.condition:
                digest = entry.digest
                if digest is None or digest.busy:
                    return
                digest.busy = True
            self._work(entry, digest)

    def catch_up(self, entry: Entry) -> None:
        """Hashes a little, or waits until another thread has: what can be hashed must not go before.

        The caller has retained the entry.
        """
        with entry.condition:
            digest = entry.digest
            if digest is None:
                return
            if digest.busy:
                entry.hashing.wait(POLL_S)
                return
            digest.busy = True
        self._work(entry, digest, CATCH_UP)
        if digest.lacking == 0:
            self.submit(entry)  # in the meantime it may have been told that the digest can be finished

    def _work(self, entry: Entry, digest: RunningDigest, most: float = math.inf) -> None:
        """Hashes at `most` so many pieces, or what there is. The caller has made the digest busy."""
        buffer = memoryview(bytearray(min(RANGE * BLOCK, entry.size)))
        try:
            while most > 0 and not self.workers.stopping:
                piece = self._next(entry, digest)
                if piece is None:
                    return
                self._hash(entry, digest, piece, buffer)
                most -= 1
            with entry.condition:
                digest.busy = False
        except Exception as error:  # whoever waits for the check must hear of it
            log.warning("what is cached of %s cannot be read to be checked: %s", entry.paths[0], error)
            with entry.condition:
                digest.busy = False
                again = self._strike(entry)
                self._drop(entry, error, again, lost=True)
            if again:
                self.resubmit(entry)

    def _next(self, entry: Entry, digest: RunningDigest) -> _Piece | None:
        """The next piece to hash. When there is none, this work ends; a finished digest is acted on."""
        with entry.condition:
            first, stop = entry.hashable(digest)
            if first < stop:
                return _Piece(first, stop, entry.generation, digest.hash)
            digest.busy = False
            if not digest.finished:
                return None
            if digest.matches:
                entry.release_withheld()
                self._flusher.mark(entry)
                if entry.verified:
                    self._flusher.settle(entry.key, entry.file)
                return None
            self._mismatched(entry, "that the server sent")
        self._announce(entry)
        self.resubmit(entry)
        return None

    @staticmethod
    def _hash(entry: Entry, digest: RunningDigest, piece: _Piece, buffer: memoryview) -> None:
        data = buffer[: bytes_in(piece.first, piece.stop, entry.size)]
        if os.preadv(entry.fd, [data], piece.first * BLOCK) != len(data):
            raise OSError(errno.EIO, "the cache's file is shorter than it was")
        with entry.condition:
            if entry.generation != piece.generation or digest.hash is not piece.hash:
                return  # bytes went while they were read
        piece.hash.update(data)
        with entry.condition:
            if digest.hash is piece.hash:
                entry.hashed(digest, piece.first, piece.stop)

    def _mismatched(self, entry: Entry, which: str) -> None:
        if entry.doubted:
            which = "that were cached"
        again = self._strike(entry)
        log.warning(
            "the bytes of %s do not have the sha256 of the manifest; they are dropped%s",
            entry.paths[0],
            " and fetched once more" if again else "",
        )
        self._counters.mismatched()
        sentence = f"the bytes {which} of {entry.paths[0]} do not have the sha256 of the manifest"
        self._drop(entry, ContentMismatch(sentence), again)

    @staticmethod
    def _strike(entry: Entry) -> bool:
        """Whether what is wrong is to be fetched once more. What others have changed is no fault of the server's."""
        entry.strikes += not entry.doubted
        return entry.strikes <= 1 and bool(entry.readers)

    def _drop(self, entry: Entry, error: Exception, again: bool, lost: bool = False) -> None:
        """With the condition of the entry held. `lost`: the disk does not give it back; nobody was given bad bytes."""
        readers = list(entry.readers) if (entry.given and not lost) or not again else []
        self._table.empty(entry)
        for reader in readers:
            reader.poison(error)
        if again:
            entry.look_ahead(0, entry.count, None)
            entry.condition.notify_all()
        else:
            entry.strikes = 0
            entry.fail_all(error)
        self._flusher.mark(entry)

    def _announce(self, entry: Entry) -> None:
        with self._lock:
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback(entry.key)

"""Contents that outlive whoever keeps them: the owner of the cache folder may be gone, and another take its place.

It stands before the contents of the moment (a guest's, later perhaps this process's own cache) and is told when others
take their place. What was open is opened there again and goes on: the bytes are the same, since identity is the digest.

`_changed` protects which contents these are, since when there are none, the callbacks and the readers; no contents are
asked under it. Whoever finds the owner gone waits for the next one, but not longer than PATIENCE_S after the loss.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from runicornfs.content.contents import (
    REMOTE,
    CachedFile,
    CacheStatus,
    Contents,
    Freed,
    Interruption,
    Pin,
    Reader,
    Verification,
    never,
)
from runicornfs.content.identity import Identity
from runicornfs.errors import ContentMismatch, Interrupted, OwnerGone, RunicornFSError, TimedOut, Unreachable

log = logging.getLogger("runicornfs.content")

# Another process takes the place of one that was killed within a second; it may have to recover the cache first.
PATIENCE_S = 20.0
# How often a read that waits asks whether the program that wants it is still there.
POLL_S = 0.25

T = TypeVar("T")


class HandoverContents:
    """Implements `contents.Contents`. Thread-safe. Raises Unreachable where nobody takes the place of an owner."""

    def __init__(self, contents: Contents) -> None:
        self._changed = threading.Condition()
        self._contents = contents
        self._lost_at: float | None = None
        self._closed = False
        self._unanswered = itertools.count(1)
        self._callbacks: list[Callable[[str], None]] = []
        self._readers: set[HandoverReader] = set()
        self._mismatches_before = 0  # what the count of the present contents lacks
        contents.on_dropped(self._dropped)

    # Who keeps the contents

    def switch(self, contents: Contents) -> None:
        """From now on these are the contents. What is open moves there; those of before are closed."""
        with self._changed:
            before, self._contents = self._contents, contents
            self._mismatches_before += before.mismatches() - contents.mismatches()
            self._lost_at = None
            readers = list(self._readers)
            self._changed.notify_all()
        contents.on_dropped(self._dropped)
        for reader in readers:
            try:
                reader.move(contents)
            except (RunicornFSError, OSError) as error:  # its next read tries again, or gets the error
                log.info("an open content did not move: %s", error)
        before.close()

    def lost(self) -> None:
        """There is nobody who keeps the contents until the next `switch`."""
        with self._changed:
            if self._lost_at is None:
                self._lost_at = time.monotonic()

    def now(self, gone: Contents | None = None, interrupted: Interruption = never) -> Contents:
        """The contents of the moment, which are not `gone`: else they are lost. Waits while there are none."""
        with self._changed:
            if gone is self._contents:
                self.lost()
            while self._lost_at is not None:
                left = self._lost_at + PATIENCE_S - time.monotonic()
                if self._closed:
                    raise Unreachable("nothing is read any more: the cache is closed")
                if left <= 0:
                    raise Unreachable("the process that kept the cache is gone, and no other has taken its place yet")
                self._changed.wait(min(left, POLL_S))
                if interrupted():
                    raise Interrupted("the program that waited for another owner of the cache has given up")
            return self._contents

    # Contents

    def open(self, identity: Identity, given: bool = False) -> HandoverReader:
        """See `contents.Contents`."""

        def opened(contents: Contents) -> HandoverReader:
            return HandoverReader(self, identity, contents, contents.open(identity, given))

        reader = self._ask(opened)
        with self._changed:
            self._readers.add(reader)
            contents = self._contents
        reader.move(contents)  # which have changed, if there was a switch meanwhile
        return reader

    def cached_bytes(self, keys: list[str]) -> dict[str, tuple[int, str]]:
        """See `contents.Contents`. Nothing is known to be here while there is nobody to ask: folders are listed all the
        same."""
        try:
            return self._ask(lambda contents: contents.cached_bytes(keys))
        except (TimedOut, Unreachable):
            return dict.fromkeys(keys, (0, REMOTE))

    def moves(self) -> int:
        """See `contents.Contents`. Without anybody to ask another number each time: it may be as well."""
        try:
            return self._ask(lambda contents: contents.moves())
        except (TimedOut, Unreachable):
            return -next(self._unanswered)

    def free_bytes(self) -> int:
        """See `contents.Contents`. None while there is nobody to ask."""
        try:
            return self._ask(lambda contents: contents.free_bytes())
        except (TimedOut, Unreachable):
            return 0

    def status(self) -> CacheStatus:
        """See `contents.Contents`."""
        return self._ask(lambda contents: contents.status())

    def mismatches(self) -> int:
        """See `contents.Contents`. Goes on with another owner."""
        with self._changed:
            return self._mismatches_before + self._contents.mismatches()

    def on_dropped(self, callback: Callable[[str], None]) -> None:
        """See `contents.Contents`. Outlives a switch."""
        with self._changed:
            self._callbacks.append(callback)

    def files(self, sort: str, limit: int) -> list[CachedFile]:
        """See `contents.Contents`."""
        return self._ask(lambda contents: contents.files(sort, limit))

    def pin(self, label: str, sizes: dict[str, int]) -> None:
        """See `contents.Contents`."""
        self._ask(lambda contents: contents.pin(label, sizes))

    def unpin(self, label: str) -> None:
        """See `contents.Contents`."""
        self._ask(lambda contents: contents.unpin(label))

    def pins(self) -> list[Pin]:
        """See `contents.Contents`."""
        return self._ask(lambda contents: contents.pins())

    def cleanup(self) -> Freed:
        """See `contents.Contents`."""
        return self._ask(lambda contents: contents.cleanup())

    def demote(self, keys: list[str]) -> None:
        """See `contents.Contents`."""
        self._ask(lambda contents: contents.demote(keys))

    def evict(self, keys: list[str]) -> Freed:
        """See `contents.Contents`."""
        return self._ask(lambda contents: contents.evict(keys))

    def clear(self) -> Freed:
        """See `contents.Contents`."""
        return self._ask(lambda contents: contents.clear())

    def verify(self) -> Verification:
        """See `contents.Contents`."""
        return self._ask(lambda contents: contents.verify())

    def verification(self) -> Verification:
        """See `contents.Contents`."""
        return self._ask(lambda contents: contents.verification())

    def close(self) -> None:
        """See `contents.Contents`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            contents = self._contents
        contents.close()

    def forget(self, reader: HandoverReader) -> None:
        """It is closed."""
        with self._changed:
            self._readers.discard(reader)

    def _ask(self, question: Callable[[Contents], T]) -> T:
        """The answer of the contents of the moment; of the next ones, if their owner is gone before it answers."""
        contents = self.now()
        while True:
            try:
                return question(contents)
            except OwnerGone:
                contents = self.now(gone=contents)

    def _dropped(self, key: str) -> None:
        with self._changed:
            callbacks = list(self._callbacks)
            for reader in self._readers:
                if reader.key == key:
                    reader.dropped = True
        for callback in callbacks:
            callback(key)


class HandoverReader:
    """An open content that moves from one owner to the next; implements `contents.Reader`.

    `_moving` protects the move. The last reads end before `close`.
    """

    def __init__(self, handover: HandoverContents, identity: Identity, contents: Contents, reader: Reader) -> None:
        self.key = identity.key
        # It may have been given bytes that are wrong: only the contents that dropped them know. Set once, under the
        # lock of the handover.
        self.dropped = False
        self._handover = handover
        self._identity = identity
        self._moving = threading.Lock()
        self._contents = contents
        self._reader = reader
        self._closed = False

    @property
    def state(self) -> str:
        return self._reader.state

    def read(self, offset: int, size: int, interrupted: Interruption = never) -> bytes:
        """See `contents.Reader`."""
        reader = self._reader
        try:
            return reader.read(offset, size, interrupted)
        except (OwnerGone, ValueError):  # ValueError: it was closed, perhaps because it has moved
            if self._closed:
                raise
        return self._read_on(offset, size, interrupted)

    def share(self) -> int | None:
        """See `contents.Reader`."""
        return self._reader.share()

    def move(self, contents: Contents) -> None:
        """Opens it there, unless that is where it is. Raises what `Contents.open` does, and then stays."""
        with self._moving:
            if self._closed or self._contents is contents:
                return
            if self.dropped:
                raise ContentMismatch(
                    f"the bytes of {self._identity.path} do not have the sha256 of the manifest; open it anew"
                )
            before, self._reader = self._reader, contents.open(self._identity, given=True)
            self._contents = contents
        before.close()

    def close(self) -> None:
        """See `contents.Reader`."""
        with self._moving:
            if self._closed:
                return
            self._closed = True
        self._handover.forget(self)
        self._reader.close()

    def _read_on(self, offset: int, size: int, interrupted: Interruption) -> bytes:
        """Where the owner was gone."""
        while True:
            contents = self._handover.now(interrupted=interrupted)
            try:
                self.move(contents)
                return self._reader.read(offset, size, interrupted)
            except OwnerGone:
                self._handover.now(gone=contents, interrupted=interrupted)
            except ValueError:  # it has moved once more
                if self._closed or self._contents is contents:
                    raise

"""The contents of a cache folder that another process owns: asked for over the owner's socket.

All that is asked is one question and its answer, over one of a few connections, each of which has one question under
way at a time. An owner that was not heard of for some time is stopped: then nothing is asked, and everything fails at
once, until it is heard again. What is asked for the sake of a listing alone is waited for only briefly.

`_lock` protects the connections, the readers by key, the callbacks and whether the owner is gone; nothing is called
and nothing is waited for under it. One thread listens to what the owner tells.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from runicornfs.content import wire
from runicornfs.content.contents import (
    CachedFile,
    CacheStatus,
    Freed,
    Interruption,
    Pin,
    Verification,
    never,
)
from runicornfs.content.guest_reader import GuestReader
from runicornfs.content.identity import Identity
from runicornfs.content.owner import BEAT_S, DROPPED
from runicornfs.content.wire import Connection, Frame
from runicornfs.errors import ConnectionLost, Interrupted, OwnerGone, RunicornFSError, TimedOut

log = logging.getLogger("runicornfs.content")

# How often a read that waits asks whether the program that wants it is still there.
POLL_S = 0.25
# The owner says every BEAT_S that it is there. After some silent ones it is stopped, not busy.
SILENCE_S = 4 * BEAT_S
# What is answered from the owner's memory takes milliseconds, for a folder of 50,000 files half a second, and on a busy
# machine several times that; who wants to know it can do without.
GLANCE_S = 3.0
GLANCES = frozenset(["cached_bytes", "moves", "free_bytes"])
# Reads under way at once; more wait for their turn, so that one guest does not take all that the owner has.
READS = 32
# Connections kept for the next question.
IDLE = 8
# The thread that listens is at most in a callback when the guest is closed.
CLOSING_S = 5.0


class GuestContents:
    """Implements `contents.Contents` for a folder whose owner is another process. Thread-safe.

    All that asks raises OwnerGone once the owner is gone, TimedOut where it is silent (GLANCES after GLANCE_S, the rest
    after SILENCE_S), and what the owner's contents raise. `close` leaves readers with the descriptors they have: these
    go on without the owner.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OwnerGone where nobody shares the folder, TimedOut, Refused where the owner does not let us in."""
        self._folder = folder
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._in_use: set[Connection] = set()
        self._readers: dict[str, set[GuestReader]] = {}
        self._on_event: dict[str, list[Callable[[dict[str, Any]], None]]] = {DROPPED: [self._let_go]}
        self._on_lost: list[Callable[[], None]] = []
        self._gone = False
        self._closed = False
        self._slots = threading.BoundedSemaphore(READS)
        self._heard = math.inf  # when there was a word of the owner; before the first one nothing can be missed
        self._events, greeting = self._connect({"op": "hello"}, math.inf)
        self._token = greeting["token"]
        self._mismatches = int(greeting["mismatches"])
        self._thread = threading.Thread(target=self._listen, name="runicornfs-guest", daemon=True)
        self._thread.start()

    def open(self, identity: Identity, given: bool = False) -> GuestReader:
        """See `contents.Contents`."""
        reader = GuestReader(self, identity)
        with self._lock:  # before the question: what is dropped from now on is known of
            self._readers.setdefault(identity.key, set()).add(reader)
        try:
            reader.open(given)
        except BaseException:
            self.forget(reader)
            raise
        return reader

    def cached_bytes(self, keys: list[str]) -> dict[str, tuple[int, str]]:
        """See `contents.Contents`."""
        return {key: (size, state) for key, (size, state) in self.call("cached_bytes", keys=keys).items()}

    def moves(self) -> int:
        """See `contents.Contents`."""
        return int(self.call("moves"))

    def free_bytes(self) -> int:
        """See `contents.Contents`."""
        return int(self.call("free_bytes"))

    def status(self) -> CacheStatus:
        """See `contents.Contents`. Hits of guests count when they close what they have read."""
        return CacheStatus(**self.call("status"))

    def mismatches(self) -> int:
        """See `contents.Contents`. As the owner said when a content was opened last."""
        return self._mismatches

    def on_dropped(self, callback: Callable[[str], None]) -> None:
        """See `contents.Contents`."""
        self.on_event(DROPPED, lambda data: callback(data["key"]))

    def files(self, sort: str, limit: int) -> list[CachedFile]:
        """See `contents.Contents`."""
        return [CachedFile(**file) for file in self.call("files", sort=sort, limit=limit)]

    def pin(self, label: str, sizes: dict[str, int]) -> None:
        """See `contents.Contents`."""
        self.call("pin", label=label, sizes=sizes)

    def unpin(self, label: str) -> None:
        """See `contents.Contents`."""
        self.call("unpin", label=label)

    def pins(self) -> list[Pin]:
        """See `contents.Contents`."""
        return [Pin(**pin) for pin in self.call("pins")]

    def cleanup(self) -> Freed:
        """See `contents.Contents`."""
        return Freed(**self.call("cleanup"))

    def demote(self, keys: list[str]) -> None:
        """See `contents.Contents`."""
        self.call("demote", keys=keys)

    def evict(self, keys: list[str]) -> Freed:
        """See `contents.Contents`."""
        return Freed(**self.call("evict", keys=keys))

    def clear(self) -> Freed:
        """See `contents.Contents`."""
        return Freed(**self.call("clear"))

    def verify(self) -> Verification:
        """See `contents.Contents`."""
        return Verification(**self.call("verify"))

    def verification(self) -> Verification:
        """See `contents.Contents`."""
        return Verification(**self.call("verification"))

    def close(self) -> None:
        """See `contents.Contents`."""
        with self._lock:
            self._closed = True
        self._lose()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSING_S)

    # The owner

    def call(self, name: str, **arguments: object) -> Any:
        """Asks the owner's contents or one of its handlers; what JSON can say goes there and comes back."""
        patience = GLANCE_S if name in GLANCES else math.inf
        question = json.dumps(arguments).encode()
        return json.loads(self.ask({"op": "call", "name": name}, question, patience=patience).body)

    def on_event(self, name: str, callback: Callable[[dict[str, Any]], None]) -> None:
        """`callback(data)` is called when the owner announces this, on a thread that hears nothing else meanwhile."""
        with self._lock:
            self._on_event.setdefault(name, []).append(callback)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """`callback()` is called once when the owner is gone, on the thread of the events; not because of `close`."""
        with self._lock:
            if not self._gone:
                self._on_lost.append(callback)
                return
            closed = self._closed
        if not closed:
            callback()

    # For readers

    def read(self, header: dict[str, Any], interrupted: Interruption) -> Frame:
        """Asks for bytes, when it is our turn; a second time where only the connection was lost."""
        while not self._slots.acquire(timeout=POLL_S):
            if interrupted():
                raise Interrupted("the program that waited for its turn to read has given up")
        try:
            return _checked(self._exchange(header, b"", interrupted, math.inf))
        except _Torn:
            return self.ask(header, b"", interrupted)
        finally:
            self._slots.release()

    def ask(
        self,
        header: dict[str, Any],
        body: bytes = b"",
        interrupted: Interruption = never,
        patience: float = math.inf,
    ) -> Frame:
        """The owner's answer, waited for as long as it says that it is there, but for `patience` seconds at most;
        raises the error that it is."""
        try:
            return _checked(self._exchange(header, body, interrupted, patience))
        except _Torn as error:
            raise self._lose() from error

    def note_mismatches(self, count: int) -> None:
        """The owner has counted so many."""
        with self._lock:
            self._mismatches = max(self._mismatches, count)

    def forget(self, reader: GuestReader) -> None:
        """It is closed."""
        with self._lock:
            readers = self._readers[reader.key]
            readers.discard(reader)
            if not readers:
                del self._readers[reader.key]

    # The connections

    def _exchange(self, header: dict[str, Any], body: bytes, interrupted: Interruption, patience: float) -> Frame:
        """A question and its answer. Raises _Torn where the connection was lost."""
        if self._is_silent():
            raise self._no_answer()
        connection = self._take(patience)
        answer = None
        try:
            connection.send(header, body)
            answer = self._answer(connection, interrupted, patience)
            return answer
        except ConnectionLost as error:
            raise _Torn from error
        finally:
            self._give_back(connection, answer is not None)

    def _answer(self, connection: Connection, interrupted: Interruption, patience: float) -> Frame:
        asked = heard = time.monotonic()
        while True:
            if connection.readable(min(POLL_S, patience)):
                frame = connection.receive()
                if frame is None:
                    raise ConnectionLost("the process that owns the cache has closed the connection")
                heard = self._heard = time.monotonic()
                if "beat" not in frame.header:
                    return frame
            elif interrupted():
                raise Interrupted("the program that waited for the process that owns the cache has given up")
            now = time.monotonic()
            if now - asked > patience or now - heard > SILENCE_S or self._is_silent():
                raise self._no_answer()

    def _is_silent(self) -> bool:
        """Whether the owner was not heard of for so long that it must be stopped."""
        if self._gone or time.monotonic() - self._heard <= SILENCE_S:
            return False
        try:
            return not self._events.readable(0)  # what nobody has listened to yet was said all the same
        except ValueError:  # closed under our hands: it is gone
            return False

    def _no_answer(self) -> TimedOut:
        return TimedOut(f"the process that owns {self._folder} does not answer: it may be stopped")

    def _take(self, patience: float) -> Connection:
        """A connection for one question."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
            if connection is not None:
                self._in_use.add(connection)
        if connection is None:
            connection = self._join(patience)
            with self._lock:
                self._in_use.add(connection)
        if self._gone:
            self._give_back(connection, good=False)
            raise self._owner_gone()
        return connection

    def _join(self, patience: float) -> Connection:
        if self._gone:
            raise self._owner_gone()
        try:
            return self._connect({"op": "join", "token": self._token}, patience)[0]
        except OwnerGone as error:
            raise self._lose() from error

    def _connect(self, header: dict[str, Any], patience: float) -> tuple[Connection, dict[str, Any]]:
        """A new connection that begins with this, and what the owner says to it."""
        connection = wire.connect(self._folder)
        try:
            with contextlib.suppress(ConnectionLost):  # who turns us away may have said so without listening
                connection.send({**header, "version": wire.VERSION})
            return connection, _checked(self._answer(connection, never, patience)).header
        except ConnectionLost as error:
            connection.close()
            raise self._owner_gone() from error
        except BaseException:
            connection.close()
            raise

    def _give_back(self, connection: Connection, good: bool) -> None:
        with self._lock:
            self._in_use.discard(connection)
            good = good and not self._gone and len(self._idle) < IDLE
            if good:
                self._idle.append(connection)
        if not good:
            connection.close()

    # The end of the owner, and what it tells before

    def _lose(self) -> OwnerGone:
        """There is nobody to ask any more."""
        with self._lock:
            self._gone = True
            idle, self._idle = self._idle, []
            in_use = list(self._in_use)
        self._events.end()
        for connection in in_use:
            connection.end()
        for connection in idle:
            connection.close()
        return self._owner_gone()

    def _owner_gone(self) -> OwnerGone:
        return OwnerGone(f"the process that kept the cache in {self._folder} is gone")

    def _listen(self) -> None:
        try:
            while (frame := self._events.receive()) is not None:
                self._heard = time.monotonic()
                self._tell(frame.header)
        except RunicornFSError as error:
            log.info("the process that owns %s is not listened to any more: %s", self._folder, error)
        self._lose()
        self._events.close()
        with self._lock:
            callbacks = [] if self._closed else self._on_lost
        for callback in callbacks:
            _guarded(callback)

    def _tell(self, header: dict[str, Any]) -> None:
        with self._lock:
            callbacks = list(self._on_event.get(str(header.get("event")), ()))
        for callback in callbacks:
            _guarded(partial(callback, header.get("data", {})))

    def _let_go(self, data: dict[str, Any]) -> None:
        """A content was dropped: what is read of it from now on is the owner's matter."""
        with self._lock:
            readers = list(self._readers.get(data["key"], ()))
        for reader in readers:
            reader.let_go()


class _Torn(Exception):
    """A connection was lost, which is not what an answer says."""


def _checked(answer: Frame) -> Frame:
    """Raises the error that the answer is."""
    if "error" in answer.header:
        raise wire.error_of(answer.header["error"])
    return answer


def _guarded(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("what was to be done about the owner of the cache has failed")

"""Keeping one connection alive: connect, notice that it broke, connect again, say what state it is in.

Guarantees: a lost line is replaced in the background; who needs the line while the first attempt at that runs waits
for it, with a bound; after an attempt has failed everybody is told at once, until one has succeeded; `close` leaves no
thread.

Locks: `_connecting` makes `connect` one at a time and is taken first. `_changed` protects all fields; it is never held
while anything waits for the server or while a callback runs. One thread, the keeper, owns reconnecting: whoever finds
the line dead closes the link, which wakes the keeper.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from runicornfs.errors import ConnectionLost, RunicornFSError, ServerError, Unreachable

log = logging.getLogger("runicornfs.remote.lifeline")

State = Literal["disconnected", "connecting", "connected", "reconnecting"]

_FIRST_PAUSE = 1.0  # seconds between one attempt to connect and the next
_LONGEST_PAUSE = 30.0  # seconds: how late a server that is back is noticed at most
_STEADY = 10.0  # seconds that a connection must have lasted for the pauses to start anew from the first
_CLOSE_TIME = 10.0  # seconds for the keeper to end; it needs them only if it is looking up a name meanwhile


class Link(Protocol):
    """What is kept alive."""

    @property
    def is_alive(self) -> bool: ...
    def warm_up(self) -> None: ...
    def wait_closed(self) -> None: ...
    def close(self) -> None: ...


L = TypeVar("L", bound=Link)
Opener = Callable[[Callable[[socket.socket], None]], L]


class Lifeline(Generic[L]):
    """One link after the other. Thread-safe. `open_link` makes one and hands out its socket as soon as there is one."""

    def __init__(self, name: str, open_link: Opener[L], patience: float) -> None:
        self._name = name
        self._open_link = open_link
        self._patience = patience  # seconds that a caller waits for a reconnect
        self._connecting = threading.Lock()
        self._changed = threading.Condition()
        self._callbacks: list[Callable[[State], None]] = []
        self._state: State = "disconnected"
        self._last_error: RunicornFSError | None = None
        self._link: L | None = None
        self._attempt: socket.socket | None = None  # of an attempt that runs; shutting it down ends it
        self._given_up = False  # an attempt to reconnect has failed since the line was lost
        self._announced = 0  # the epoch whose first link all listeners know of
        self._epoch = 0  # raised by `close`: whoever began in an earlier one gives up
        self._keeper: threading.Thread | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def last_error(self) -> RunicornFSError | None:
        """Why the line is down; None while it is up."""
        return self._last_error

    @property
    def link(self) -> L | None:
        """The present link, if there is one."""
        return self._link

    def on_state(self, callback: Callable[[State], None]) -> None:
        """Have `callback` called after each change, on the thread that caused it. It must return soon."""
        with self._changed:
            self._callbacks.append(callback)

    def connect(self) -> None:
        """Open a link unless one is up. Raises what opening it raises."""
        with self._connecting:
            with self._changed:
                if self._link is not None and self._link.is_alive:
                    return
            self.close()
            with self._changed:
                epoch = self._epoch
            self._enter("connecting", epoch)
            began = time.monotonic()
            try:
                link = self._open(epoch)
            except BaseException as error:
                self._enter("disconnected", epoch, error if isinstance(error, RunicornFSError) else None)
                raise
            with self._changed:
                current = epoch == self._epoch
                if current:
                    self._link = link
                    self._keeper = threading.Thread(
                        target=self._keep, args=(link, epoch, began), name="runicornfs-line", daemon=True
                    )
                    self._keeper.start()
            if not current:
                link.close()
                raise Unreachable(f"the connection to {self._name} was closed while it was being made")
            try:
                self._enter("connected", epoch)
            finally:
                with self._changed:
                    self._announced = epoch
                    self._changed.notify_all()

    def pursue(self) -> None:
        """Open a link in the background, trying again until there is one or trying is pointless; returns at once."""
        with self._connecting:
            with self._changed:
                if self._keeper is not None and self._keeper.is_alive():
                    return
            self.close()
            with self._changed:
                epoch = self._announced = self._epoch
                self._keeper = threading.Thread(target=self._keep, args=(None, epoch, 0.0), name="runicornfs-line")
                self._keeper.daemon = True
            self._enter("connecting", epoch)
            self._keeper.start()

    def usable(self) -> L:
        """The link, if need be after waiting for the first attempt to reconnect. Raises Unreachable."""
        deadline = time.monotonic() + self._patience
        with self._changed:
            while True:
                if self._link is not None and self._link.is_alive:
                    return self._link
                left = deadline - time.monotonic()
                if self._state == "disconnected" or self._given_up or left <= 0:
                    reason = f": {self._last_error}" if self._last_error is not None else ""
                    raise Unreachable(f"{self._name} is not connected{reason}") from self._last_error
                self._changed.wait(left)

    def close(self) -> None:
        """End the link and the keeping of it; no thread is left. May be called at any time and more than once."""
        with self._changed:
            self._epoch += 1
            epoch, link, attempt, keeper = self._epoch, self._link, self._attempt, self._keeper
            self._link, self._keeper, self._attempt = None, None, None
            self._given_up = False
            self._changed.notify_all()
        if attempt is not None:
            with contextlib.suppress(OSError):
                attempt.shutdown(socket.SHUT_RDWR)
        if link is not None:
            link.close()
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join(_CLOSE_TIME)
        self._enter("disconnected", epoch)

    def _enter(self, state: State, epoch: int, error: RunicornFSError | None = None) -> None:
        with self._changed:
            if epoch != self._epoch:
                return
            changed = state != self._state
            self._state, self._last_error = state, error
            callbacks = list(self._callbacks) if changed else []
            self._changed.notify_all()
        for callback in callbacks:
            try:
                callback(state)
            except Exception:
                log.exception("a listener failed at the change to %s", state)

    def _open(self, epoch: int) -> L:
        def started(attempt: socket.socket) -> None:
            with self._changed:
                if epoch != self._epoch:
                    raise Unreachable(f"the connection to {self._name} was closed while it was being made")
                self._attempt = attempt

        try:
            return self._open_link(started)
        finally:
            with self._changed:
                if epoch == self._epoch:
                    self._attempt = None

    def _keep(self, link: L | None, epoch: int, began: float) -> None:
        """The keeper's thread. It says nothing of the link before `connect` has said that it is there."""
        with self._changed:
            self._changed.wait_for(lambda: self._announced == epoch or epoch != self._epoch)
        try:
            self._keep_alive(link, epoch, began)
        except Exception as error:
            log.exception("the connection to %s is kept no longer", self._name)
            failure = ServerError(f"the connection to {self._name} failed in an unexpected way: {type(error).__name__}")
            self._enter("disconnected", epoch, failure)

    def _keep_alive(self, link: L | None, epoch: int, began: float) -> None:
        """Replace the link whenever it is lost, until the epoch ends or reconnecting is pointless.

        Without a link the first one is opened. `began`: when the last attempt was made, in monotonic seconds.
        """
        pause = _FIRST_PAUSE
        while True:
            was_lost = link is not None
            if link is not None:
                link.warm_up()
                link.wait_closed()
                link.close()
                with self._changed:
                    if epoch != self._epoch:
                        return
                    self._link, self._given_up = None, False
                log.warning("the connection to %s was lost", self._name)
                self._enter("reconnecting", epoch, ConnectionLost("the connection was lost"))
                if time.monotonic() - began >= _STEADY:
                    pause = _FIRST_PAUSE
            while True:
                if not self._rest(began + pause, epoch):
                    return
                began = time.monotonic()
                try:
                    link = self._open(epoch)
                    break
                except RunicornFSError as error:
                    if not self._failed(error, epoch):
                        return
                pause = min(2 * pause, _LONGEST_PAUSE)
            with self._changed:
                current = epoch == self._epoch
                if current:
                    self._link, self._given_up = link, False
            if not current:
                link.close()
                return
            if was_lost:
                log.warning("the connection to %s is back", self._name)
            self._enter("connected", epoch)

    def _rest(self, until: float, epoch: int) -> bool:
        """Wait until then. False: the epoch is over."""
        with self._changed:
            while epoch == self._epoch:
                left = until - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
        return False

    def _failed(self, error: RunicornFSError, epoch: int) -> bool:
        """Note that an attempt failed. False: trying again is pointless (another host key, a refused login)."""
        with self._changed:
            if epoch != self._epoch:
                return False
            self._given_up = True
        log.info("%s cannot be reached: %s", self._name, error)
        self._enter("reconnecting" if error.is_temporary else "disconnected", epoch, error)
        return error.is_temporary

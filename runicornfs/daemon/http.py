"""HTTP/1.1 as uvicorn speaks it, for whom clients may not keep waiting: every account of this machine can connect.

A connection without a request under way is closed after REQUEST_S, whatever is dribbled into it. Of more than
CONNECTIONS_LIMIT the oldest goes whose client has not said what it wants, so that who has something to ask gets in, and
the descriptors that the mount needs are there. The application can ask whether the connection of a request is still up.
Everything belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from runicornfs.api.callers import STILL_OPEN

# A client of ours says what it wants at once. uvicorn itself closes a connection that is silent after an answer.
REQUEST_S = 10.0
# A page has six connections, a command one.
CONNECTIONS_LIMIT = 256
# States of a TCP connection (tcp_states.h) in which it has this peer: up, and up with nothing more to come.
STANDING = frozenset({1, 8})


class Http(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._since = self.loop.time()
        self._closing: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """No request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_awaited(self) -> bool:
        """It is the client's turn: to ask, or to send the rest of what belongs to its request."""
        return self.is_idle or (self.cycle.more_body and not self.cycle.response_started)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self.app_state = {**self.app_state, STILL_OPEN: functools.partial(_is_standing, connection)}
        self._watch()
        if len(self.connections) > CONNECTIONS_LIMIT:
            others = [one for one in self.connections if isinstance(one, Http) and one is not self]
            awaited = [one for one in others if one.is_awaited]
            goes = min(awaited, key=lambda one: one._since, default=self)
            self.connections.discard(goes)  # it is no more than a name there until the loop has come round
            goes.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """The time begins when nothing is under way, and does not begin anew with every byte."""
        if not self.is_idle:
            self._unwatch()
        elif self._closing is None:
            self._closing = self.loop.call_later(REQUEST_S, self._close_if_idle)

    def _unwatch(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def _close_if_idle(self) -> None:
        self._closing = None
        if self.is_idle:
            self.transport.abort()


def _is_standing(connection: socket.socket) -> bool:
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:  # it is closed here as well
        return False
    return state in STANDING

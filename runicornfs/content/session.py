"""One guest of a cache folder's owner: what it has open, and the connections over which it asks.

`_lock` protects both; it is a leaf.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
from collections.abc import Iterator

from runicornfs.content.contents import Reader
from runicornfs.content.wire import Connection
from runicornfs.errors import OwnerGone, ProtocolError


class Session:
    """Thread-safe. `events` is the connection that the session lives as long as."""

    def __init__(self, events: Connection) -> None:
        self.token = secrets.token_hex(16)
        self.events = events
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._readers: dict[int, Reader] = {}
        self._connections: set[Connection] = set()
        self._ended = False

    def add(self, reader: Reader) -> int:
        """The handle of a reader. Raises OwnerGone, with the reader closed, where the session has ended."""
        with self._lock:
            if not self._ended:
                handle = next(self._numbers)
                self._readers[handle] = reader
                return handle
        reader.close()
        raise OwnerGone("the session has ended")

    def reader(self, handle: int) -> Reader:
        """Raises ProtocolError where there is none."""
        with self._lock:
            if handle not in self._readers:
                raise ProtocolError("a guest reads what it has not opened")
            return self._readers[handle]

    def remove(self, handle: int) -> Reader:
        """Raises ProtocolError where there is none."""
        with self._lock:
            if handle not in self._readers:
                raise ProtocolError("a guest closes what it has not opened")
            return self._readers.pop(handle)

    @contextlib.contextmanager
    def joined_by(self, connection: Connection) -> Iterator[None]:
        """For as long as the connection is one of this session. Raises OwnerGone where that has ended."""
        with self._lock:
            if self._ended:
                raise OwnerGone("the session has ended")
            self._connections.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)

    def end(self) -> None:
        """Closes all that the guest had open; whoever waits for it is woken."""
        with self._lock:
            self._ended = True
            readers, self._readers = list(self._readers.values()), {}
            connections = list(self._connections)
        for connection in connections:
            connection.end()
        for reader in readers:
            reader.close()

"""The first scan of a store, begun before anything is kept of it.

Whoever opens a store on a server wants to know whether there is one, and then everything that is in it. Over SFTP the
first question alone takes a dozen round trips. A scan answers both: what it meets first shows that a store is there,
and the first sync goes on where that ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator

from runicornfs.errors import StoreUnusable
from runicornfs.remote.events import Event, Known
from runicornfs.remote.scan import scan_store
from runicornfs.remote.server import Server
from runicornfs.store.layout import ARTIFACTS
from runicornfs.store.observed import Observed


class ServerScan:
    """Scans the store of a server. Belongs to one thread at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._met: list[Event] = []
        self._begun: Generator[Event, None, None] | None = None

    def __call__(self, known: Known) -> Iterator[Event]:
        """See `scan_store`."""
        known = iter(known)
        first = list(itertools.islice(known, 1))
        begun = self._begun
        if begun is not None and not first:
            self._begun = None
            return itertools.chain(self._met, begun)
        self.close()
        return scan_store(self._server, self._server.address.root, itertools.chain(first, known))

    def begin(self) -> None:
        """For a store of which nothing is known. Raises StoreUnusable where there is none, and ServerErrors."""
        scan = scan_store(self._server, self._server.address.root, ())
        try:
            self._met = list(itertools.islice(scan, 2))
        except StoreUnusable:
            self._server.verify_store()  # it has a better sentence
            raise
        if not _is_usual(self._met):
            self._server.verify_store()
        self._begun = scan

    def close(self) -> None:
        """Ends a scan that was begun if no sync goes on with it."""
        if self._begun is not None:
            self._begun.close()
            self._begun = None


def _is_usual(met: list[Event]) -> bool:
    """A folder of artifacts, and something in it. There are other stores, which have to be looked at more closely."""
    match met:
        case [Observed(path=folder), Observed(path=path)]:
            return folder == ARTIFACTS and path.startswith(f"{ARTIFACTS}/")
        case _:
            return False

"""Scans as a sync makes them, one after the other, and what has to be equal whichever way they went."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import Kind
from runicornfs.remote.events import Event, Gone, Notice, Plan
from runicornfs.remote.scan import scan_store
from runicornfs.remote.server import Server
from runicornfs.store.observed import Observed, ObservedKind

Seen = tuple[ObservedKind, int, int, bytes | None]


class Scans:
    """What a client knows of a store after each scan: `seen` by path, `notices` of the last one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.root = server.address.root
        self.tokens: dict[str, bytes] = {}
        self.seen: dict[str, Seen] = {}
        self.notices: list[str] = []

    def scan(self) -> list[str]:
        """Scans once more; returns the paths that the scan told of, but for those that it calls gone."""
        told = []
        self.notices = []
        for event in self.events():
            match event:
                case Observed(path, kind, token, size, mtime_ns, content):
                    self.tokens[path] = token
                    self.seen[path] = (kind, size, mtime_ns // 1_000_000_000, content)
                    told.append(path)
                case Gone(path):
                    del self.tokens[path], self.seen[path]
                case Notice(text):
                    self.notices.append(text)
        return told

    def events(self) -> Iterator[Event]:
        return scan_store(self.server, self.root, [(os.fsencode(path), token) for path, token in self.tokens.items()])

    def content(self, path: str) -> bytes | None:
        return self.seen[path][3]


class SyncedCatalog:
    """A catalog that is brought up to date by scans."""

    def __init__(self, catalog: Catalog, server: Server) -> None:
        self.catalog = catalog
        self.server = server

    def sync(self) -> list[str]:
        """Returns the problems."""
        with self.catalog.update() as update:
            for event in scan_store(self.server, self.server.address.root, update.known()):
                match event:
                    case Observed():
                        update.stage(event)
                    case Gone(path):
                        update.gone(path)
                    case Notice(text):
                        update.notice(text)
            update.apply(last_sync=time.time())
        return self.catalog.problems()

    def tree(self) -> dict[str, tuple[object, ...]]:
        """Everything that a mount would show, with times in whole seconds."""
        found: dict[str, tuple[object, ...]] = {}
        for path in self.catalog.paths():
            node = self.catalog.lookup(path)
            assert node is not None
            content = None if node.document is None else self.catalog.document(node.document)
            times = node.mtime_ns // 1_000_000_000
            found[path] = (Kind(node.kind), node.size, times, node.digest, node.target, content)
        return found

    def names(self, folder: str) -> list[str]:
        return [name for name, _ in self.catalog.children(folder)]

    def target(self, link: str) -> str | None:
        node = self.catalog.lookup(link)
        return None if node is None else node.target


@contextmanager
def synced_catalog(server: Server, folder: Path) -> Iterator[SyncedCatalog]:
    """An empty catalog in this folder, to be synced with this server."""
    folder.mkdir(parents=True, exist_ok=True)
    catalog = Catalog.open(folder / "index.db")
    try:
        yield SyncedCatalog(catalog, server)
    finally:
        catalog.close()


def order_is_kept(events: list[Event]) -> bool:
    """Indexes and lists first, then the plan, then exactly the documents that it has announced."""
    at = next(index for index, event in enumerate(events) if isinstance(event, Plan))
    plan = events[at]
    assert isinstance(plan, Plan)
    before = [event for event in events[:at] if isinstance(event, Observed) and event.content is not None]
    after = [event for event in events[at + 1 :] if isinstance(event, Observed)]
    return (
        all(event.path.endswith("/versions.json") for event in before)
        and all(event.content is not None for event in after)
        and (len(after), sum(event.size for event in after)) == (plan.documents, plan.size_bytes)
    )

"""A store that is open: what is known of it, its bytes, and who keeps both up to date.

The first process that opens a store owns its cache folder: it syncs, fetches and keeps. Every other process that opens
the same store is a guest of the first: it reads the same catalog and asks the owner for bytes and syncs. When the owner
ends, however it does, one of its guests takes its place; readers in the others wait for a moment and go on.

`_lock` protects the change from one role to the other and the end; `upkeep` is replaced under it and read without it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.update import Changes
from runicornfs.content.contents import Contents
from runicornfs.content.guest import GuestContents
from runicornfs.content.handover import HandoverContents
from runicornfs.content.owner import OwnerSocket
from runicornfs.downloads.tasks import DownloadTasks
from runicornfs.errors import Refused, RunicornFSError
from runicornfs.manage.editors import Editor
from runicornfs.manage.manager import Manager
from runicornfs.remote.server import Server
from runicornfs.sync.export import MetadataExport
from runicornfs.sync.syncer import Scan, Syncer
from runicornfs.workspace.folders import StoreFolder
from runicornfs.workspace.upkeep import OwnersUpkeep, OwnUpkeep, Upkeep

log = logging.getLogger("runicornfs.workspace")

# What the owner tells its guests: the catalog has a new snapshot.
CHANGED = "changed"
# An owner opens its socket within milliseconds after it has taken the folder.
JOIN_TIMEOUT_S = 10.0
# How often a guest whose owner is gone tries to take its place, or to find who did.
SUCCESSION_POLL_S = 0.05
# After that has failed, for want of descriptors or because the disk is full, something must change first.
SUCCESSION_RETRY_S = 1.0


@dataclass(frozen=True)
class Origin:
    """Where a store is and how to read it; without a server it is a folder of this machine (`local_root`)."""

    source: str  # as the person wrote it
    scan: Scan
    editor: Editor
    keep: Callable[[StoreFolder], Contents]  # makes what the owner keeps contents with
    server: Server | None = None
    local_root: Path | None = None


class OpenedStore:
    """Thread-safe. `contents` is the same object for as long as the store is open."""

    def __init__(self, origin: Origin, folder: StoreFolder) -> None:
        """Takes over the folder, and the server of `origin`. It is offline at first: see `go_online`.

        Raises Refused where another process has the folder and does not answer.
        """
        self.folder = folder
        self.source = origin.source
        self.server = origin.server
        self.local_root = origin.local_root
        self.mode = "local" if origin.server is None else "remote"
        self._origin = origin
        self._online = False
        self._sync_interval = 0.0
        self._syncer: Syncer | None = None  # of an owner
        self._door: OwnerSocket | None = None  # likewise
        self.contents: Contents
        self.upkeep: Upkeep
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._role = ExitStack()  # what ends with the present role
        self._after = ExitStack()
        self._successor: threading.Thread | None = None
        if folder.owned:
            self.catalog = Catalog.open(folder.index)
            self.contents = origin.keep(folder)
            self._own(self.contents)
        else:
            guest = _join(folder)
            self.catalog = Catalog.follow(folder.index)
            self.contents = HandoverContents(guest) if origin.local_root is None else origin.keep(folder)
            self._follow(guest)
        self.downloads = DownloadTasks(folder.path, self.catalog, self.contents)

    def go_online(self, sync_interval: float) -> None:
        """The connection is wished for, and is there already if this process owns the store: syncs every
        `sync_interval` seconds from now on (0: only on demand)."""
        with self._lock:
            self._online = True
            self._sync_interval = sync_interval
            if self._syncer is not None:
                self._syncer.every(sync_interval)

    def go_offline(self) -> None:
        """Ends the connection, if it is this process's, and syncs no more by itself."""
        with self._lock:
            self._online = False
            if self._syncer is not None:
                self._syncer.every(0)
                if self.server is not None:
                    self.server.close()

    def interrupt(self) -> None:
        """Ends every wait for the server; for the end of the program. `close` has to follow."""
        if self._door is not None:
            self._door.dismiss()  # first: guests would take the end of our line for a server that is away
        if self.server is not None:
            self.server.close()

    def close(self) -> None:
        """Ends transfers, syncs and the connection; the folder is free for others then."""
        self.downloads.close()
        with self._lock:
            self._closing.set()
            self._role.close()
        if self._successor is not None:
            self._successor.join()
        self.contents.close()
        self.catalog.close()
        self.folder.close()
        self._after.close()

    def on_close(self, callback: Callable[[], None]) -> None:
        """`callback()` is called when everything is closed."""
        self._after.callback(callback)

    def _own(self, contents: Contents) -> None:
        """This process syncs from now on, and answers to others."""
        export = MetadataExport(self.folder.metadata, self.catalog.document)
        syncer = self._syncer = Syncer(self.catalog, self._origin.scan, export, lambda: _make_room(contents))
        manager = Manager(self.catalog, self._origin.editor, syncer.export, syncer.owe)
        if self.server is not None:
            self.server.on_state(lambda state: syncer.reached() if state == "connected" else None)
        upkeep = self.upkeep = OwnUpkeep(syncer, self.server, manager)
        self._role.callback(syncer.join)
        if self.server is not None:
            self._role.callback(self.server.close)  # a sync that waits for the line ends with the line
        self._role.callback(syncer.cancel)
        door = self._door = OwnerSocket(self.folder.path, contents, OwnersUpkeep.answers(upkeep))
        self._role.callback(door.close)

        def tell(changes: Changes) -> None:
            door.announce(CHANGED, {})

        self.catalog.on_change(tell)

    def _follow(self, guest: GuestContents) -> None:
        """Another process syncs, and this one hears of it."""
        self._role.callback(guest.close)
        self.upkeep = OwnersUpkeep(guest)
        guest.on_event(CHANGED, lambda data: self.catalog.catch_up())
        guest.on_lost(self._succeed_later)
        self.catalog.catch_up()

    def _succeed_later(self) -> None:
        """The owner is gone. Called on a thread of the guest's, which must not wait."""
        if not self._closing.is_set():
            self._successor = threading.Thread(target=self._succeed, name="succession", daemon=True)
            self._successor.start()

    def _succeed(self) -> None:
        """Takes the place of the owner that is gone, or finds who did."""
        log.info("the process that kept %s is gone", self.folder.path)
        if isinstance(self.contents, HandoverContents):
            self.contents.lost()
        failed = False
        while not self._closing.wait(SUCCESSION_RETRY_S if failed else SUCCESSION_POLL_S):
            with self._lock:
                if self._closing.is_set():
                    return
                try:
                    if self.folder.own():
                        self._inherit()
                        return
                    with contextlib.suppress(RunicornFSError):
                        self._change_owner(GuestContents(self.folder.path))
                        return
                except Exception as error:
                    if not failed:
                        known = isinstance(error, RunicornFSError | OSError)
                        what = "the place of the process that kept %s cannot be taken yet: %s"
                        log.warning(what, self.folder.path, error, exc_info=not known)
                    failed = True
                    self._role.close()
                    self.folder.disown()  # perhaps another process can

    def _inherit(self) -> None:
        log.info("this process keeps %s from now on", self.folder.path)
        self._role.close()
        self.catalog.own()
        contents = self.contents
        if isinstance(contents, HandoverContents):
            kept = self._origin.keep(self.folder)
            try:
                self._own(kept)
            except BaseException:
                kept.close()
                raise
            contents.switch(kept)
        else:
            self._own(contents)
        if self._online:
            if self.server is not None:
                self.server.pursue()
            if self._syncer is not None:
                self._syncer.every(self._sync_interval)

    def _change_owner(self, guest: GuestContents) -> None:
        self._role.close()
        if isinstance(self.contents, HandoverContents):
            self.contents.switch(guest)
        self._follow(guest)


def _make_room(contents: Contents) -> bool:
    """The index comes before contents: whether some of those that are cached could go."""
    try:
        return contents.cleanup().size_bytes > 0
    except RunicornFSError:
        return False


def _join(folder: StoreFolder) -> GuestContents:
    """Becomes a guest of the process that has this folder."""
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while True:
        try:
            return GuestContents(folder.path)
        except RunicornFSError as error:
            if time.monotonic() > deadline:
                raise Refused(
                    f"another runicornfs (process {folder.owner}) uses the cache folder {folder.path} and does not "
                    f"answer ({error}): end it, or name another folder with --cache-dir"
                ) from None
            time.sleep(SUCCESSION_POLL_S)

"""What the command line, the control API and the page can ask for, on the one store that is in use.

What concerns one area hangs on it: `artifacts`, and what the modules beside this one are named after. Methods are
thread-safe, and none but those that say so touches the network.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from runicornfs.catalog.update import Changes
from runicornfs.errors import NotFound, Refused
from runicornfs.mount.mountpoint import unmount
from runicornfs.mount.options import MountOptions
from runicornfs.mount.session import Mount
from runicornfs.sync.progress import SyncProgress
from runicornfs.sync.syncer import SyncRun
from runicornfs.workspace.artifacts import Artifacts
from runicornfs.workspace.cache import Cache
from runicornfs.workspace.connection import Connection, SshFiles
from runicornfs.workspace.connections import SavedConnections
from runicornfs.workspace.downloads import Downloads
from runicornfs.workspace.lineage import Lineage
from runicornfs.workspace.localstatistics import LocalStore
from runicornfs.workspace.managing import Managing
from runicornfs.workspace.opened import OpenedStore
from runicornfs.workspace.opening import Keeping
from runicornfs.workspace.runs import Runs
from runicornfs.workspace.upkeep import UpkeepState


@dataclass(frozen=True, slots=True)
class Statistics:
    """The store and its cache in numbers. Times in Unix seconds."""

    connected: bool
    last_sync: float | None
    total_artifacts: int
    cached_artifacts: int
    cache_size_bytes: int
    remote_size_bytes: int
    sync_count: int
    error_count: int


@dataclass(frozen=True, slots=True)
class Status:
    """What is going on, at a glance."""

    mode: str  # local, remote
    source: str
    connected: bool
    status: str  # disconnected, connecting, connected, syncing, reconnecting, error
    sync_progress: SyncProgress
    stats: Statistics
    error: str | None
    mounts: list[str]
    offline: bool


class Workspace:
    """The store in use and what is done with it. `_lock` protects the list of mounts, which is only ever replaced."""

    def __init__(self, keeping: Keeping, ssh: SshFiles) -> None:
        self._lock = threading.Lock()
        self._mounts: list[Mount] = []
        self.connection = Connection(keeping, ssh, self._opened, self._shown)
        self.artifacts = Artifacts(self)
        self.cache = Cache(self)
        self.downloads = Downloads(self)
        self.managing = Managing(self)
        self.runs = Runs(self)
        self.lineage = Lineage(self)
        self.local = LocalStore(self)
        self.connections = SavedConnections()
        self.cache_dir = keeping.cache_dir.expanduser()

    @property
    def store(self) -> OpenedStore:
        """The store in use: another one after a change of server or mode."""
        return self.connection.store

    def close(self) -> None:
        """Unmounts, disconnects and closes everything. A second time does nothing."""
        for mount in self._mounts:
            mount.stop()
        self.connection.close()

    def sync(self, full: bool = False) -> SyncRun:
        """Starts a sync, or joins the one that runs; returns at once. Raises Refused while nothing is connected."""
        upkeep = self.store.upkeep
        now = upkeep.state()
        if now.line == "disconnected":
            raise Refused(f"the server is not connected: {now.advice}")
        return upkeep.sync(full)

    def mount(self, mountpoint: Path, options: MountOptions) -> Mount:
        """Mounts whatever store is in use; returns when the mount answers. Raises InvalidInput, Refused,
        MountUnavailable."""
        store = self.store
        mount = Mount(store.catalog, store.contents, store.source or "runicornfs", mountpoint, options)
        mount.start()
        with self._lock:
            self._mounts = [*self._mounts, mount]
            if store is not self.store:
                mount.show(self.store.catalog, self.store.contents)
        return mount

    def unmount(self, mountpoint: Path) -> None:
        """Takes a mount of this process away. Raises NotFound where there is none, Refused where it is in use."""
        found = next((mount for mount in self.mounts if mount.mountpoint == mountpoint), None)
        if found is None:
            raise NotFound(f"nothing is mounted on {mountpoint} by this runicornfs")
        unmount(mountpoint)
        found.stop()

    @property
    def mounts(self) -> list[Mount]:
        """Those that are not gone."""
        with self._lock:
            ended = [mount for mount in self._mounts if mount.ended.is_set()]
            self._mounts = [mount for mount in self._mounts if mount not in ended]
        for mount in ended:
            mount.stop()
        return self._mounts

    def mount_path(self, path: str) -> str | None:
        """Where a path of the store stands in a mount; None where nothing is mounted."""
        return next((str(mount.mountpoint / path) for mount in self.mounts), None)

    def progress(self) -> SyncProgress:
        """Of the sync that runs, or that ran last."""
        return self.store.upkeep.state().progress

    def status(self) -> Status:
        now = self.store.upkeep.state()
        error = now.error
        if error is None and now.progress.status == "failed" and now.progress.errors:
            error = now.progress.errors[-1]
        if self.connection.connecting:
            status = "connecting"
        elif now.progress.status == "running":
            status = "syncing"
        else:
            status = "error" if now.line == "disconnected" and now.error else now.line
        return Status(
            mode=self.connection.mode,
            source=self.store.source,
            connected=now.connected,
            status=status,
            sync_progress=now.progress,
            stats=self._statistics(now),
            error=error,
            mounts=[str(mount.mountpoint) for mount in self.mounts],
            offline=not now.connected,
        )

    def statistics(self) -> Statistics:
        return self._statistics(self.store.upkeep.state())

    def problems(self) -> list[str]:
        """What of the store cannot be used, and why."""
        return self.store.catalog.problems()

    def _statistics(self, now: UpkeepState) -> Statistics:
        totals = self.store.catalog.totals()
        return Statistics(
            connected=now.connected,
            last_sync=now.last_sync,
            total_artifacts=totals.artifacts,
            cached_artifacts=totals.artifacts,
            cache_size_bytes=self.store.contents.status().size_bytes,
            remote_size_bytes=totals.bytes,
            sync_count=now.syncs,
            error_count=now.failures,
        )

    def _opened(self, store: OpenedStore) -> None:
        """From now on what changes in this store is heard of; it concerns the mounts while the store is in use."""

        def changed(changes: Changes) -> None:
            """There is a new snapshot: every mount forgets what changed."""
            for mount in self._mounts:
                mount.changed(store.catalog, changes)

        def dropped(key: str) -> None:
            """A content failed its sha256 and is gone: no page of it may be served either."""
            paths = store.catalog.paths_of(bytes.fromhex(key))
            for mount in self._mounts:
                mount.forget(store.contents, paths)

        store.catalog.on_change(changed)
        store.contents.on_dropped(dropped)

    def _shown(self, store: OpenedStore) -> None:
        """Another store is in use."""
        with self._lock:
            for mount in self._mounts:
                mount.show(store.catalog, store.contents)

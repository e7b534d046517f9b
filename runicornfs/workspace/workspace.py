"""What the command line, the control API and the page can ask for, on the one store that is in use.

The workspace owns nothing it did not get: the daemon composes its parts and closes them. Its methods are thread-safe
and none but `sync` touches the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runicornfs.catalog.catalog import ArtifactRef, ArtifactSummary, Catalog, VersionSummary
from runicornfs.catalog.update import Changes
from runicornfs.content.contents import REMOTE, CacheStatus, Contents
from runicornfs.mount.options import MountOptions
from runicornfs.mount.session import Mount
from runicornfs.remote.server import Server
from runicornfs.store.records import Manifest, parse_manifest
from runicornfs.sync.progress import SyncProgress
from runicornfs.sync.syncer import Syncer, SyncRun


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


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a version. `absolute_path` is where its bytes lie on this machine, if they do."""

    path: str
    size: int
    digest: str | None
    modified_at: float | None
    absolute_path: str | None
    is_remote: bool
    cached_bytes: int
    mount_path: str | None


@dataclass(frozen=True, slots=True)
class FileList:
    """The inventory of a version."""

    artifact: str
    files: list[FileEntry]
    manifest: Manifest
    is_remote: bool


class Workspace:
    """One store in use: a server's (`server` is given) or a folder of this machine (`local_root` is)."""

    def __init__(
        self,
        source: str,
        folder: Path,
        catalog: Catalog,
        contents: Contents,
        syncer: Syncer,
        *,
        server: Server | None = None,
        local_root: Path | None = None,
    ) -> None:
        self.source = source
        self.folder = folder
        self._catalog = catalog
        self._contents = contents
        self._syncer = syncer
        self._server = server
        self._local_root = local_root
        self._mounts: list[Mount] = []

    @property
    def mode(self) -> str:
        return "local" if self._server is None else "remote"

    def sync(self, full: bool = False) -> SyncRun:
        """Starts a sync, or joins the one that runs; returns at once."""
        return self._syncer.start(full)

    def mount(self, mountpoint: Path, options: MountOptions) -> Mount:
        """Mounts the store; returns when the mount answers."""
        mount = Mount(self._catalog, self._contents, self.source, mountpoint, options)
        self._mounts = [*self._mounts, mount]
        mount.start()
        return mount

    def announce(self, changes: Changes) -> None:
        """After a commit: every mount forgets what changed. The syncer calls it."""
        self._forget(changes.changed_paths)

    def content_dropped(self, paths: list[str]) -> None:
        """Contents failed their sha256 and are gone: no page of them may be served either."""
        self._forget(paths)

    def status(self) -> Status:
        progress = self._syncer.progress
        connected = self._server is None or self._server.state == "connected"
        if progress.status == "running":
            state = "syncing"
        elif self._server is not None:
            state = self._server.state
        else:
            state = "connected"
        failure = None if self._server is None else self._server.last_error
        error = None if failure is None else str(failure)
        if error is None and progress.status == "failed" and progress.errors:
            error = progress.errors[-1]
        return Status(
            mode=self.mode,
            source=self.source,
            connected=connected,
            status=state,
            sync_progress=progress,
            stats=self.statistics(),
            error=error,
            mounts=[str(mount.mountpoint) for mount in self._mounts if not mount.ended.is_set()],
            offline=not connected,
        )

    def statistics(self) -> Statistics:
        totals = self._catalog.totals()
        syncs, failures = self._syncer.counts
        return Statistics(
            connected=self._server is None or self._server.state == "connected",
            last_sync=self._syncer.last_sync,
            total_artifacts=totals.artifacts,
            cached_artifacts=totals.artifacts,
            cache_size_bytes=self._contents.status().size_bytes,
            remote_size_bytes=totals.bytes,
            sync_count=syncs,
            error_count=failures,
        )

    def problems(self) -> list[str]:
        """What of the store cannot be used, and why."""
        return self._catalog.problems()

    def cache(self) -> CacheStatus:
        return self._contents.status()

    def artifacts(self, type: str | None = None) -> list[ArtifactSummary]:
        """Every artifact, newest update first."""
        return self._catalog.artifacts(type)

    def find(self, name: str, type: str | None = None, version: int | None = None) -> ArtifactRef:
        """Raises NotFound or AmbiguousName."""
        return self._catalog.find_artifact(name, type, version)

    def versions(self, artifact: ArtifactRef, include_deleted: bool = False) -> list[VersionSummary]:
        return self._catalog.versions(artifact, include_deleted)

    def metadata(self, artifact: ArtifactRef, version: int) -> dict[str, object]:
        """The fields of metadata.json, with the true aliases. Raises NotFound."""
        return self._catalog.metadata(artifact, version)

    def files(self, artifact: ArtifactRef, version: int) -> FileList:
        """The files of a version and what of them is on this machine. Raises NotFound."""
        manifest = parse_manifest(self._catalog.manifest_document(artifact, version))
        folder = f"artifacts/{artifact.type}/{artifact.name}/v{version}/files"
        cached = self._contents.cached_bytes(list({file.digest.hex() for file in manifest.files if file.digest}))
        files = [
            FileEntry(
                path=file.path,
                size=file.size,
                digest=f"sha256:{file.digest.hex()}" if file.digest else None,
                modified_at=file.modified_at,
                absolute_path=str(self._local_root / folder / file.path) if self._local_root else None,
                is_remote=self._server is not None,
                cached_bytes=min(file.size, cached.get(file.digest.hex(), (0, REMOTE))[0]) if file.digest else 0,
                mount_path=self._mount_path(f"{folder}/{file.path}"),
            )
            for file in manifest.files
        ]
        return FileList(f"{artifact.name}:v{version}", files, manifest, self._server is not None)

    def _forget(self, paths: list[str]) -> None:
        for mount in self._mounts:
            mount.changed(paths)

    def _mount_path(self, path: str) -> str | None:
        for mount in self._mounts:
            if not mount.ended.is_set():
                return str(mount.mountpoint / path)
        return None

"""Artifacts, their versions and files, of the store in use: from its catalog and its cache, never from the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runicornfs.catalog.artifacts import ArtifactRef, ArtifactSummary, VersionSummary
from runicornfs.content.contents import REMOTE
from runicornfs.store.records import Manifest, parse_manifest

if TYPE_CHECKING:
    from runicornfs.workspace.workspace import Workspace


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


class Artifacts:
    """Thread-safe. Answers are of the snapshot that the store shows now."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def all(self, type: str | None = None) -> list[ArtifactSummary]:
        """Every artifact, newest update first."""
        return self._workspace.store.catalog.artifacts.all(type)

    def find(self, name: str, type: str | None = None, version: int | None = None) -> ArtifactRef:
        """Raises NotFound or AmbiguousName."""
        return self._workspace.store.catalog.artifacts.find(name, type, version)

    def versions(self, artifact: ArtifactRef, include_deleted: bool = False) -> list[VersionSummary]:
        return self._workspace.store.catalog.artifacts.versions(artifact, include_deleted)

    def metadata(self, artifact: ArtifactRef, version: int) -> dict[str, object]:
        """The fields of metadata.json, with the true aliases. Raises NotFound."""
        return self._workspace.store.catalog.artifacts.metadata(artifact, version)

    def files(self, artifact: ArtifactRef, version: int) -> FileList:
        """The files of a version and what of them is on this machine. Raises NotFound."""
        store = self._workspace.store
        manifest = parse_manifest(store.catalog.artifacts.manifest_document(artifact, version))
        folder = f"artifacts/{artifact.type}/{artifact.name}/v{version}/files"
        cached = store.contents.cached_bytes(list({file.digest.hex() for file in manifest.files if file.digest}))
        files = [
            FileEntry(
                path=file.path,
                size=file.size,
                digest=f"sha256:{file.digest.hex()}" if file.digest else None,
                modified_at=file.modified_at,
                absolute_path=str(store.local_root / folder / file.path) if store.local_root else None,
                is_remote=store.local_root is None,
                cached_bytes=min(file.size, cached.get(file.digest.hex(), (0, REMOTE))[0]) if file.digest else 0,
                mount_path=self._workspace.mount_path(f"{folder}/{file.path}"),
            )
            for file in manifest.files
        ]
        return FileList(f"{artifact.name}:v{version}", files, manifest, store.local_root is None)

"""The cache of the store in use: what is kept of it on this machine, what stays, and what goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runicornfs.catalog.catalog import Catalog
from runicornfs.content.contents import CachedFile, CacheStatus, Freed, Pin, Verification
from runicornfs.content.identity import sha256_of
from runicornfs.downloads.selection import select
from runicornfs.errors import AmbiguousName, Conflict, InvalidInput, NotFound
from runicornfs.store.layout import ARTIFACTS
from runicornfs.workspace.names import VersionName, find_version

if TYPE_CHECKING:
    from runicornfs.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A content of which something is here, and where it belongs: versions (`model/resnet50:v3`), or its own path
    where it is of none. Nowhere is a content that the store does not show any more."""

    content: CachedFile
    where: list[str]


@dataclass(frozen=True, slots=True)
class PinnedVersion:
    """`in_store` is False for a version that the store does not show any more."""

    pin: Pin
    in_store: bool


class Cache:
    """Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def status(self) -> CacheStatus:
        return self._workspace.store.contents.status()

    def files(self, sort: str, limit: int) -> list[ListedFile]:
        """What is cached, in the order of `sort`: see `Contents.files`. Raises InvalidInput."""
        store = self._workspace.store
        contents = store.contents.files(sort, limit)
        digests = {content.key: sha256_of(content.key) for content in contents}
        versions = store.catalog.units_with([digest for digest in digests.values() if digest is not None])
        found = []
        for content in contents:
            digest = digests[content.key]
            if digest is not None:
                where = [_label_of(unit) for unit in versions.get(digest, [])]
            else:
                where = [content.path] if store.catalog.lookup(content.path) else []
            found.append(ListedFile(content, where))
        return found

    def pins(self) -> list[PinnedVersion]:
        """By label."""
        store = self._workspace.store
        return [PinnedVersion(pin, _is_shown(store.catalog, pin.label)) for pin in store.contents.pins()]

    def pin(self, version: str, type: str | None = None) -> Pin:
        """Keeps the files of a version (`resnet50:v3`; an alias is what it means now) from being evicted.

        Raises InvalidInput, NotFound, AmbiguousName, NoSpace where all that is pinned does not fit into the cache,
        Refused where nothing is cached.
        """
        store = self._workspace.store
        ref, number = find_version(self._workspace.artifacts, version, type)
        label = _label_of(f"{ref.path}/v{number}")
        files = select(store.catalog, ref, number).files
        if not files:
            raise InvalidInput(f"{label} has no files that could be pinned")
        store.contents.pin(label, {file.identity.key: file.identity.size for file in files})
        return next(pin for pin in store.contents.pins() if pin.label == label)

    def unpin(self, version: str, type: str | None = None) -> str:
        """Lets a version go again, also one that the store does not show any more; returns its label.

        Raises InvalidInput, NotFound where it is not pinned, AmbiguousName.
        """
        wanted = VersionName.parse(version, type)
        if wanted.number is None:
            ref, number = find_version(self._workspace.artifacts, version, type)
            wanted = VersionName(ref.type, ref.name, f"v{number}")
        contents = self._workspace.store.contents
        suffix = f"/{wanted.name}:v{wanted.number}"
        pinned = [pin.label for pin in contents.pins() if pin.label.endswith(suffix)]
        if wanted.type is not None:
            pinned = [label for label in pinned if label == f"{wanted.type}{suffix}"]
        if not pinned:
            raise NotFound(f"{version} is not pinned: `runicornfs cache list` shows what is")
        if len(pinned) > 1:
            types = [label.removesuffix(suffix) for label in pinned]
            raise AmbiguousName(f"{version} is pinned as {', '.join(types)}: say which type", types)
        contents.unpin(pinned[0])
        return pinned[0]

    def cleanup(self) -> Freed:
        """Evicts what is more than the limit, least recently used first."""
        return self._workspace.store.contents.cleanup()

    def clear(self, force: bool = False) -> Freed:
        """Drops what is kept: contents, finished downloads and the exported records; then reads the store's records
        again, in the background. What programs have open stays readable, and the tree is seen as it was until then.

        Raises Conflict where the server cannot be asked for the records; with `force` they are forgotten, too, and the
        tree is empty until the next sync.
        """
        store = self._workspace.store
        now = store.upkeep.state()
        if not now.connected and not force:
            raise Conflict(
                "the cache is not cleared while the server cannot be reached, since the store could not be read again:"
                f" {now.advice}, or force it (--force)"
            )
        freed = store.contents.clear()
        downloads = self._workspace.downloads.clear_finished()
        store.upkeep.start_over(forget=not now.connected)
        return replace(freed, size_bytes=freed.size_bytes + downloads)

    def verify(self) -> Verification:
        """Starts to check what is cached against its sha256, or joins the check that runs. Raises Refused where nothing
        is cached."""
        return self._workspace.store.contents.verify()

    def verification(self) -> Verification:
        """How far the check is that was started last."""
        return self._workspace.store.contents.verification()


def _label_of(unit: str) -> str:
    """`model/resnet50:v3` of `artifacts/model/resnet50/v3`."""
    artifact, _, version = unit.removeprefix(f"{ARTIFACTS}/").rpartition("/")
    return f"{artifact}:{version}"


def _is_shown(catalog: Catalog, label: str) -> bool:
    artifact, _, version = label.rpartition(":")
    return catalog.lookup(f"{ARTIFACTS}/{artifact}/{version}") is not None

"""Which files a task is about, and where their bytes are had from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from runicornfs.catalog.artifacts import ArtifactRef
from runicornfs.catalog.catalog import Catalog
from runicornfs.content.identity import Identity, identity_of
from runicornfs.errors import MissingOnServer, NotFound
from runicornfs.store.layout import FILES_NAME
from runicornfs.store.paths import shown
from runicornfs.store.records import ManifestFile, parse_manifest


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file of a version: `path` below the target, `size` in bytes, `modified_at` in seconds since 1970."""

    path: str
    size: int
    modified_at: float | None
    identity: Identity


@dataclass(frozen=True, slots=True)
class Selection:
    """Files of one version. `references` are data that lies elsewhere: nobody downloads them."""

    files: list[WantedFile]
    references: int

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def select(catalog: Catalog, ref: ArtifactRef, version: int, patterns: Sequence[str] = ()) -> Selection:
    """The files of a version whose paths match one of the patterns; all of them without patterns.

    Raises NotFound where there is no such version or nothing matches a pattern, MalformedRecord, and MissingOnServer
    for a file without a digest that the server does not have.
    """
    manifest = parse_manifest(catalog.artifacts.manifest_document(ref, version))
    chosen = manifest.files
    if patterns:
        chosen = [file for file in chosen if any(matches(pattern, file.path) for pattern in patterns)]
        for pattern in patterns:
            if not any(matches(pattern, file.path) for file in chosen):
                raise NotFound(f"no file of {ref.name}:v{version} matches {shown(pattern)}")
    folder = f"{ref.path}/v{version}/{FILES_NAME}"
    return Selection([_wanted(catalog, folder, file) for file in chosen], len(manifest.references))


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a path: `*`, `?` and `[…]` within one component, `**` any number of them.

    A pattern without a slash is about the name alone, in whatever folder the file lies.
    """
    parts = path.split("/")
    pieces = pattern.split("/")
    if len(pieces) == 1:
        return fnmatchcase(parts[-1], pattern) or pattern == "**"
    reached = {0}  # so many components can have been matched by the pieces so far
    for piece in pieces:
        if piece == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], piece)}
    return len(parts) in reached


def _wanted(catalog: Catalog, folder: str, file: ManifestFile) -> WantedFile:
    path = f"{folder}/{file.path}"
    if file.digest is not None:
        identity = Identity(file.digest.hex(), path, file.size, file.digest, None)
    else:
        node = catalog.lookup(path)
        if node is None:
            raise MissingOnServer(f"{path} is not on the server")
        identity = identity_of(node)
    return WantedFile(file.path, identity.size, file.modified_at, identity)

"""Turns a store on this disk, or a plain dictionary, into what a scan of it would stage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import Node
from runicornfs.catalog.update import Changes
from runicornfs.store.layout import Role, place_of
from runicornfs.store.observed import Observed, ObservedKind


def observe(root: Path) -> Iterator[Observed]:
    """Everything in a store but the contents of versions, the pool and the server's own database."""
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        path = here.relative_to(root).as_posix()
        place = place_of("" if path == "." else path)
        folders[:] = [name for name in folders if name != ".dedup" and not (place.version and name == "files")]
        if path != ".":
            yield Observed(path, ObservedKind.DIRECTORY, b"d", 0, 0, None)
            yield from (_observe_file(here / name, f"{path}/{name}") for name in files)


def document(path: str, content: Any, token: bytes = b"1", mtime_ns: int = 10**18) -> Observed:
    """`content`: bytes as they are, anything else as JSON."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Observed(path, ObservedKind.DOCUMENT, token, len(data), mtime_ns, data)


def plain_file(path: str, size: int = 0, token: bytes = b"1", mtime_ns: int = 10**18) -> Observed:
    return Observed(path, ObservedKind.FILE, token, size, mtime_ns, None)


def directory(path: str) -> Observed:
    return Observed(path, ObservedKind.DIRECTORY, b"d", 0, 0, None)


def index(versions: dict[int, str], aliases: dict[str, int] | None = None, **fields: Any) -> dict[str, Any]:
    """versions.json with these numbers and states."""
    entries = [
        {
            "version": version,
            "created_at": 1.5,
            "size_bytes": 7,
            "num_files": 1,
            "status": status,
            "aliases": ["latest"],
        }
        for version, status in versions.items()
    ]
    return {"versions": entries, "aliases": aliases or {}, "created_at": 1.0, "updated_at": 2.0} | fields


def manifest(files: dict[str, int]) -> dict[str, Any]:
    """manifest.json with files of these sizes; a digest tells the size and the path."""
    return {"files": [entry(path, size) for path, size in files.items()], "references": []}


def entry(path: str, size: int = 1, **fields: Any) -> dict[str, Any]:
    return {"path": path, "size": size, "digest": f"sha256:{size:064x}", "modified_at": 1.0e9} | fields


def a_version(folder: str, files: dict[str, int] | None = None, token: bytes = b"1") -> list[Observed]:
    """The documents of one usable version."""
    return [
        document(f"{folder}/metadata.json", {"name": "net", "status": "ready"}, token),
        document(f"{folder}/manifest.json", manifest({"w.bin": 7} if files is None else files), token),
    ]


def apply(catalog: Catalog, *observed: Observed, gone: tuple[str, ...] = ()) -> Changes:
    """One whole update."""
    with catalog.update() as update:
        for item in observed:
            update.stage(item)
        for path in gone:
            update.gone(path)
        return update.apply()


def tree(catalog: Catalog, top: str = "") -> dict[str, Node]:
    """Every node below `top`, by path, as lookups and listings agree on it."""
    found = {}
    for name, node in catalog.children(top):
        assert node.path == (f"{top}/{name}" if top else name)
        assert catalog.lookup(node.path) == node
        found[node.path] = node
        found |= tree(catalog, node.path)
    return found


def _observe_file(file: Path, path: str) -> Observed:
    status = file.stat()
    token = b"%d" % status.st_mtime_ns
    if place_of(path).role is Role.PLAIN:
        return Observed(path, ObservedKind.FILE, token, status.st_size, status.st_mtime_ns, None)
    return Observed(path, ObservedKind.DOCUMENT, token, status.st_size, status.st_mtime_ns, file.read_bytes())

"""The file system's operations, without libfuse: what a path is, what a folder holds, what a read returns.

Answers come from the catalog; only reads of contents may reach the server. Raises our own errors and OSError, which
`runicornfs.mount.fuse` turns into errnos. Thread-safe: the catalog, the contents and the handle table are.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import Kind, Node
from runicornfs.content.contents import REMOTE, Contents, Interruption
from runicornfs.content.identity import identity_of
from runicornfs.errors import NotFound
from runicornfs.mount.handles import DocumentReader, Handle, HandleTable, Reader
from runicornfs.mount.options import MountOptions

# st_blocks counts in these, whatever st_blksize says (stat(2)).
STAT_BLOCK = 512
# The unit of statfs. Nothing depends on it; 4 KiB is what people expect of df.
STATFS_BLOCK = 4096
TYPES = {Kind.DIRECTORY: stat.S_IFDIR | 0o555, Kind.SYMLINK: stat.S_IFLNK | 0o777}
REMOTE_KINDS = (Kind.CONTENT, Kind.PLAIN)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) tells of a node. Times in nanoseconds since 1970, `blocks` of 512 bytes on this machine."""

    inode: int
    mode: int
    size: int
    blocks: int
    mtime_ns: int


Listing = list[tuple[str, Attributes]]


class StoreOperations:
    """One mounted store. `dropping(path)` is called when the kernel's pages of a path have to be dropped."""

    def __init__(
        self, catalog: Catalog, contents: Contents, options: MountOptions, dropping: Callable[[str], None]
    ) -> None:
        self._catalog = catalog
        self._contents = contents
        self._options = options
        self._announced = catalog.generation
        self._listings: dict[int, Listing] = {}
        self._listing_numbers = itertools.count(1)
        self.handles = HandleTable(dropping)

    def attributes(self, path: str) -> Attributes:
        node = self._node(path)
        return self._attributes(node, self._cached([node]))

    def handle_attributes(self, number: int) -> Attributes:
        """Of an open file: as it was when it was opened."""
        node = self.handles.get(number).node
        return self._attributes(node, self._cached([node]))

    def open_folder(self, path: str) -> int:
        """Takes the listing of a folder once, so that one reader of it never sees a mix of two syncs."""
        node = self._node(path)
        if node.kind is not Kind.DIRECTORY:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        children = self._catalog.children(path)
        cached = self._cached(child for _, child in children)
        listing = [(name, self._attributes(child, cached)) for name, child in children]
        here = self._attributes(node, cached)
        number = next(self._listing_numbers)
        self._listings[number] = [(".", here), ("..", here), *listing]
        return number

    def listing(self, number: int) -> Listing:
        return self._listings[number]

    def close_folder(self, number: int) -> None:
        del self._listings[number]

    def link_target(self, path: str) -> str:
        target = self._node(path).target
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return target

    def open_file(self, path: str) -> tuple[Handle, bool]:
        """The handle, and whether the pages that the kernel kept of this path may be used for it."""
        node, reader = self._open_reader(path)
        # Read after the node: once a newer snapshot can be seen, its generation can be, too.
        keep = self._catalog.generation == self._announced
        return self.handles.add(node, reader, pageable=node.kind is Kind.CONTENT), keep

    def read(self, number: int, offset: int, size: int, interrupted: Interruption) -> bytes:
        return self.handles.get(number).reader.read(offset, size, interrupted)

    def close_file(self, number: int) -> None:
        self.handles.remove(number)

    def space(self) -> dict[str, int]:
        """For statfs: the store's size, all of it used, and as available the room left in the cache."""
        totals = self._catalog.totals()
        return {
            "f_bsize": STATFS_BLOCK,
            "f_frsize": STATFS_BLOCK,
            "f_blocks": -(-totals.bytes // STATFS_BLOCK),
            "f_bfree": 0,  # df takes what is used from this one, and what is available from the next
            "f_bavail": self._contents.free_bytes() // STATFS_BLOCK,
            "f_files": 0,  # as file systems say that do not count them: monitors would warn that none is left
            "f_ffree": 0,
            "f_favail": 0,
            "f_namemax": 255,
        }

    def extended_attributes(self, path: str) -> dict[str, bytes]:
        """`user.runicorn.*` of a node: what the cache has of it, and to which artifact and version it belongs."""
        node = self._node(path)
        found: dict[str, str] = {}
        if node.kind in REMOTE_KINDS:
            identity = identity_of(node)
            cached, state = self._contents.cached_bytes([identity.key]).get(identity.key, (0, REMOTE))
            found |= {"state": state, "cached_bytes": str(min(cached, node.size))}
            if node.digest is not None:
                found["sha256"] = node.digest.hex()
        place = self._catalog.place_in_artifact(path)
        if place is not None:
            found["artifact"] = f"{place.type}/{place.name}"
            if place.version is not None:
                found |= {"version": f"v{place.version}", "aliases": ",".join(place.aliases)}
        return {f"user.runicorn.{name}": value.encode(errors="surrogateescape") for name, value in found.items()}

    def announce(self, changed: Iterable[str]) -> None:
        """After a sync: splits the paths whose old identity is open. Before the kernel's entries are dropped."""
        still_open = set(self.handles.open_paths())
        for path in still_open.intersection(changed):
            node = self._catalog.lookup(path)
            self.handles.replaced(path, None if node is None else node.digest)

    def announced(self, generation: int) -> None:
        """The kernel has dropped everything that changed up to this generation of the catalog."""
        self._announced = generation

    def close(self) -> None:
        """Gives back what programs still had open when the mount ended."""
        self.handles.close_all()

    def _node(self, path: str) -> Node:
        node = self._catalog.lookup(path)
        if node is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node

    def _open_reader(self, path: str) -> tuple[Node, Reader]:
        while True:
            node = self._node(path)
            if node.kind in REMOTE_KINDS:
                return node, self._contents.open(identity_of(node))
            if node.document is None:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            try:
                return node, DocumentReader(self._catalog.document(node.document))
            except NotFound:
                continue  # a sync replaced it between the two questions: the node names the new one now

    def _cached(self, nodes: Iterable[Node]) -> dict[str, tuple[int, str]]:
        keys = [identity_of(node).key for node in nodes if node.kind in REMOTE_KINDS]
        return self._contents.cached_bytes(keys) if keys else {}

    def _attributes(self, node: Node, cached: dict[str, tuple[int, str]]) -> Attributes:
        mode = TYPES.get(node.kind, stat.S_IFREG | 0o444)
        if node.kind is not Kind.SYMLINK:
            mode &= ~self._options.umask
        local = node.size
        if node.kind in REMOTE_KINDS:
            here, _ = cached.get(identity_of(node).key, (0, REMOTE))
            local = min(here, node.size)
        return Attributes(node.inode, mode, node.size, -(-local // STAT_BLOCK), node.mtime_ns)

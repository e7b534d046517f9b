"""The file system's operations, without libfuse: what a path is, what a folder holds, what a read returns.

Answers come from the catalog; only reads of contents may reach the server. Raises our own errors and OSError, which
`runicornfs.mount.fuse` turns into errnos. Thread-safe: the catalog, the contents and the handle table are, and
`_following` sees to it that no open file is told of an older state of its path after a newer one.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import Kind, Node
from runicornfs.content.contents import REMOTE, Contents, Interruption
from runicornfs.content.identity import identity_of
from runicornfs.errors import NotFound
from runicornfs.mount.growing import GrowingReader
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


@dataclass(frozen=True, slots=True)
class Shown:
    """The store that a mount shows; replaced as a whole."""

    catalog: Catalog
    contents: Contents


class StoreOperations:
    """One mount. `dropping(path)` is called when the kernel's pages of a path have to be dropped."""

    def __init__(
        self, catalog: Catalog, contents: Contents, options: MountOptions, dropping: Callable[[str], None]
    ) -> None:
        self._shown = Shown(catalog, contents)
        self._options = options
        # The generation of the shown catalog up to which the kernel has dropped what changed; None: of no one yet.
        self._announced: int | None = catalog.generation
        # The contents that did not have their sha256, and of which the kernel has dropped the pages.
        self._forgotten = contents.mismatches()
        self._listings: dict[int, Listing] = {}
        self._listing_numbers = itertools.count(1)
        self._following = threading.Lock()
        self.handles = HandleTable(dropping)

    def attributes(self, path: str) -> Attributes:
        shown = self._shown
        node = _node(shown, path)
        return self._attributes(node, _cached(shown, [node]))

    def handle_attributes(self, number: int) -> Attributes:
        """Of an open file: as it was when it was opened, or has grown since."""
        handle = self.handles.get(number)
        node = handle.reader.node if isinstance(handle.reader, GrowingReader) else handle.node
        return self._attributes(node, _cached(self._shown, [node]))

    def open_folder(self, path: str) -> int:
        """Takes the listing of a folder once, so that one reader of it never sees a mix of two syncs."""
        shown = self._shown
        node = _node(shown, path)
        if node.kind is not Kind.DIRECTORY:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        children = shown.catalog.children(path)
        cached = _cached(shown, (child for _, child in children))
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
        target = _node(self._shown, path).target
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return target

    def open_file(self, path: str) -> tuple[Handle, bool]:
        """The handle, and whether the pages that the kernel kept of this path may be used for it."""
        shown = self._shown
        node, reader = _open(shown, path)
        # Read after the node: once a newer snapshot can be seen, its generation can be, too.
        keep = shown.catalog.generation == self._announced and shown is self._shown
        # Likewise: once a reader has heard that the bytes were wrong, the content has been counted.
        keep = keep and shown.contents.mismatches() == self._forgotten
        handle = self.handles.add(node, reader, pageable=node.kind is Kind.CONTENT)
        self._follow(shown, node.path, [reader])  # a sync that ended before it was added has not told it
        return handle, keep

    def read(self, number: int, offset: int, size: int, interrupted: Interruption) -> bytes:
        return self.handles.get(number).reader.read(offset, size, interrupted)

    def close_file(self, number: int) -> None:
        self.handles.remove(number)

    def space(self) -> dict[str, int]:
        """For statfs: the store's size, all of it used, and as available the room left in the cache."""
        shown = self._shown
        totals = shown.catalog.totals()
        return {
            "f_bsize": STATFS_BLOCK,
            "f_frsize": STATFS_BLOCK,
            "f_blocks": -(-totals.bytes // STATFS_BLOCK),
            "f_bfree": 0,  # df takes what is used from this one, and what is available from the next
            "f_bavail": shown.contents.free_bytes() // STATFS_BLOCK,
            "f_files": 0,  # as file systems say that do not count them: monitors would warn that none is left
            "f_ffree": 0,
            "f_favail": 0,
            "f_namemax": 255,
        }

    def extended_attributes(self, path: str) -> dict[str, bytes]:
        """`user.runicorn.*` of a node: what the cache has of it, and to which artifact and version it belongs."""
        shown = self._shown
        node = _node(shown, path)
        found: dict[str, str] = {}
        if node.kind in REMOTE_KINDS:
            identity = identity_of(node)
            cached, state = shown.contents.cached_bytes([identity.key]).get(identity.key, (0, REMOTE))
            found |= {"state": state, "cached_bytes": str(min(cached, node.size))}
            if node.digest is not None:
                found["sha256"] = node.digest.hex()
        place = shown.catalog.artifacts.place_of(path)
        if place is not None:
            found["artifact"] = f"{place.type}/{place.name}"
            if place.version is not None:
                found |= {"version": f"v{place.version}", "aliases": ",".join(place.aliases)}
        return {f"user.runicorn.{name}": value.encode(errors="surrogateescape") for name, value in found.items()}

    def show(self, catalog: Catalog, contents: Contents) -> None:
        """Another store from now on; `announced` says when the kernel has dropped what it knew of the one before."""
        self._announced = None
        self._forgotten = contents.mismatches()
        self._shown = Shown(catalog, contents)
        self.announce(self.handles.open_paths())

    def shows(self, catalog: Catalog) -> bool:
        return self._shown.catalog is catalog

    def announce(self, changed: Iterable[str]) -> None:
        """These paths may show something else: splits those whose old identity is open, and tells open files that they
        grew. Before the kernel's entries are dropped."""
        shown = self._shown
        still_open = set(self.handles.open_paths())
        for path in still_open.intersection(changed):
            node = shown.catalog.lookup(path)
            self.handles.replaced(path, None if node is None else node.digest)
            self._follow(shown, path, self.handles.readers(path))

    def announced(self, catalog: Catalog, generation: int) -> None:
        """The kernel has dropped everything that changed up to this generation of the catalog."""
        if self.shows(catalog):
            self._announced = generation

    def forgotten(self, contents: Contents) -> None:
        """The kernel has dropped the pages of one more content that did not have its sha256."""
        if self._shown.contents is contents:
            self._forgotten += 1

    def close(self) -> None:
        """Gives back what programs still had open when the mount ended."""
        self.handles.close_all()

    def _follow(self, shown: Shown, path: str, readers: Iterable[Reader]) -> None:
        """Tells open files of this store what their path shows now."""
        growing = [reader for reader in readers if isinstance(reader, GrowingReader)]
        growing = [reader for reader in growing if reader.contents is shown.contents]
        if growing:
            with self._following:
                node = shown.catalog.lookup(path)
                for reader in growing:
                    reader.follow(node)

    def _attributes(self, node: Node, cached: dict[str, tuple[int, str]]) -> Attributes:
        mode = TYPES.get(node.kind, stat.S_IFREG | 0o444)
        if node.kind is not Kind.SYMLINK:
            mode &= ~self._options.umask
        local = node.size
        if node.kind in REMOTE_KINDS:
            here, _ = cached.get(identity_of(node).key, (0, REMOTE))
            local = min(here, node.size)
        return Attributes(node.inode, mode, node.size, -(-local // STAT_BLOCK), node.mtime_ns)


def _node(shown: Shown, path: str) -> Node:
    node = shown.catalog.lookup(path)
    if node is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return node


def _open(shown: Shown, path: str) -> tuple[Node, Reader]:
    while True:
        node = _node(shown, path)
        if node.kind is Kind.CONTENT:
            return node, shown.contents.open(identity_of(node))
        if node.kind is Kind.PLAIN:
            return node, GrowingReader(node, shown.contents)
        if node.document is None:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        try:
            return node, DocumentReader(shown.catalog.document(node.document))
        except NotFound:
            continue  # a sync replaced it between the two questions: the node names the new one now


def _cached(shown: Shown, nodes: Iterable[Node]) -> dict[str, tuple[int, str]]:
    keys = [identity_of(node).key for node in nodes if node.kind in REMOTE_KINDS]
    return shown.contents.cached_bytes(keys) if keys else {}

"""The file system's operations, without the kernel: what a path is, what a folder holds, what a read returns.

Answers come from the catalog; only reads of contents may reach the server. Raises our own errors and OSError, which
`runicornfs.mount.fuse` turns into errnos. Thread-safe: the catalog, the contents and the handle table are, and
`_following` sees to it that no open file is told of an older state of its path after a newer one.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from runicornfs.catalog.catalog import Catalog, Row
from runicornfs.catalog.nodes import Kind, Node, inode_of
from runicornfs.content.contents import CACHED, PARTIAL, REMOTE, Contents, Interruption
from runicornfs.content.identity import identity_of
from runicornfs.errors import NotFound
from runicornfs.mount.folders import KeptListings, Listing, OpenFolders
from runicornfs.mount.growing import GrowingReader
from runicornfs.mount.handles import DocumentReader, Handle, HandleTable, Reader
from runicornfs.mount.known import KnownNumbers
from runicornfs.mount.options import MountOptions
from runicornfs.mount.protocol import Attributes

# st_blocks counts in these, whatever st_blksize says (stat(2)).
STAT_BLOCK = 512
# The unit of statfs. Nothing depends on it; 4 KiB is what people expect of df.
STATFS_BLOCK = 4096
NAME_MAX = 255
TYPES = {Kind.DIRECTORY: stat.S_IFDIR | 0o555, Kind.SYMLINK: stat.S_IFLNK | 0o777}
REMOTE_KINDS = (Kind.CONTENT, Kind.PLAIN)


class Entry(NamedTuple):
    """What the kernel is told of a path. `settled`: the attributes stay, until it is told of a change."""

    number: int
    attributes: Attributes
    settled: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """The store that a mount shows; replaced as a whole."""

    catalog: Catalog
    contents: Contents
    kept: KeptListings


class StoreOperations:
    """One mount. `numbers` are those by which the kernel knows what it has seen: see `known` and `handles`."""

    def __init__(self, catalog: Catalog, contents: Contents, options: MountOptions) -> None:
        self._shown = Shown(catalog, contents, KeptListings(catalog.generation))
        self._modes = _modes(options.umask)
        # The generation of the shown catalog up to which the kernel has dropped what changed; None: of no one yet.
        self._announced: int | None = catalog.generation
        # The contents that did not have their sha256, and of which the kernel has dropped the pages.
        self._forgotten = contents.mismatches()
        self._following = threading.Lock()
        self.known = KnownNumbers()
        self.folders = OpenFolders()
        self.handles = HandleTable()

    def lookup(self, folder: int, name: bytes) -> Entry:
        """Of a name in a folder. The kernel is told of it."""
        above = self._path(folder)
        shown = self._shown
        text = os.fsdecode(name)
        node = _node(shown, f"{above}/{text}" if above else text)
        number = self.handles.number_of(node.inode, node.digest)
        self.known.told([(number, above, name)])
        return self._described(shown, node, number)

    def attributes(self, number: int) -> Entry:
        """Of a node; of what is open under a number that its path has no more, as it was opened or has grown since."""
        path = self._path(number)
        shown = self._shown
        node = shown.catalog.lookup(path)
        if node is None or self.handles.number_of(node.inode, node.digest) != number:
            handle = self.handles.open_under(number)
            if handle is None:
                raise _gone(path) if node is None else _stale(path)
            node = handle.reader.node if isinstance(handle.reader, GrowingReader) else handle.node
        return self._described(shown, node, number)

    def handle_attributes(self, handle: int) -> Entry:
        """Of an open file: as it was when it was opened, or has grown since."""
        opened = self.handles.get(handle)
        node = opened.reader.node if isinstance(opened.reader, GrowingReader) else opened.node
        return self._described(self._shown, node, opened.number)

    def open_folder(self, number: int) -> tuple[int, bool]:
        """A handle, and whether the kernel may use the listing that it has."""
        shown = self._shown
        path = self._path(number)
        if _node(shown, path).kind is not Kind.DIRECTORY:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return self.folders.add(), shown.kept.usable(number, shown.contents.moves())

    def read_folder(self, number: int, handle: int, offset: int) -> Iterator[tuple[bytes, Entry]]:
        """Names and entries from an offset on; at 0 and 1 stand the folder itself and the one above, by the same entry.

        From its beginning a folder is read anew; what follows is of the same snapshot. The kernel is told by whoever
        knows how many of them it takes (`told`).
        """
        listing = self.folders.get(handle)
        if listing is None or not offset:
            listing = self._listing(number)
            self.folders.put(handle, listing)
        if offset < 2:
            here = Entry(0, self._attributes(listing.inode, Kind.DIRECTORY, 0, 0, listing.mtime_ns), True)
            yield from ((b".", here), (b"..", here))[offset:]
        number_of, shares = self.handles.number_of, listing.shares
        for position in range(max(0, offset - 2), len(listing.rows)):
            name, inode, kind, size, mtime_ns, digest = row = listing.rows[position]
            local, state = size, CACHED
            if kind in REMOTE_KINDS:
                key = digest.hex() if digest else _plain_key(listing.path, row)
                local, state = shares.get(key, (0, REMOTE))
            attributes = self._attributes(inode, kind, size, min(local, size), mtime_ns)
            yield name, Entry(number_of(inode, digest), attributes, state != PARTIAL)

    def told(self, handle: int, entries: Iterable[tuple[bytes, int]]) -> None:
        """The kernel is told of these names and numbers in an open folder."""
        listing = self.folders.get(handle)
        if listing is not None:
            self.known.told((number, listing.path, name) for name, number in entries if number)

    def close_folder(self, handle: int) -> None:
        self.folders.remove(handle)

    def link_target(self, number: int) -> str:
        path = self._path(number)
        target = _node(self._shown, path).target
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return target

    def open_file(self, number: int) -> tuple[Handle, bool]:
        """The handle, and whether the pages that the kernel kept under this number may be used for it."""
        shown = self._shown
        path = self._path(number)
        node, reader = _open(shown, path)
        try:
            # Read after the node: once a newer snapshot can be seen, its generation can be, too.
            keep = shown.catalog.generation == self._announced and shown is self._shown
            # Likewise: once a reader has heard that the bytes were wrong, the content has been counted.
            mismatches = shown.contents.mismatches()
            if mismatches != self._forgotten:
                keep = False
                self.handles.retire(node.inode, mismatches)
            if self.handles.number_of(node.inode, node.digest) != number:
                raise _stale(path)  # then the kernel looks the name up and comes with the new number
            paged = node.kind is Kind.CONTENT
            partial = paged and getattr(reader, "state", CACHED) in (REMOTE, PARTIAL)
            handle = self.handles.add(number, node, reader, paged, partial, mismatches)
        except BaseException:
            reader.close()
            raise
        self._follow(shown, node.path, [reader])  # a sync that ended before it was added has not told it
        return handle, keep

    def read(self, handle: int, offset: int, size: int, interrupted: Interruption) -> bytes:
        return self.handles.get(handle).reader.read(offset, size, interrupted)

    def close_file(self, handle: int) -> Handle:
        return self.handles.remove(handle)

    def space(self) -> tuple[int, ...]:
        """For statfs, in its order: the store's size, all of it used, and as available the room left in the cache."""
        shown = self._shown
        return (
            -(-shown.catalog.totals().bytes // STATFS_BLOCK),  # blocks
            0,  # free: df takes what is used from this one, and what is available from the next
            shown.contents.free_bytes() // STATFS_BLOCK,  # available
            *(0, 0),  # files, free files: as file systems say that do not count them; monitors would warn else
            STATFS_BLOCK,
            NAME_MAX,
            STATFS_BLOCK,  # the unit of the first three
            0,
        )

    def extended_attributes(self, number: int) -> dict[str, bytes]:
        """`user.runicorn.*` of a node: what the cache has of it, and to which artifact and version it belongs."""
        shown = self._shown
        path = self._path(number)
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
        self._shown = Shown(catalog, contents, KeptListings(catalog.generation))
        self._tell(self.handles.open_paths())

    def shows(self, catalog: Catalog) -> bool:
        return self._shown.catalog is catalog

    def announce(self, changed: Iterable[str], generation: int) -> None:
        """These paths show something else in a new snapshot of the catalog. Before the kernel drops what it knows."""
        still_open = set(self.handles.open_paths())
        concerned = []
        folders = []
        for path in changed:  # they may be millions
            inode = inode_of(path)
            if inode in self.known:
                folders.append(inode)
            if path in still_open:
                concerned.append(path)
        self._shown.kept.changed(generation, folders)
        self._tell(concerned)

    def number_of(self, path: str) -> tuple[int, bool]:
        """By which number the kernel is to know this path from now on, and whether it has to look the name up for it,
        since it is not that of the inode. Where nothing stands any more, it hears that with the attributes."""
        inode = inode_of(path)
        if not self.handles.knows(inode):
            return inode, False
        node = self._shown.catalog.lookup(path)
        number = self.handles.number_of(inode, None if node is None else node.digest)
        return number, number != inode

    def retire(self, path: str) -> set[int]:
        """The content at this path was bad. The numbers under which the kernel may have pages of it; it has to look the
        name up again."""
        return self.handles.retire(inode_of(path), self._shown.contents.mismatches())

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

    def _tell(self, paths: Iterable[str]) -> None:
        """Tells the open files of these paths what stands there now."""
        shown = self._shown
        for path in paths:
            self._follow(shown, path, self.handles.readers(inode_of(path)))

    def _follow(self, shown: Shown, path: str, readers: Iterable[Reader]) -> None:
        """Tells open files of this store what their path shows now."""
        growing = [reader for reader in readers if isinstance(reader, GrowingReader)]
        growing = [reader for reader in growing if reader.contents is shown.contents]
        if growing:
            with self._following:
                node = shown.catalog.lookup(path)
                for reader in growing:
                    reader.follow(node)

    def _path(self, number: int) -> str:
        path = self.known.path(number)
        if path is None:
            raise _gone(str(number))
        return path

    def _described(self, shown: Shown, node: Node, number: int) -> Entry:
        local, state = node.size, CACHED
        if node.kind in REMOTE_KINDS:
            key = identity_of(node).key
            local, state = shown.contents.cached_bytes([key]).get(key, (0, REMOTE))
        attributes = self._attributes(node.inode, node.kind, node.size, min(local, node.size), node.mtime_ns)
        return Entry(number, attributes, state != PARTIAL)

    def _attributes(self, inode: int, kind: int, size: int, local: int, mtime_ns: int) -> Attributes:
        return Attributes(inode, self._modes[kind], size, -(-local // STAT_BLOCK), mtime_ns)

    def _listing(self, number: int) -> Listing:
        shown = self._shown
        path = self._path(number)
        generation, moves = shown.catalog.generation, shown.contents.moves()  # before what they are about
        node = _node(shown, path)
        rows = shown.catalog.listing(path)
        keys = [digest.hex() for _, _, _, _, _, digest in rows if digest]
        keys += [_plain_key(path, row) for row in rows if row[2] == Kind.PLAIN]
        shares = shown.contents.cached_bytes(keys) if keys else {}
        if number == node.inode:
            shown.kept.taken(number, generation, moves)
        return Listing(path, node.inode, node.mtime_ns, rows, shares)


def _modes(umask: int) -> dict[int, int]:
    """By the kind of a node, what stat(2) says of its type and permissions."""
    modes = {kind: (TYPES.get(kind, stat.S_IFREG | 0o444)) & ~umask for kind in Kind}
    return {int(kind): mode for kind, mode in (modes | {Kind.SYMLINK: TYPES[Kind.SYMLINK]}).items()}


def _plain_key(folder: str, row: Row) -> str:
    """The key of a file without a digest."""
    name, inode, kind, size, mtime_ns, _ = row
    path = os.fsdecode(name)
    return identity_of(Node(f"{folder}/{path}" if folder else path, inode, Kind(kind), size, mtime_ns)).key


def _gone(path: str) -> OSError:
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _stale(path: str) -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)


def _node(shown: Shown, path: str) -> Node:
    node = shown.catalog.lookup(path)
    if node is None:
        raise _gone(path)
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

"""The kernel's requests, answered: from messages to calls of `StoreOperations`, from what they return to messages.

It holds no logic of the file system. One wrapper around every operation counts, logs and maps exceptions to errnos.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable

from runicornfs.catalog.nodes import inode_of
from runicornfs.catalog.tree import name_bytes
from runicornfs.errors import RunicornFSError
from runicornfs.mount import device, protocol
from runicornfs.mount.device import Answer, Device
from runicornfs.mount.errnos import errno_of
from runicornfs.mount.operations import Entry, StoreOperations
from runicornfs.mount.options import MountOptions
from runicornfs.mount.passthrough import Passthrough, may_pass_through
from runicornfs.mount.protocol import IN_HEADER, Init, Opcode, Open
from runicornfs.store.paths import parent_of

log = logging.getLogger("runicornfs.mount")

# Names and attributes live until we say otherwise. An hour bounds what a lost notification could cost.
LONG_TIMEOUT_S = 3600
# st_blocks moves while a file is being fetched, and nobody says so.
UNSETTLED_TIMEOUT_S = 5
# Where the body of a request begins, behind its header.
_BODY = IN_HEADER.size


class Kernel:
    """What we tell the kernel of our own accord. Thread-safe; before `attach` and after the mount it does nothing."""

    def __init__(self) -> None:
        self._device: Device | None = None

    def attach(self, device: Device) -> None:
        """The kernel can be spoken to."""
        self._device = device

    def detach(self) -> None:
        """After the mount. Nothing is said any more."""
        device, self._device = self._device, None
        if device is not None:
            device.close()

    def settle(self) -> None:
        """Returns when the kernel has every answer that was made from an older snapshot. Before what changed is
        dropped: a later answer would bring it back. Never called with a lock held or from an answer."""
        if self._device is not None:
            self._device.settle()

    def drop(self, path: str, number: int, renamed: bool) -> None:
        """Drops attributes and pages, or the listing, that the kernel keeps under a number; `renamed`: it has to look
        the name up again. Never called with a lock held or from an answer: the kernel may wait for reads that are
        under way."""
        if self._device is not None:
            if renamed:
                self._device.forget_name(inode_of(parent_of(path)), name_bytes(path))
            self._device.forget_pages(number)

    def drop_attributes(self, number: int) -> None:
        """Drops attributes and keeps the pages. Waits for nothing."""
        if self._device is not None:
            self._device.forget_attributes(number)


class Callbacks:
    """Answers requests; called by the device's threads. `counts` tells how often each operation was asked for."""

    def __init__(self, operations: StoreOperations, options: MountOptions, kernel: Kernel, ready: Callable[[], None]):
        self.counts: Counter[str] = Counter()
        self._operations = operations
        self._owner = (options.uid, options.gid)
        self._kernel = kernel
        self._ready = ready
        self._interrupted: Callable[[int], bool] = lambda unique: False
        self._passthrough: Passthrough | None = None
        self._operations_of: dict[int, Callable[[int, bytes, int], Answer | None]] = {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.GETATTR: self.getattr,
            Opcode.READLINK: self.readlink,
            Opcode.OPEN: self.open,
            Opcode.READ: self.read,
            Opcode.STATFS: self.statfs,
            Opcode.RELEASE: self.release,
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.DESTROY: self.destroy,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.READDIRPLUS: self.readdirplus,
        }
        if options.xattr:  # else the kernel is told ENOSYS once, and asks no more: `ls -l` would ask twice a file
            self._operations_of |= {Opcode.GETXATTR: self.getxattr, Opcode.LISTXATTR: self.listxattr}

    def serve(self, device: Device) -> None:
        """Answers until the mount is gone."""
        self._interrupted = device.interrupted
        self._passthrough = Passthrough(device) if Init.PASSTHROUGH in device.granted else None
        self._kernel.attach(device)
        self._ready()
        device.serve(self.answer)

    def answer(self, opcode: int, number: int, message: bytes, unique: int) -> Answer | None:
        operation = self._operations_of.get(opcode)
        if operation is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        name = operation.__name__
        self.counts[name] += 1
        try:
            return operation(number, message, unique)
        except (OSError, RunicornFSError) as error:
            status = errno_of(error)
            if status not in (errno.ENOENT, errno.ENODATA):
                log.debug("%s: %s", name, error)
        except Exception:
            log.exception("%s failed unexpectedly", name)
            status = errno.EIO
        raise OSError(status, os.strerror(status))

    def lookup(self, number: int, message: bytes, unique: int) -> bytes:
        return self._entry(self._operations.lookup(number, message[_BODY : message.index(0, _BODY)]))

    def forget(self, number: int, message: bytes, unique: int) -> None:
        self._operations.known.forget(number, *protocol.FORGET_IN.unpack_from(message, _BODY))

    def batch_forget(self, number: int, message: bytes, unique: int) -> None:
        count, _ = protocol.BATCH_FORGET_IN.unpack_from(message, _BODY)
        start = _BODY + protocol.BATCH_FORGET_IN.size
        for at in range(start, start + count * protocol.FORGET_ONE.size, protocol.FORGET_ONE.size):
            self._operations.known.forget(*protocol.FORGET_ONE.unpack_from(message, at))

    def getattr(self, number: int, message: bytes, unique: int) -> bytes:
        flags, _, handle = protocol.GETATTR_IN.unpack_from(message, _BODY)
        if flags & protocol.GETATTR_FH:
            entry = self._operations.handle_attributes(handle)
        else:
            entry = self._operations.attributes(number)
        return protocol.ATTR_OUT.pack(_timeout(entry), 0, 0) + protocol.attributes(entry.attributes, *self._owner)

    def readlink(self, number: int, message: bytes, unique: int) -> bytes:
        return os.fsencode(self._operations.link_target(number))

    def open(self, number: int, message: bytes, unique: int) -> bytes:
        flags, _ = protocol.OPEN_IN.unpack_from(message, _BODY)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        handle, keep = self._operations.open_file(number)
        how, backing = Open.KEEP_CACHE if keep else Open(0), None
        if not handle.paged:
            how = Open.DIRECT_IO
        elif self._passthrough is not None:
            backing = self._passthrough.opened(number, handle.reader)
            how = how if backing is None else Open.PASSTHROUGH
        if handle.partial:
            self._kernel.drop_attributes(number)  # st_blocks is about to move
        return protocol.OPEN_OUT.pack(handle.handle, how, backing or 0)

    def read(self, number: int, message: bytes, unique: int) -> bytes:
        handle, offset, size = protocol.READ_IN.unpack_from(message, _BODY)
        return self._operations.read(handle, offset, size, functools.partial(self._interrupted, unique))

    def release(self, number: int, message: bytes, unique: int) -> bytes:
        (handle,) = protocol.RELEASE_IN.unpack_from(message, _BODY)
        closed = self._operations.close_file(handle)
        if closed.partial:
            self._kernel.drop_attributes(number)
        if closed.paged and self._passthrough is not None:
            self._passthrough.closed(number)
        return b""

    def opendir(self, number: int, message: bytes, unique: int) -> bytes:
        handle, keep = self._operations.open_folder(number)
        return protocol.OPEN_OUT.pack(handle, Open.CACHE_DIR | Open.KEEP_CACHE if keep else Open.CACHE_DIR, 0)

    def readdir(self, number: int, message: bytes, unique: int) -> bytes:
        data, _ = self._listing(number, message, self._name)
        return data

    def readdirplus(self, number: int, message: bytes, unique: int) -> bytes:
        data, told = self._listing(number, message, self._name_and_entry)
        handle, *_ = protocol.READ_IN.unpack_from(message, _BODY)
        self._operations.told(handle, told)
        return data

    def releasedir(self, number: int, message: bytes, unique: int) -> bytes:
        self._operations.close_folder(*protocol.RELEASE_IN.unpack_from(message, _BODY))
        return b""

    def statfs(self, number: int, message: bytes, unique: int) -> bytes:
        return protocol.STATFS_OUT.pack(*self._operations.space())

    def getxattr(self, number: int, message: bytes, unique: int) -> bytes:
        size, _ = protocol.GETXATTR_IN.unpack_from(message, _BODY)
        start = _BODY + protocol.GETXATTR_IN.size
        name = os.fsdecode(message[start : message.index(0, start)])
        try:
            return _sized(size, self._operations.extended_attributes(number)[name])
        except KeyError:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), name) from None

    def listxattr(self, number: int, message: bytes, unique: int) -> bytes:
        size, _ = protocol.GETXATTR_IN.unpack_from(message, _BODY)
        names = self._operations.extended_attributes(number)
        return _sized(size, b"".join(name.encode() + b"\0" for name in names))

    def destroy(self, number: int, message: bytes, unique: int) -> bytes:
        return b""

    def _listing(
        self, number: int, message: bytes, packed: Callable[[bytes, Entry, int], bytes]
    ) -> tuple[bytes, list[tuple[bytes, int]]]:
        """As much of a folder as the kernel has room for, and the names and numbers that it is."""
        handle, offset, size = protocol.READ_IN.unpack_from(message, _BODY)
        entries = []
        told = []
        for name, entry in self._operations.read_folder(number, handle, offset):
            offset += 1
            data = packed(name, entry, offset)
            size -= len(data)
            if size < 0:
                break
            entries.append(data)
            told.append((name, entry.number))
        return b"".join(entries), told

    def _name(self, name: bytes, entry: Entry, following: int) -> bytes:
        return protocol.folder_entry(name, entry.attributes.inode, entry.attributes.mode, following)

    def _name_and_entry(self, name: bytes, entry: Entry, following: int) -> bytes:
        return self._entry(entry) + self._name(name, entry, following)

    def _entry(self, entry: Entry) -> bytes:
        head = protocol.ENTRY_OUT.pack(entry.number, 0, LONG_TIMEOUT_S, _timeout(entry), 0, 0)
        return head + protocol.attributes(entry.attributes, *self._owner)


def _timeout(entry: Entry) -> int:
    return LONG_TIMEOUT_S if entry.settled else UNSETTLED_TIMEOUT_S


def _sized(size: int, value: bytes) -> bytes:
    """What getxattr and listxattr answer to who has this much room, 0 to hear how much is needed."""
    if not size:
        return protocol.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value


def run(callbacks: Callbacks, mountpoint: str, source: str, options: MountOptions) -> None:
    """Mounts and serves until the mount is gone. Raises MountUnavailable."""
    named = source.replace("\\", "\\\\").replace(",", "\\,")
    arguments = ["ro", "nosuid", "nodev", f"fsname={named}", "subtype=runicornfs", *options.kernel]
    # The kernel keeps to uid, gid and umask: with allow_other nobody else does.
    arguments += ["default_permissions", *(["allow_other"] if options.allow_other else [])]
    callbacks.serve(Device(device.mount(mountpoint, arguments), may_pass_through()))

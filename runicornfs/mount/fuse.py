"""libfuse, through mfusepy: the only module that knows the insides of either.

mfusepy 3.1 passes no FUSE_FILL_DIR_PLUS, exposes no invalidation and prefers libfuse 2; this module adds what is
missing with libfuse's own functions. It holds no logic of the file system: it turns calls into calls of
`StoreOperations`, attributes into `struct stat`, exceptions into errnos. Importing it loads libfuse, so it is imported
where a mount is made and nowhere else; `MountUnavailable` says that there is no libfuse.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable
from ctypes.util import find_library
from typing import Any

from runicornfs.errors import MountUnavailable, RunicornFSError
from runicornfs.mount.errnos import errno_of
from runicornfs.mount.operations import Attributes, Listing, StoreOperations
from runicornfs.mount.options import MountOptions

if find_library("fuse3"):
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")  # read by mfusepy while it is imported
try:
    import mfusepy
except OSError:
    raise MountUnavailable("libfuse is not installed: install the package fuse3") from None

log = logging.getLogger("runicornfs.mount")

LIBFUSE: ctypes.CDLL = mfusepy._libfuse
LIBFUSE_3 = mfusepy.fuse_version_major == 3
# libfuse 3's fuse_invalidate_path lets names and attributes live until we say otherwise. An hour bounds what a lost
# notification could cost.
LONG_TIMEOUT_S = 3600.0
# libfuse 2 has no invalidation by path: what changed shows after this time.
SHORT_TIMEOUT_S = 2.0
# st_blocks moves while a file is being fetched, with no invalidation for its sake: attributes of a path live this long.
ATTRIBUTE_TIMEOUT_S = 10.0
FUSE_READDIR_PLUS = 1  # enum fuse_readdir_flags
FUSE_FILL_DIR_PLUS = 2  # enum fuse_fill_dir_flags
# Capabilities of fuse_common.h that libfuse asks for unless told otherwise:
FUSE_CAP_AUTO_INVAL_DATA = 1 << 12  # the kernel drops pages when a time changes; we drop them ourselves
FUSE_CAP_READDIRPLUS_AUTO = 1 << 14  # plus only for the first part of a folder: the rest would be asked for one by one
# A reader that waits for the line holds a thread of libfuse's. There must be one left for `ls`.
MAX_THREADS = 256
MAX_IDLE_THREADS = 32  # a thread that is kept costs little, one that is started costs a Python thread state

if LIBFUSE_3:
    LIBFUSE.fuse_invalidate_path.argtypes = [ctypes.c_void_p, ctypes.c_char_p]


def interrupted() -> bool:
    """True when the program whose call this thread serves was killed. To be called on libfuse's own threads."""
    return bool(LIBFUSE.fuse_interrupted())


class Kernel:
    """What we tell the kernel of our own accord. Thread-safe; before `attach` and after the mount it does nothing."""

    def __init__(self) -> None:
        self._fuse: int | None = None
        self._config: Any = None

    def attach(self, config: Any) -> None:
        """Called by libfuse's init; `config` is libfuse's own struct, so that it can be changed later."""
        self._fuse = LIBFUSE.fuse_get_context().contents.fuse
        self._config = config
        if config is not None:
            config.use_ino = 1
            config.negative_timeout = 0.0  # a negative entry cannot be dropped by path
            config.entry_timeout = LONG_TIMEOUT_S
            self.keep_attributes(True)

    def detach(self) -> None:
        self._fuse = self._config = None

    def keep_attributes(self, keep: bool) -> None:
        """False: the kernel asks for sizes each time, while a path has two identities (see `handles`)."""
        if self._config is not None:
            self._config.attr_timeout = ATTRIBUTE_TIMEOUT_S if keep else 0.0

    def drop(self, path: str) -> None:
        """Drops attributes and pages that the kernel keeps of a path. Never called with a lock held or from a callback
        on the same path: the kernel may wait for reads that are under way."""
        if self._fuse is not None and LIBFUSE_3:
            LIBFUSE.fuse_invalidate_path(self._fuse, os.fsencode(f"/{path}"))


class Callbacks:
    """The object that mfusepy calls: its names, libfuse's arguments. `counts` tells how often each was called."""

    use_ns = True
    # libfuse then spends no time on paths of open files; both names are libfuse 2's, mfusepy translates them.
    flag_nopath = 1
    flag_nullpath_ok = 1

    def __init__(self, operations: StoreOperations, options: MountOptions, kernel: Kernel, ready: Callable[[], None]):
        self._operations = operations
        self._options = options
        self._kernel = kernel
        self._ready = ready
        self.counts: Counter[str] = Counter()

    def init_with_config(self, connection: Any, config: Any) -> None:
        if LIBFUSE_3:
            connection.want &= ~(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_READDIRPLUS_AUTO)
        self._kernel.attach(config if LIBFUSE_3 else None)
        self._ready()

    def destroy(self, path: str) -> None:
        self._kernel.detach()

    def getattr(self, path: str | None, file: Any = None) -> dict[str, int]:
        if file:
            return self.stat(self._operations.handle_attributes(file.fh))
        return self.stat(self._operations.attributes(str(path)[1:]))

    def readlink(self, path: str) -> str:
        return self._operations.link_target(path[1:])

    def opendir(self, path: str) -> int:
        return self._operations.open_folder(path[1:])

    def readdir(self, path: str | None, number: int) -> None:
        """Never called: `StoreFuse` fills folders itself. Its presence tells mfusepy to register the callback."""
        raise NotImplementedError

    def releasedir(self, path: str | None, number: int) -> None:
        self._operations.close_folder(number)

    def open(self, path: str, file: Any) -> None:
        if file.flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        handle, keep = self._operations.open_file(path[1:])
        file.fh = handle.number
        file.direct_io = not handle.paged
        file.keep_cache = handle.paged and keep and LIBFUSE_3  # what cannot be dropped may not be kept
        if not handle.paged and self._operations.handles.any_split:
            self._kernel.keep_attributes(False)

    def read(self, path: str | None, size: int, offset: int, file: Any) -> bytes:
        return self._operations.read(file.fh, offset, size, interrupted)

    def release(self, path: str | None, file: Any) -> None:
        self._operations.close_file(file.fh)

    def statfs(self, path: str) -> dict[str, int]:
        return self._operations.space()

    def listing(self, number: int) -> Listing:
        return self._operations.listing(number)

    def stat(self, attributes: Attributes) -> dict[str, int]:
        return {
            "st_ino": attributes.inode,
            "st_mode": attributes.mode,
            # 1 for folders says "not counted": tools then do not conclude from it how many subfolders there are.
            "st_nlink": 1,
            "st_uid": self._options.uid,
            "st_gid": self._options.gid,
            "st_size": attributes.size,
            "st_blocks": attributes.blocks,
            "st_mtime": attributes.mtime_ns,
            "st_ctime": attributes.mtime_ns,
            "st_atime": attributes.mtime_ns,
        }


class CallbacksWithXattr(Callbacks):
    """With `-o xattr`. Without it libfuse finds no such functions and answers ENOSYS, after which the kernel asks no
    more (`ls -l` would otherwise ask twice a file)."""

    def getxattr(self, path: str, name: str) -> bytes:
        try:
            return self._operations.extended_attributes(path[1:])[name]
        except KeyError:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), path) from None

    def listxattr(self, path: str) -> list[str]:
        return list(self._operations.extended_attributes(path[1:]))


class StoreFuse(mfusepy.FUSE):  # type: ignore[misc]
    """mfusepy's adapter, with readdirplus and with one wrapper around every operation that counts, logs and maps."""

    def _wrapper(self, function: Callable[..., int], *args: Any) -> int:
        name = function.__name__
        self.operations.counts[name] += 1
        try:
            return function(*args) or 0
        except (OSError, RunicornFSError) as error:
            number = errno_of(error)
            if number not in (errno.ENOENT, errno.ENODATA):
                log.debug("%s: %s", name, error)
            return -number
        except Exception:
            log.exception("%s failed unexpectedly", name)
            return -errno.EIO

    def readdir_fuse_3(self, path: bytes | None, buffer: Any, fill: Any, offset: int, file: Any, flags: int) -> int:
        """Each entry with its own offset: only then the kernel takes its attributes, and can go on in between."""
        plus = FUSE_FILL_DIR_PLUS if flags & FUSE_READDIR_PLUS else 0
        return self._fill(buffer, fill, offset, file, plus)

    def readdir_fuse_2(self, path: bytes | None, buffer: Any, fill: Any, offset: int, file: Any) -> int:
        return self._fill(buffer, fill, offset, file)

    def _fill(self, buffer: Any, fill: Any, offset: int, file: Any, *flags: int) -> int:
        """From `offset` until the kernel's buffer is full.

        It holds some 30 entries, and a folder of many is asked for in many calls: no more than those are converted.
        """
        listing = self.operations.listing(file.contents.fh)
        for position in range(offset, len(listing)):
            name, attributes = listing[position]
            status = mfusepy.c_stat()
            mfusepy.set_st_attrs(status, self.operations.stat(attributes), use_ns=True)
            if fill(buffer, os.fsencode(name), status, position + 1, *flags):
                break
        return 0


def run(callbacks: Callbacks, mountpoint: str, source: str, options: MountOptions) -> None:
    """Mounts and serves until the mount is gone. Raises MountUnavailable when libfuse refuses."""
    arguments: dict[str, Any] = dict.fromkeys(options.kernel, True)
    if not LIBFUSE_3:
        arguments |= {"attr_timeout": SHORT_TIMEOUT_S, "entry_timeout": SHORT_TIMEOUT_S, "use_ino": True}
    elif mfusepy.fuse_version_minor >= 12:  # the options came with 3.12
        arguments |= {"max_threads": MAX_THREADS, "max_idle_threads": MAX_IDLE_THREADS}
    try:
        StoreFuse(
            callbacks,
            mountpoint,
            raw_fi=True,
            foreground=True,
            fsname=source.replace("\\", "\\\\").replace(",", "\\,"),
            subtype="runicornfs",
            ro=True,
            allow_other=options.allow_other,
            default_permissions=True,  # the kernel keeps to uid, gid and umask: with allow_other nobody else does
            **arguments,
        )
    except RuntimeError as error:
        raise MountUnavailable(f"libfuse could not mount on {mountpoint} (status {error})") from None

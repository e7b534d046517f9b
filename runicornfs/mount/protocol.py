"""The kernel's side of FUSE: numbers and layouts of <linux/fuse.h>, as far as a read-only file system meets them.

Pure: bytes to values and values to bytes. Times go over in seconds and nanoseconds, lengths in bytes, all of it in the
machine's own byte order. https://docs.kernel.org/filesystems/fuse/
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

MAJOR = 7
MINOR = 40  # of Linux 6.9, the first with passthrough
# Of Linux 3.15: older kernels say less when they start than `INIT_OUT` has room for.
OLDEST_MINOR = 23

NANOSECONDS = 1_000_000_000
# The smallest buffer that the kernel writes a request into (FUSE_MIN_READ_BUFFER). Nobody writes, so none is larger.
REQUEST_SIZE = 8192
MAX_WRITE = 4096  # the least that the kernel takes
ROOT_NUMBER = 1


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    GETXATTR = 22
    LISTXATTR = 23
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44


class Init(IntFlag):
    """What kernel and file system can agree on at the start. Those from the 32nd on travel in a field of their own."""

    ASYNC_READ = 1 << 0
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    EXPLICIT_INVAL_DATA = 1 << 25
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37


class Open(IntFlag):
    """How the kernel treats an open file or folder."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


GETATTR_FH = 1 << 0
NOTIFY_INVAL_INODE = 2
NOTIFY_INVAL_ENTRY = 3
FUSE_DEV_IOC_BACKING_OPEN = 0x4010E501  # _IOW(229, 1, struct fuse_backing_map)
FUSE_DEV_IOC_BACKING_CLOSE = 0x4004E502  # _IOW(229, 2, uint32_t)

IN_HEADER = struct.Struct("=IIQQIIIHH")  # length, opcode, unique, number of the node, uid, gid, pid, extensions, -
OUT_HEADER = struct.Struct("=IiQ")  # length, -errno or kind of notification, unique
INIT_IN = struct.Struct("=IIII")  # major, minor, max_readahead, flags
INIT_IN_FLAGS2 = struct.Struct("=I")
INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
ATTR_OUT = struct.Struct("=QII")  # valid for, nanoseconds, -
ENTRY_OUT = struct.Struct("=QQQQII")  # number, generation, name valid for, attributes valid for, nanoseconds of both
DIRENT = struct.Struct("=QQII")  # inode, offset of the next, length of the name, type
GETATTR_IN = struct.Struct("=IIQ")  # flags, -, handle
OPEN_IN = struct.Struct("=II")  # flags of open(2), -
OPEN_OUT = struct.Struct("=QIi")  # handle, flags, backing
FORGET_IN = struct.Struct("=Q")  # how many times
BATCH_FORGET_IN = struct.Struct("=II")  # how many of the next, -
FORGET_ONE = struct.Struct("=QQ")  # number of the node, how many times
READ_IN = struct.Struct("=QQI")  # handle, offset, size; also of readdir
RELEASE_IN = struct.Struct("=Q")  # handle
GETXATTR_IN = struct.Struct("=II")  # size of the buffer, 0 to ask for the size; -
GETXATTR_OUT = struct.Struct("=II")
STATFS_OUT = struct.Struct("=QQQQQIIII24x")
INTERRUPT_IN = struct.Struct("=Q")  # unique of the request that nobody waits for any more
INVAL_INODE = struct.Struct("=Qqq")  # number, offset, length
INVAL_ENTRY = struct.Struct("=QII")  # number of the folder, length of the name, -
BACKING_MAP = struct.Struct("=iIQ")  # descriptor, -, -


class Attributes(NamedTuple):
    """What stat(2) tells of a node. Times in nanoseconds since 1970, `blocks` of 512 bytes on this machine."""

    inode: int
    mode: int
    size: int
    blocks: int
    mtime_ns: int


def attributes(given: Attributes, uid: int, gid: int) -> bytes:
    """`struct fuse_attr`."""
    inode, mode, size, blocks, mtime_ns = given
    seconds, nanoseconds = divmod(mtime_ns, NANOSECONDS)
    seconds &= 0xFFFFFFFFFFFFFFFF  # times before 1970 are negative
    # 1 link for folders says "not counted": tools then do not conclude from it how many subfolders there are.
    times = (seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds)
    return ATTRIBUTES.pack(inode, size, blocks, *times, mode, 1, uid, gid, 0, 0, 0)


def folder_entry(name: bytes, inode: int, mode: int, following: int) -> bytes:
    """`struct fuse_dirent`: an entry of a folder; `following` is the offset of the one after it."""
    length = len(name)
    return DIRENT.pack(inode, following, length, mode >> 12) + name + bytes(-length % 8)

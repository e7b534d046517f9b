"""`python -m scripts.benchmark.passthrough FOLDER MOUNTPOINT`: a folder through mfusepy, and nothing else.

What a file system in Python on this library reaches at best: a read is one `pread`.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")  # read by mfusepy while it is imported
import mfusepy

FIELDS = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime", "st_atime", "st_ctime")


class Passthrough(mfusepy.Operations):  # type: ignore[misc]
    """The files below `root`, read-only."""

    def __init__(self, root: str) -> None:
        self._root = root

    def getattr(self, path: str, fh: int | None = None) -> dict[str, float]:
        status = os.stat(self._root + path)
        return {name: getattr(status, name) for name in FIELDS}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._root + path)]

    def open(self, path: str, flags: int) -> int:
        return os.open(self._root + path, os.O_RDONLY)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0


if __name__ == "__main__":
    mfusepy.FUSE(Passthrough(os.path.realpath(sys.argv[1])), sys.argv[2], foreground=True, ro=True)

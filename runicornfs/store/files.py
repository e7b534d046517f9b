"""A file of the store as the server is asked for it: the words that contents and the remote share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class RemoteFile(NamedTuple):
    """Where a file lies, and what it must still be when it is opened there.

    `path` is relative to the store's root; `size` is in bytes. `mtime_s` (Unix seconds) is None for a file that has a
    digest, whose size must be equal; a file without one may have grown, but must otherwise be as old as it was.
    `content` names what is expected there: a file that was opened for one content is never read for another.
    """

    path: str
    size: int
    mtime_s: int | None
    content: str = ""


class Job(NamedTuple):
    """What is wanted of one of many small files: the ranges (offset, length), in bytes, go to the same places in `fd`.

    `received(offset, length)` is called when a whole range has been written.
    """

    file: RemoteFile
    ranges: Sequence[tuple[int, int]]
    fd: int
    received: Callable[[int, int], None]

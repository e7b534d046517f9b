"""Whether a path on the server leads where it says: below the root no symbolic link is followed, as in a walk.

SFTP opens what a link points to and has no way to forbid it. So the server is asked, in the round trip in which a file
is opened, whether the file is a link (LSTAT) and what its folder really is (REALPATH). A folder that has just been
asked about is not asked about again. A server that knows no REALPATH is believed: then only the file itself is looked
at. What changes within one round trip can be missed; sha256 finds it.
"""

from __future__ import annotations

import os
import time

from runicornfs.errors import StaleFile
from runicornfs.remote.packets import Kind, Packet, string
from runicornfs.store.paths import shown

KEPT_S = 10.0  # seconds for which a folder counts as looked at
MOST_KEPT = 10_000  # folders: a version with more is asked about more often

Request = tuple[Kind, bytes]


class Containment:
    """What one session has found out about folders below `root`. Belongs to the session's thread."""

    def __init__(self) -> None:
        self._seen: dict[bytes, float] = {}  # folders that are what they are called, and when that was asked

    def questions(self, root: bytes, path: bytes) -> list[Request]:
        """What to ask together with the opening of `path`, which lies below `root`; `check` takes the answers."""
        folder = path.rpartition(b"/")[0]
        if time.monotonic() - self._seen.get(folder, -KEPT_S) < KEPT_S:
            return []
        return [(Kind.REALPATH, string(root or b"/")), (Kind.REALPATH, string(folder or b"/"))]

    def check(self, root: bytes, path: bytes, answers: list[Packet]) -> None:
        """Raises StaleFile where a folder of `path` is a link, and ProtocolError."""
        if not answers:
            return
        real_root, real_folder = (_path_in(answer) for answer in answers)
        if real_root is None or real_folder is None:
            return
        folder = path.rpartition(b"/")[0]
        if real_folder.rstrip(b"/") != real_root.rstrip(b"/") + folder[len(root) :]:
            raise StaleFile(f"{shown(os.fsdecode(path))} on the server lies behind a symbolic link")
        if len(self._seen) >= MOST_KEPT:
            self._seen.clear()
        self._seen[folder] = time.monotonic()


def _path_in(answer: Packet) -> bytes | None:
    """The path that a REALPATH brought; None where the server does not say it."""
    if answer.kind != Kind.NAME:
        return None
    names = answer.fields().names()
    return names[0][0] if len(names) == 1 else None

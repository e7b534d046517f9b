"""A file of the server that grows while it is open, as the log of a run does: its bytes stay, what is appended follows.

With every growth such a file becomes another content. A reader keeps two of them: the one that it was opened with, for
all bytes up to its size, and the newest, for those behind. So it makes no difference how often the file grew.
"""

from __future__ import annotations

import threading

from runicornfs.catalog.nodes import Kind, Node
from runicornfs.content.contents import Contents, Interruption, Reader
from runicornfs.content.identity import identity_of


class GrowingReader:
    """An open file without a digest. Thread-safe, but for `follow`, whose callers take turns.

    `_lock` protects `_newest` and `_newest_node`, and is held while that content is read: reads behind the size that
    the file was opened with take turns. The last reads end before `close`.
    """

    def __init__(self, node: Node, contents: Contents) -> None:
        """Raises what `Contents.open` does."""
        self.node = node  # what is open, as of its last growth
        self.contents = contents
        self._first = contents.open(identity_of(node))
        self._first_size = node.size
        self._follows = True
        self._lock = threading.Lock()
        self._newest: Reader | None = None
        self._newest_node = node

    def follow(self, node: Node | None) -> None:
        """The path shows this now. What is not the same file, grown, ends the following for good."""
        if node is None or node.kind is not Kind.PLAIN or node.size < self.node.size:
            self._follows = False
        elif self._follows and node.size > self.node.size:
            self.node = node

    def read(self, offset: int, size: int, interrupted: Interruption) -> bytes:
        """See `contents.Reader`."""
        data = self._first.read(offset, size, interrupted)
        offset, size = offset + len(data), size - len(data)
        if size and self._first_size <= offset < self.node.size:
            with self._lock:
                data += self._opened().read(offset, size, interrupted)
        return data

    def share(self) -> int | None:
        """It may grow."""
        return None

    def close(self) -> None:
        self._first.close()
        if self._newest is not None:
            self._newest.close()

    def _opened(self) -> Reader:
        """The newest content. Under the lock."""
        node = self.node
        if self._newest is None or self._newest_node is not node:
            before, self._newest = self._newest, self.contents.open(identity_of(node))
            self._newest_node = node
            if before is not None:
                before.close()
        return self._newest

"""The sha256 of a content, computed in order while its blocks come and go."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Hash(Protocol):
    """What hashlib makes."""

    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class RunningDigest:
    """How far one content has been hashed. The condition of its entry protects it.

    `frontier`: the blocks below it have been hashed. `lacking`: how many of the others are not on the disk; with none
    lacking, the digest can be finished. `outdated`: a block below the frontier was given up since, so that the digest
    speaks of what was served and no longer of what is kept. `busy`: a thread is hashing.
    """

    def __init__(self, expected: bytes, count: int, present: int) -> None:
        self._expected = expected
        self._count = count
        self.busy = False
        self.restart(present)

    def restart(self, present: int) -> None:
        """From the first block, of which `present` are on the disk. A hash that is being computed is for nothing."""
        self.hash: Hash = hashlib.sha256()
        self.frontier = 0
        self.lacking = self._count - present
        self.outdated = False

    def came(self, block: int) -> bool:
        """A block is on the disk now; True if nothing is lacking since."""
        if block < self.frontier:
            return False
        self.lacking -= 1
        return self.lacking == 0

    def went(self, block: int) -> None:
        """A block is not on the disk any more."""
        if block < self.frontier:
            self.outdated = True
        else:
            self.lacking += 1

    @property
    def finished(self) -> bool:
        return self.frontier == self._count

    @property
    def matches(self) -> bool:
        """Once it is finished."""
        return self.hash.digest() == self._expected

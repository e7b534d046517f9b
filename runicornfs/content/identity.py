"""What a content is: the same bytes have the same identity wherever they lie in the store."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from runicornfs.catalog.nodes import Node

NANOSECONDS = 1_000_000_000
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """A content and one place where it lies.

    `key` (any text) names the content: two identities with the same key are the same bytes. `mtime_s` (Unix seconds)
    only counts where there is no sha256.
    """

    key: str
    path: str
    size: int
    sha256: bytes | None
    mtime_s: int | None


def identity_of(node: Node) -> Identity:
    """By its sha256 where the manifest has one, else by path, size and time."""
    if node.digest is not None:
        return Identity(node.digest.hex(), node.path, node.size, node.digest, None)
    what = b"%d %d %s" % (node.size, node.mtime_ns, os.fsencode(node.path))
    key = f"plain-{hashlib.blake2b(what, digest_size=20).hexdigest()}"
    return Identity(key, node.path, node.size, None, node.mtime_ns // NANOSECONDS)


def sha256_of(key: str) -> bytes | None:
    """What the content with this key has to have, None where that is not known."""
    return bytes.fromhex(key) if _SHA256.fullmatch(key) else None

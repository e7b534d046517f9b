"""What the mount shows at one path: the vocabulary between the catalog and its readers.

Inode numbers are made of the path alone, so they are the same after a sync, a restart and a rebuild of the catalog;
they are the primary key of the table of nodes, so that a lookup is one probe of one tree.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b

ROOT_INODE = 1


class Kind(IntEnum):
    """Stored in databases: numbers never change their meaning."""

    DIRECTORY = 0
    DOCUMENT = 1  # JSON whose bytes lie in the catalog
    CONTENT = 2  # a file with a sha256 in its manifest
    PLAIN = 3  # a file of the server without digest
    SYMLINK = 4


@dataclass(frozen=True, slots=True)
class Node:
    """`size` in bytes, `mtime_ns` in nanoseconds since 1970; `digest` is a sha256, `document` an id for
    `Catalog.document`, `target` what a link says: each None for nodes of other kinds."""

    path: str
    inode: int
    kind: Kind
    size: int
    mtime_ns: int
    digest: bytes | None = None
    document: int | None = None
    target: str | None = None


def inode_of(path: str) -> int:
    """The inode number of a path: 63 bits of its blake2b, 1 for the root, never 0.

    Two paths of one store have the same number by chance once in 10**7 stores of a million files. A server that makes
    them collide on purpose hides one of its own files: whoever looks up a node compares its name and parent.
    Raises UnicodeEncodeError for text that no file name can have.
    """
    if not path:
        return ROOT_INODE
    number = int.from_bytes(blake2b(os.fsencode(path), digest_size=8).digest(), "big") >> 1
    return number if number > ROOT_INODE else number + 2

"""What a scan of a store saw at one path: the vocabulary between who scans and who keeps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ObservedKind(IntEnum):
    """Stored in databases: numbers never change their meaning."""

    DOCUMENT = 0  # small JSON, its content travels
    FILE = 1
    DIRECTORY = 2


@dataclass(frozen=True, slots=True)
class Observed:
    """`token` is opaque: it changes when the file changes. `size` in bytes, `mtime_ns` in nanoseconds since 1970.

    `content` is None for anything but a document, and for a document that could not be read.
    """

    path: str
    kind: ObservedKind
    token: bytes
    size: int
    mtime_ns: int
    content: bytes | None

"""What a scan of a store tells, whichever way it went over the store.

The walk (`walk.Walk`) speaks in plain tuples, which also travel over the line. Here they become typed events,
and what may not be believed ends: a path that could leave its place becomes a notice, a number that cannot be is an
error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from runicornfs.errors import UnsafePath
from runicornfs.remote import walk
from runicornfs.store.observed import Observed, ObservedKind
from runicornfs.store.paths import check_relative, printable

_KINDS = {
    walk.DOCUMENT: ObservedKind.DOCUMENT,
    walk.UNREADABLE: ObservedKind.DOCUMENT,
    walk.FILE: ObservedKind.FILE,
    walk.DIRECTORY: ObservedKind.DIRECTORY,
}
_LONGEST_NOTICE = 500  # characters of what a server says about one path
_LONGEST_TOKEN = 64  # bytes: ours have at most 32, and it is to travel back with the next scan
_LATEST_NS = 2**62  # nanoseconds since 1970: a later time would not fit where times are kept


@dataclass(frozen=True, slots=True)
class Gone:
    """A path of the last sync that is not there any more."""

    path: str


@dataclass(frozen=True, slots=True)
class Notice:
    """The scan could not use something; `text` names it."""

    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How many documents, of how many bytes together, are still to come."""

    documents: int
    size_bytes: int


Event = Observed | Gone | Notice | Plan
Known = Iterable[tuple[bytes, bytes]]  # path and token of everything that the last scan saw


def typed(events: Iterable[tuple[Any, ...]]) -> Iterator[Event]:
    """The typed events of the walk's tuples. Raises ValueError, TypeError or IndexError for what makes no sense."""
    for kind, *fields in events:
        if kind == walk.ALIVE:
            continue
        if kind == walk.PLAN:
            documents, size_bytes = fields
            yield Plan(_count(documents), _count(size_bytes))
            continue
        path = os.fsdecode(fields[0])
        try:
            check_relative(path)
        except UnsafePath as error:
            yield Notice(str(error))
        else:
            yield _about(path, kind, fields[1:])


def _about(path: str, kind: int, fields: list[Any]) -> Event:
    if kind == walk.GONE:
        return Gone(path)
    if kind == walk.WARNING:
        return Notice(printable(f"{path}: {str(fields[0])[:_LONGEST_NOTICE]}"))
    if kind not in _KINDS:
        raise ValueError(f"unknown kind {kind}")
    if kind == walk.DIRECTORY:
        return Observed(path, _KINDS[kind], _token(fields[0]), 0, 0, None)
    token, size, mtime_ns, *content = fields
    if kind == walk.DOCUMENT and len(content[0]) != size:
        raise ValueError(f"{len(content[0])} bytes came of a document of {size!r:.50}")
    return Observed(
        path,
        _KINDS[kind],
        _token(token),
        _count(size),
        max(0, min(_whole(mtime_ns), _LATEST_NS)),
        content[0] if kind == walk.DOCUMENT else None,
    )


def _token(token: bytes) -> bytes:
    if len(token) > _LONGEST_TOKEN:
        raise ValueError(f"a token has {len(token)} bytes")
    return token


def _whole(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{number!r:.50} is no whole number")
    return number


def _count(number: Any) -> int:
    if not 0 <= _whole(number) < 2**62:
        raise ValueError(f"{number!r:.50} is no count")
    return int(number)

"""What can still be read of records that are damaged: pins, and contents that have to prove themselves.

SQLite reads a damaged table up to the first page that makes no sense, from either end. A content that is found this way
is as good as one that somebody else has written to: it is not served before its sha256 has been computed again (see
`Record.modified_ns`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The columns that are taken over, and the types that they have in a row that makes sense.
_PINS = {"label": bytes, "key": str, "size": int}
_CONTENTS = {
    "key": str,
    "file": str,
    "path": bytes,
    "size": int,
    "cached_bytes": int,
    "blocks": bytes,
    "verified": int,
    "last_used": float,
}
# No file was changed at this moment, so what is recorded with it counts as changed.
_NEVER = -1


@dataclass(frozen=True, slots=True)
class Salvage:
    """Rows of `pins` and `contents`, by their keys."""

    pins: dict[Any, tuple[Any, ...]] = field(default_factory=dict)
    contents: dict[Any, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, contents: bool) -> Salvage:
        """What there is, be it nothing; with `contents`, those too."""
        pins = _rows(path, "pins", _PINS, "label DESC, key DESC")
        rows = _rows(path, "contents", _CONTENTS, "rowid DESC") if contents else []
        return cls({row[:2]: row for row in pins}, {row[0]: row for row in rows})

    def __str__(self) -> str:
        if not self.pins and not self.contents:
            return "empty and with no pins"
        labels = len({label for label, _ in self.pins})
        return f"with {len(self.contents)} contents and {labels} pins that could still be read"

    def bring_into(self, connection: sqlite3.Connection) -> None:
        """Writes it into new tables. Raises sqlite3.Error."""
        _insert(connection, "pins", list(_PINS), self.pins.values())
        rows = (row + (_NEVER,) for row in self.contents.values())
        _insert(connection, "contents", [*_CONTENTS, "modified_ns"], rows)


def _rows(path: Path, table: str, types: dict[str, type], backward: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for order in ("", f" ORDER BY {backward}"):
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(path)) as connection,
        ):
            for row in connection.execute(f"SELECT {', '.join(types)} FROM {table}{order}"):
                if all(isinstance(value, kind) for value, kind in zip(row, types.values(), strict=True)):
                    found.append(row)
    return found


def _insert(connection: sqlite3.Connection, table: str, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table}({', '.join(columns)}) VALUES ({marks})", rows)

"""What people want to keep: contents that no lack of room evicts, whether anything of them is here or not.

A pin is a wish that outlives its contents and the program: a label (`model/resnet50:v3`) and the keys of all files that
belonged to it when it was pinned. One content may be wanted under several labels.
"""

from __future__ import annotations

import os
import threading

from pydantic import ByteSize

from runicornfs.content.contents import Pin
from runicornfs.content.database import Database
from runicornfs.errors import NoSpace, NotFound

_TOTAL = "SELECT total(size) FROM (SELECT max(size) AS size FROM pins GROUP BY key)"


class Pins:
    """The table `pins`. Thread-safe: `_changing` is held by whoever changes it, before the locks of the database;
    `_keys` is only ever replaced as a whole."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changing = threading.Lock()
        self._keys: frozenset[str] = frozenset()
        self._reload()

    def holds(self, key: str) -> bool:
        """Whether a content is pinned. Takes no lock."""
        return key in self._keys

    def pin(self, label: str, sizes: dict[str, int], limit: int) -> None:
        """Pins these contents (key: bytes) under a label and no others; all that is pinned has to fit into `limit`.

        They stay pinned after a power cut when this returns. Raises NoSpace, RunicornFSError.
        """
        raw = os.fsencode(label)
        with self._changing:
            with self._database.writing, self._database.transaction(durable=True):
                writer = self._database.writer
                writer.execute("DELETE FROM pins WHERE label = ?", (raw,))
                (before,) = writer.execute(_TOTAL).fetchone()
                rows = ((raw, key, size) for key, size in sizes.items())
                writer.executemany("INSERT INTO pins(label, key, size) VALUES (?, ?, ?)", rows)
                (total,) = writer.execute(_TOTAL).fetchone()
                if total > limit:
                    raise NoSpace(
                        f"{label} ({_readable(sum(sizes.values()))}) cannot be pinned: the cache keeps at most"
                        f" {_readable(limit)}, of which {_readable(before)} are pinned already;"
                        " unpin something, or start with a larger --cache-size"
                    )
            self._reload()

    def unpin(self, label: str) -> None:
        """What was pinned under this label alone may go again. Raises NotFound, RunicornFSError."""
        with self._changing:
            with self._database.writing, self._database.transaction(durable=True):
                gone = self._database.writer.execute("DELETE FROM pins WHERE label = ?", (os.fsencode(label),))
                if not gone.rowcount:
                    raise NotFound(f"{label} is not pinned")
            self._reload()

    def all(self) -> list[Pin]:
        """All pins, by label, and how much of each is in the database: flush the records before."""
        query = (
            "SELECT label, count(*), total(pins.size), total(min(pins.size, ifnull(cached_bytes, 0)))"
            " FROM pins LEFT JOIN contents USING (key) GROUP BY label ORDER BY label"
        )
        return [
            Pin(os.fsdecode(label), files, int(size), int(cached))
            for label, files, size, cached in self._database.select(query)
        ]

    def _reload(self) -> None:
        self._keys = frozenset(key for (key,) in self._database.select("SELECT DISTINCT key FROM pins"))


def _readable(size: float) -> str:
    return ByteSize(size).human_readable()

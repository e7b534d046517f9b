"""How large the store is.

Kept up to date by differences: counting a million nodes at every sync would take a second.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Totals:
    """Of what is shown: files (documents among them), their bytes, artifacts, versions."""

    files: int
    bytes: int
    artifacts: int
    versions: int

    def grown(self, connection: sqlite3.Connection, files: int, bytes: int) -> Totals:
        """With so many files and bytes more, and with the artifacts and versions that the tables have now."""
        artifacts, versions = connection.execute(
            "SELECT count(DISTINCT artifact), count(*) FROM versions WHERE shown"
        ).fetchone()
        return Totals(self.files + files, self.bytes + bytes, artifacts, versions)


@dataclass(frozen=True, slots=True)
class TypeTotals:
    """Of what is shown of one type: artifacts, versions, and the files and bytes that the index counts for them."""

    artifacts: int
    versions: int
    files: int
    bytes: int


def totals_by_type(connection: sqlite3.Connection) -> dict[str, TypeTotals]:
    # total() adds as floats, exact up to 9 PB: sum() would fail where sizes that nobody can have go over 63 bits.
    rows = connection.execute(
        "SELECT type, count(DISTINCT artifact), count(*), CAST(total(num_files) AS INTEGER),"
        " CAST(total(size_bytes) AS INTEGER) FROM artifacts JOIN versions ON artifact = id WHERE shown"
        " GROUP BY type ORDER BY type"
    )
    return {os.fsdecode(type): TypeTotals(*numbers) for type, *numbers in rows}


def read_totals(connection: sqlite3.Connection) -> Totals:
    row = connection.execute("SELECT value FROM meta WHERE key = 'totals'").fetchone()
    return Totals(0, 0, 0, 0) if row is None else Totals(**json.loads(row[0]))


def write_totals(connection: sqlite3.Connection, totals: Totals) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('totals', ?)", (json.dumps(asdict(totals)),))

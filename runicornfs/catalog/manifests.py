"""What manifests say: the entries of all of them in one table, written as soon as a manifest is received.

The entries of a manifest belong to its document, and like that they never change. So they are written while a scan is
still under way, and nobody sees them: a version shows them from the moment at which its folder `files` among the nodes
names the document. A snapshot in which a version has another manifest changes that one row.

In the table the entries of one folder lie side by side, and those of a new manifest behind all others: writing appends,
a listing reads few pages, a lookup is one probe. A folder is known by the number that `inode_of` makes of its path
below `files`; where two collide, which a server could bring about, it finds the entries of both in both.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from runicornfs.catalog.nodes import ROOT_INODE, Kind, inode_of
from runicornfs.catalog.tree import Folders
from runicornfs.errors import MalformedRecord
from runicornfs.store.fields import nanoseconds_of
from runicornfs.store.layout import ARTIFACTS, FILES_NAME
from runicornfs.store.paths import parent_of
from runicornfs.store.records import ManifestFile, parse_manifest

# artifacts, type, name, version, files
_COMPONENTS = 5
# Python lets other threads run around each step of SQLite: a step a row, and each row waits for whoever decrypts.
_ROWS_AT_ONCE = 200
_CONTENT, _PLAIN, _DIRECTORY = int(Kind.CONTENT), int(Kind.PLAIN), int(Kind.DIRECTORY)


@dataclass(frozen=True, slots=True)
class Inventory:
    """A manifest as a whole. `entries` counts files and folders, `newest_ns` is the time of the newest file, if any.

    `refused` says why it cannot be used at all; `problems` are those of single entries.
    """

    files: int
    bytes: int
    entries: int
    newest_ns: int | None
    problems: list[str]
    refused: str | None


def write_manifest(connection: sqlite3.Connection, document: int, content: bytes, mtime_ns: int) -> None:
    """Writes what a manifest says that was received as this document; a file that it gives no date is of `mtime_ns`.

    Memory: the entries of this one manifest.
    """
    rows: list[tuple[object, ...]] = []
    size = 0
    newest_ns = None
    problems: list[str] = []
    refused = None
    try:
        manifest = parse_manifest(content)
    except MalformedRecord as error:
        refused = str(error)
    else:
        problems = manifest.problems
        size = sum(file.size for file in manifest.files)
        rows = list(_rows(document, manifest.files, mtime_ns))
        newest_ns = max((row[5] for row in rows), default=None)  # type: ignore[type-var]
    files = sum(row[3] != _DIRECTORY for row in rows)
    rows.sort(key=lambda row: row[1:3])
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        marks = ",".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(some))
        connection.execute(f"INSERT OR IGNORE INTO entries VALUES {marks}", list(chain.from_iterable(some)))
    connection.execute(
        "INSERT INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?)",
        (document, files, size, len(rows), newest_ns, json.dumps(problems), refused),
    )


def _rows(document: int, files: list[ManifestFile], mtime_ns: int) -> Iterator[tuple[object, ...]]:
    """The rows of all files and of the folders that they are in. Empties the list on the way: two of 100,000 are
    many."""
    numbers: dict[str, int] = {}
    newest: dict[str, int] = {}
    while files:
        path, size, digest, modified_at = files.pop()
        folder, _, name = path.rpartition("/")
        date = mtime_ns if modified_at is None else nanoseconds_of(modified_at)
        known = newest.get(folder)
        if known is None:
            numbers[folder] = inode_of(folder)
        if known is None or date > known:
            newest[folder] = date
        kind = _PLAIN if digest is None else _CONTENT
        yield document, numbers[folder], os.fsencode(name), kind, size, date, digest
    folders = Folders("")
    for folder, date in newest.items():
        folders.note_in(folder, date)
    for folder, date in folders.dated():
        if folder:
            name = folder.rpartition("/")[2]
            yield document, inode_of(parent_of(folder)), os.fsencode(name), _DIRECTORY, 0, date, None


def inventory_of(connection: sqlite3.Connection, document: int | None) -> Inventory | None:
    """None for a document that is no manifest, or is not there."""
    row = connection.execute(
        "SELECT files, bytes, entries, newest_ns, problems, refused FROM manifests WHERE document = ?", (document,)
    ).fetchone()
    if row is None:
        return None
    files, size, entries, newest_ns, problems, refused = row
    return Inventory(files, size, entries, newest_ns, json.loads(problems), refused)


# Reading what is shown


def split(path: str) -> tuple[str, str] | None:
    """The folder `files` of a version, and the path below it ("" for itself); None for what lies in no such folder."""
    parts = path.split("/", _COMPONENTS)
    if len(parts) < _COMPONENTS or parts[0] != ARTIFACTS or parts[4] != FILES_NAME:
        return None
    return "/".join(parts[:_COMPONENTS]), parts[_COMPONENTS] if len(parts) > _COMPONENTS else ""


LOOKUP = """
SELECT e.kind, e.size, e.mtime_ns, e.digest FROM nodes n JOIN entries e ON e.manifest = n.document
WHERE n.inode = ? AND n.parent = ? AND n.kind = 0 AND e.folder = ? AND e.name = ?
"""
CHILDREN = """
SELECT e.name, e.kind, e.size, e.mtime_ns, e.digest FROM nodes n JOIN entries e ON e.manifest = n.document
WHERE n.inode = ? AND n.parent = ? AND n.kind = 0 AND e.folder = ? ORDER BY e.name
"""


def paths_in(connection: sqlite3.Connection, document: int) -> Iterator[str]:
    """The path below `files` of every entry of a manifest."""
    folders = folders_of(connection, document)
    rows = connection.execute("SELECT folder, name FROM entries WHERE manifest = ?", (document,)).fetchall()
    for folder, name in rows:
        yield below(folders.get(folder, ""), os.fsdecode(name))


def folders_of(connection: sqlite3.Connection, document: int) -> dict[int, str]:
    """The folders of a manifest: number and path below `files`."""
    inside: dict[int, list[str]] = {}
    for folder, name in connection.execute(
        "SELECT folder, name FROM entries WHERE manifest = ? AND kind = 0", (document,)
    ):
        inside.setdefault(folder, []).append(os.fsdecode(name))
    found = {ROOT_INODE: ""}
    waiting = [ROOT_INODE]
    while waiting:
        number = waiting.pop()
        for name in inside.pop(number, ()):
            path = below(found[number], name)
            found[inode_of(path)] = path
            waiting.append(inode_of(path))
    return found


def differing(connection: sqlite3.Connection, old: int, new: int) -> Iterator[tuple[str, bool]]:
    """Of two manifests of one version: the paths below `files` at which they differ, and whether only one has them."""
    folders = folders_of(connection, old) | folders_of(connection, new)
    pairs = ((_DIFFERING, old, new), (_MISSING, new, old))
    for statement, one, other in pairs:
        for folder, name, alone in connection.execute(statement, (one, other)):
            yield below(folders.get(folder, ""), os.fsdecode(name)), bool(alone)


_DIFFERING = """
SELECT one.folder, one.name, other.name IS NULL FROM entries one
LEFT JOIN entries other ON other.manifest = ?2 AND other.folder = one.folder AND other.name = one.name
WHERE one.manifest = ?1 AND (other.name IS NULL OR one.kind <> other.kind OR one.size <> other.size
    OR one.mtime_ns <> other.mtime_ns OR one.digest IS NOT other.digest)
"""
_MISSING = """
SELECT one.folder, one.name, 1 FROM entries one
WHERE one.manifest = ?1 AND NOT EXISTS (
    SELECT 1 FROM entries other WHERE other.manifest = ?2 AND other.folder = one.folder AND other.name = one.name)
"""


def below(folder: str, path: str) -> str:
    """A path in a folder; "" is the top, as folder and as path."""
    return f"{folder}/{path}" if folder and path else folder or path

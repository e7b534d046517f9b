"""Looks at a cache folder that nobody has open, as a stranger would: by SQLite and the sparse files alone.

It shares no code with the cache, so that both cannot be wrong in the same way: the size of a block, the map of blocks
and the names of the files are written down here once more.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

BLOCK = 131072
FILE_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{8}")
DATABASES = ("content/records.db", "index.db", "downloads.db")
# What there may be in the folder of a store, as regular expressions of paths relative to it.
KNOWN = re.compile(
    r"(index|content/records|downloads)\.db(-wal|-shm|-journal)?|lock|store\.json|daemon\.log(\.1)?|owner\.sock"
    r"|content/blocks/[0-9a-f]{32}-[0-9a-f]{8}|metadata/(\.being-written|.*[^/]\.json|.*/\.deleted)|downloads/.*"
)
# A file system gives space in pieces: a sparse file takes up to so many bytes more than the blocks in it, for each run.
SLACK = 65536


@dataclass
class Found:
    """What is there. Sizes in bytes."""

    contents: int = 0
    partial: int = 0
    verified: int = 0
    cached_bytes: int = 0
    lost: int = 0  # records whose file is gone, which is no harm
    unrecorded_bytes: int = 0  # on the disk beyond what the records name


def verify_cache(folder: Path, contents: Mapping[str, bytes], at_rest: bool = False) -> Found:
    """Raises AssertionError for whatever must not be in the cache `folder` of a store, also after a `kill -9`.

    contents: every content that the server has or had, by its sha256. at_rest: a process has started since then and has
    ended in order, so that nothing may be left over any more.
    """
    for name in DATABASES:
        if (folder / name).exists():
            with _copy(folder / name) as database:
                (says,) = database.execute("PRAGMA integrity_check").fetchone()
                assert says == "ok", f"{name}: {says}"
    found = verify_contents(folder / "content", contents)
    unknown = [path for path in _files(folder) if not KNOWN.fullmatch(path)]
    if at_rest:
        assert not unknown, f"nobody knows these files: {unknown}"
        assert found.unrecorded_bytes == 0, f"{found.unrecorded_bytes} bytes of space belong to nothing"
        assert not (folder / "metadata" / ".being-written").exists(), "the export was not finished"
    return found


def verify_contents(folder: Path, contents: Mapping[str, bytes]) -> Found:
    """The same for the folder of the contents alone."""
    if not (folder / "records.db").exists():
        return Found()
    with _copy(folder / "records.db") as records:
        return _verify_records(records, folder / "blocks", contents)


def recorded_bytes(folder: Path) -> int:
    """What the cache `folder` of a store names now, also while a process has it: what a kill leaves."""
    with closing(sqlite3.connect(folder / "content" / "records.db")) as records:
        (size,) = records.execute("SELECT ifnull(sum(cached_bytes), 0) FROM contents").fetchone()
        return int(size)


def _verify_records(records: sqlite3.Connection, blocks: Path, contents: Mapping[str, bytes]) -> Found:
    found = Found()
    named = set()
    rows = records.execute("SELECT key, file, size, cached_bytes, blocks, verified FROM contents").fetchall()
    for key, file, size, cached_bytes, packed, verified in rows:
        assert FILE_NAME.fullmatch(file), f"{key} is in a file named {file!r}"
        assert file not in named, f"two contents are in {file}"
        named.add(file)
        present = zlib.decompress(packed)
        assert len(present) == -(-size // BLOCK), f"{key} has {len(present)} blocks for {size} bytes"
        here = [(n * BLOCK, min(size, (n + 1) * BLOCK)) for n, there in enumerate(present) if there]
        assert cached_bytes == sum(stop - start for start, stop in here), f"{key}: cached_bytes is wrong"
        assert not verified or cached_bytes == size, f"{key} is called verified and is not whole"
        found.contents += 1
        found.partial += cached_bytes < size
        found.verified += verified
        found.cached_bytes += cached_bytes
        try:
            data = (blocks / file).read_bytes()
        except FileNotFoundError:
            found.lost += 1
            continue
        assert len(data) == size or (cached_bytes == 0 and not data), f"{key}: its file has {len(data)} bytes"
        if verified:
            assert hashlib.sha256(data).hexdigest() == key, f"{key} is called verified and is not what it should be"
        if key in contents:
            for start, stop in here:
                assert data[start:stop] == contents[key][start:stop], f"{key}: wrong bytes at {start}"
        else:
            assert key.startswith("plain-"), f"nobody knows {key}"
        runs = sum(bool(there) and not (n and present[n - 1]) for n, there in enumerate(present))
        allocated = (blocks / file).stat().st_blocks * 512
        if allocated > cached_bytes + SLACK * (runs + 1):
            found.unrecorded_bytes += allocated - cached_bytes
    orphans = {entry.name for entry in os.scandir(blocks)} - named
    assert not orphans, f"these files have no record: {sorted(orphans)}"
    sums = (found.contents, found.partial, found.verified, found.cached_bytes)
    totals = records.execute("SELECT files, partial, verified, cached_bytes FROM totals").fetchall()
    assert totals == [sums], f"the sums say {totals}, the records {sums}"
    return found


@contextmanager
def _copy(file: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a database: opening it itself would put right what is wrong."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, file.name)
        for suffix in ("", "-wal"):
            if Path(f"{file}{suffix}").exists():
                shutil.copyfile(f"{file}{suffix}", f"{copy}{suffix}")
        with closing(sqlite3.connect(copy)) as connection:
            yield connection


def _files(folder: Path) -> list[str]:
    found = []
    for place, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return found

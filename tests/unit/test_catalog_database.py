"""The file index.db: who may read it, and what happens when it cannot be used."""

from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.database import FIRST_READERS
from runicornfs.catalog.schema import SCHEMA_VERSION
from runicornfs.errors import NoSpace, Refused, RunicornFSError
from tests.unit.observing import a_version, apply, document, index, tree

NET = "artifacts/model/net"
STORE = [document(f"{NET}/versions.json", index({1: "ready"})), *a_version(f"{NET}/v1")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


def filled(path: Path) -> None:
    catalog = Catalog.open(path)
    apply(catalog, *STORE)
    catalog.close()


def test_a_new_catalog_is_an_empty_folder(path: Path) -> None:
    catalog = Catalog.open(path)
    root = catalog.lookup("")
    assert root is not None
    assert (root.inode, catalog.children(""), catalog.totals().files) == (1, [], 0)
    catalog.close()


def test_the_files_are_private_to_the_user(path: Path) -> None:
    catalog = Catalog.open(path)
    apply(catalog, *STORE)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {file.name for file in path.parent.iterdir()} == {"index.db", "index.db-wal", "index.db-shm"}
    catalog.close()


def test_everything_is_there_after_a_restart(path: Path) -> None:
    catalog = Catalog.open(path)
    with catalog.update() as update:
        for item in STORE:
            update.stage(item)
        update.apply(last_sync=12.5)
    before = tree(catalog), catalog.totals()
    catalog.close()
    catalog = Catalog.open(path)
    assert (tree(catalog), catalog.totals()) == before
    assert catalog.last_sync() == 12.5
    catalog.close()


@pytest.mark.parametrize(
    "content", [b"no database, but long enough to be one" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database_is_replaced_and_reported(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    catalog = Catalog.open(path)
    assert catalog.children("") == []
    assert "is built anew" in caplog.text
    catalog.close()


def test_a_database_of_another_schema_is_replaced_and_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    connection.close()
    catalog = Catalog.open(path)
    assert catalog.children("") == []
    assert f"it has schema {SCHEMA_VERSION - 1}" in caplog.text
    catalog.close()


@pytest.mark.promise("C11")
def test_a_database_that_a_newer_program_wrote_is_refused_and_left_alone(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(Refused, match="a newer runicornfs .*--cache-dir"):
        Catalog.open(path)
    assert path.read_bytes() == before


@pytest.mark.promise("C11")
@pytest.mark.parametrize("thing", ["text", "folder", "another program's", "nothing"])
def test_what_is_no_index_is_put_aside(path: Path, caplog: pytest.LogCaptureFixture, thing: str) -> None:
    aside = path.with_name("index.db.aside")
    if thing == "text":
        path.write_bytes(b"a letter" * 1000)
    elif thing == "folder":
        path.mkdir()
    elif thing == "another program's":
        with sqlite3.connect(path) as connection:
            connection.executescript("CREATE TABLE places (url TEXT); PRAGMA user_version = 77")
        connection.close()
    else:
        path.write_bytes(b"")
    for _ in range(2):
        catalog = Catalog.open(path)
        apply(catalog, *STORE)
        catalog.close()
    assert aside.is_dir() == (thing == "folder")
    assert aside.exists() == (thing != "nothing")
    assert caplog.text.count("is built anew") == (thing != "nothing")


def test_the_log_of_another_database_does_no_harm(path: Path, tmp_path: Path) -> None:
    """Of a file that was deleted alone, or put back from a copy that is older."""
    catalog = Catalog.open(path)
    apply(catalog, *STORE)
    log = path.with_name("index.db-wal").read_bytes()
    catalog.close()
    path.unlink()
    path.with_name("index.db-wal").write_bytes(log)
    catalog = Catalog.open(path)
    assert catalog.children("") == []
    apply(catalog, *STORE)
    catalog.close()


@pytest.mark.promise("C5")
@pytest.mark.parametrize("replaced", [True, False])
def test_what_is_known_outlives_the_file_for_as_long_as_it_is_open(path: Path, replaced: bool) -> None:
    catalog = Catalog.open(path)
    apply(catalog, *STORE)
    before = tree(catalog)
    for file in list(path.parent.glob("index.db*")):
        file.unlink()
    if replaced:
        Catalog.open(path).close()
    with ThreadPoolExecutor(16) as threads:
        assert all(seen == before for seen in threads.map(lambda _: tree(catalog), range(50)))
    apply(catalog, document("runs/r1/summary.json", {"text": "x"}))
    assert catalog.lookup("runs/r1/summary.json") is not None
    catalog.close()
    again = Catalog.open(path)
    assert again.children("") == []
    again.close()


def damage(path: Path, holding: bytes = b"") -> None:
    """Overwrites all pages behind the first that hold these bytes."""
    size = 4096  # of SQLite's pages
    data = bytearray(path.read_bytes())
    for start in range(size, len(data), size):
        if holding in data[start : start + size]:
            data[start : start + size] = b"\xff" * size
    path.write_bytes(data)


def test_a_damaged_database_is_replaced_and_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(path)
    damage(path)
    catalog = Catalog.open(path)
    assert catalog.children("") == []
    assert "is built anew" in caplog.text
    catalog.close()


def test_damage_that_is_met_later_lets_the_next_start_build_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog.open(path)
    many = {f"{number}.bin": number for number in range(2000)}
    apply(catalog, document(f"{NET}/versions.json", index({1: "ready"})), *a_version(f"{NET}/v1", many))
    catalog.close()
    damage(path, holding=b"777.bin")
    catalog = Catalog.open(path)
    with pytest.raises(RunicornFSError, match="the next start builds it anew"):
        tree(catalog)
    catalog.close()
    assert caplog.text == ""
    catalog = Catalog.open(path)
    assert catalog.children("") == []
    assert "it was found damaged" in caplog.text
    catalog.close()
    catalog = Catalog.open(path)
    apply(catalog, *STORE)
    catalog.close()
    assert not path.with_name("index.db-damaged").exists()


def test_a_disk_that_is_full_changes_nothing_and_says_so(path: Path) -> None:
    catalog = Catalog.open(path)
    apply(catalog, *STORE)
    before = tree(catalog)
    catalog._database.writer.execute("PRAGMA max_page_count = 60")
    large = document("runs/r1/summary.json", {"text": "x" * 1_000_000})
    with pytest.raises(NoSpace, match=r"index\.db cannot grow"):
        apply(catalog, large)
    assert tree(catalog) == before
    catalog._database.writer.execute("PRAGMA max_page_count = 100000")
    apply(catalog, large)
    assert catalog.lookup("runs/r1/summary.json") is not None
    catalog.close()


def test_readers_keep_their_connections_for_the_next_one(path: Path) -> None:
    catalog = Catalog.open(path)
    for _ in range(3):
        catalog.lookup("")
    assert len(catalog._database._idle) == FIRST_READERS
    catalog.close()


def test_readers_cannot_write(path: Path) -> None:
    catalog = Catalog.open(path)
    with catalog._database.reader() as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("DELETE FROM nodes")
    catalog.close()

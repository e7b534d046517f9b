"""The database of what is cached."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runicornfs.content import records
from runicornfs.content.records import Record, Records
from runicornfs.errors import RunicornFSError

A = Record("a", "file-a", "models/\udcff a", 1000, 100, b"map", False, 1.0, "boot")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Records]:
    database = Records(tmp_path)
    yield database
    database.close()


def in_database(folder: Path) -> dict[str, Record]:
    """What another process would find."""
    other = Records(folder)
    rows = other.database.select("SELECT * FROM contents")
    other.close()
    return {row[0]: records._record(row) for row in rows}


def test_a_content_that_begins_is_in_the_database_at_once(database: Records, tmp_path: Path) -> None:
    database.begin(A)
    assert in_database(tmp_path) == {"a": A}


def test_changes_are_answered_before_they_are_in_the_database(database: Records, tmp_path: Path) -> None:
    database.begin(A)
    more = replace(A, cached_bytes=1000, verified=True)
    database.put(more)
    assert database.get("a") == more
    assert database.cached(["a", "b"]) == {"a": (1000, 1000, True)}
    assert in_database(tmp_path) == {"a": A}
    database.flush()
    assert in_database(tmp_path) == {"a": more}


def test_a_removed_content_is_gone_at_once(database: Records, tmp_path: Path) -> None:
    database.begin(A)
    database.remove("a", A.file)
    assert database.get("a") is None
    assert database.cached(["a"]) == {}
    database.flush()
    assert in_database(tmp_path) == {}


def test_removing_an_old_file_leaves_the_content_that_came_after_it(database: Records, tmp_path: Path) -> None:
    database.begin(A)
    newer = replace(A, file="file-b")
    database.begin(newer)
    database.remove("a", A.file)
    assert database.get("a") == newer
    database.flush()
    assert in_database(tmp_path) == {"a": newer}


def test_a_flush_in_the_middle_of_a_question_brings_nothing_back(
    database: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evicted content was found again for a moment, and its bytes counted as gone twice."""
    database.begin(A)
    database.remove("a", A.file)
    select = database.database.select

    def slow(query: str, parameters: Iterable[object] = ()) -> list[tuple[object, ...]]:
        rows = select(query, parameters)
        database.flush()
        return rows

    monkeypatch.setattr(database.database, "select", slow)
    assert database.get("a") is None


def test_the_least_recently_used_come_first_and_the_spared_not_at_all(database: Records) -> None:
    for number, key in enumerate("dbca"):
        database.begin(replace(A, key=key, file=f"file-{key}", last_used=float(number)))
    database.touch("d", 10.0)
    database.remove("b", "file-b")
    database.flush()
    assert [record.key for record in database.oldest(10_000, lambda key, file: key == "a")] == ["c", "d"]
    assert [record.key for record in database.oldest(1, lambda key, file: False)] == ["c"]


def test_what_is_remembered_of_a_victim_counts_more_than_the_database(database: Records) -> None:
    database.begin(A)
    database.put(replace(A, cached_bytes=700))
    assert [record.cached_bytes for record in database.oldest(1, lambda key, file: False)] == [700]


def test_a_settled_record_names_no_boot(database: Records) -> None:
    database.begin(A)
    database.settling("a")
    database.settle("a", 77)
    assert database.get("a") == replace(A, boot=None, modified_ns=77)
    assert database.unsettled() == [A]
    database.flush()
    assert database.unsettled() == []


def test_what_happens_while_a_file_is_fsynced_undoes_its_settling(database: Records) -> None:
    database.begin(A)
    database.settling("a")
    database.put(A)
    database.settle("a", 77)
    assert database.get("a") == A


def test_beginning_again_takes_the_settling_back(database: Records, tmp_path: Path) -> None:
    database.begin(replace(A, boot=None))
    database.begin(A)
    assert in_database(tmp_path) == {"a": A}


def test_totals_count_partial_and_verified_contents(database: Records) -> None:
    database.begin(A)
    database.begin(replace(A, key="b", cached_bytes=1000, verified=True))
    database.begin(replace(A, key="c", cached_bytes=1000))
    assert database.totals() == records.Totals(files=3, partial_files=1, verified_files=1, cached_bytes=2100)


def test_records_outlive_the_process(tmp_path: Path) -> None:
    first = Records(tmp_path)
    assert first.anew
    first.begin(A)
    first.close()
    second = Records(tmp_path)
    assert not second.anew
    assert second.get("a") == A
    second.close()


@pytest.mark.parametrize("damage", ["nonsense", "truncated", "empty", "format", "schema", "foreign"])
def test_a_database_that_cannot_be_used_is_made_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = Records(tmp_path)
    first.begin(A)
    first.close()
    path = tmp_path / "records.db"
    if damage == "nonsense":
        path.write_bytes(b"this is no database" * 1000)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 0" if damage == "format" else "DROP TABLE contents")
        if damage == "foreign":
            connection.execute("CREATE TABLE contents (url TEXT)")
        connection.close()
    second = Records(tmp_path)
    assert second.anew
    assert second.get("a") is None
    second.close()
    assert "starts anew" in caplog.text


def test_damage_that_shows_while_it_is_used_is_repaired_by_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Records(tmp_path)
    for number in range(500):
        database.begin(replace(A, key=f"key {number}"))
    database.close()
    path = tmp_path / "records.db"
    database = Records(tmp_path)
    with path.open("r+b") as file:  # behind the pages that a start reads
        for page in range(3, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(RunicornFSError, match="the next start repairs it"):
        _ = [database.get(f"key {number}") for number in range(500)]
    database.close()
    assert "damaged" in caplog.text
    after = Records(tmp_path)
    assert after.anew
    after.close()


def test_files_are_private(database: Records, tmp_path: Path) -> None:
    database.begin(A)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_the_sums_are_kept_with_every_change_and_not_counted_at_a_start(database: Records, tmp_path: Path) -> None:
    others = [replace(A, key=f"k{number}", file=f"f{number}") for number in range(20)]
    for record in (A, *others):
        database.begin(record)
    database.put(replace(A, cached_bytes=1000, verified=True))
    database.put(replace(others[0], file="another", cached_bytes=50))
    database.remove("k1", "f1")
    database.touch("k2", 5.0)
    database.flush()
    expected = records.Totals(files=20, partial_files=19, verified_files=1, cached_bytes=1000 + 50 + 18 * 100)
    assert database.totals() == expected
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    for connection in (database.database._reader, database.database.writer):
        connection.set_progress_handler(count, 1)
    assert database.totals() == expected
    assert steps < 20


def test_a_cache_from_before_there_were_sums_gets_them(database: Records, tmp_path: Path) -> None:
    database.begin(A)
    database.begin(replace(A, key="b", file="file-b"))
    writer = database.database.writer
    writer.executescript("DROP TABLE totals; DROP TRIGGER content_came; DROP TRIGGER content_changed;"
                         "DROP TRIGGER content_went;")  # fmt: skip
    other = Records(tmp_path)
    assert other.totals() == records.Totals(2, 2, 0, 200)
    other.remove("a", A.file)
    other.flush()
    assert other.totals() == records.Totals(1, 1, 0, 100)
    other.close()

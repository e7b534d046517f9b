"""The journal of tasks: what outlives the process."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from runicornfs.downloads.journal import FILE_NAME, Journal
from runicornfs.downloads.records import COMPLETED, RUNNING, Counts, Download, Order, Placed

ODD = os.fsdecode(b"odd \xff\n")
ORDER = Order("t1", ODD, "net", 3, f"/tmp/{ODD}", own_target=True, overwrite=True, patterns=("*.bin", ODD))
DOWNLOAD = Download(ORDER, RUNNING, None, Counts(1, 2, 3, 4, 5), started_at=1.5, completed_at=None)


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(DOWNLOAD, [Placed(ODD, 7, 8, 9)])
    journal.close()
    again = Journal(tmp_path)
    assert again.downloads() == [DOWNLOAD]
    assert again.placed("t1") == {ODD: Placed(ODD, 7, 8, 9)}
    again.close()


def test_the_last_word_counts_and_the_order_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    other = replace(DOWNLOAD, order=replace(ORDER, task_id="t2"))
    journal.put(DOWNLOAD)
    journal.put(other)
    ended = DOWNLOAD.ended(COMPLETED, f"error {ODD}", 2.5)
    journal.put(ended)
    assert journal.downloads() == [ended, other]
    journal.remove("t1")
    assert journal.downloads() == [other]
    journal.close()


def test_it_is_private(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(DOWNLOAD)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob(f"{FILE_NAME}*")} == {0o600}
    journal.close()


def test_a_second_one_keeps_its_tasks_to_itself(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    second.put(DOWNLOAD)
    assert first.downloads() == []
    second.close()
    first.close()
    again = Journal(tmp_path)
    assert again.downloads() == []
    again.close()


def test_one_that_a_newer_program_wrote_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path)
    journal.put(DOWNLOAD)
    journal.close()
    path = tmp_path / FILE_NAME
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    journal = Journal(tmp_path)
    assert journal.downloads() == []
    journal.put(DOWNLOAD)
    journal.close()
    assert path.read_bytes() == before
    assert "newer runicornfs" in caplog.text


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b""])
def test_one_that_is_damaged_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        journal = Journal(tmp_path)
    journal.put(DOWNLOAD)
    journal.close()
    assert bool(damage) == ("begins anew" in caplog.text)
    again = Journal(tmp_path)
    assert again.downloads() == [DOWNLOAD]
    again.close()

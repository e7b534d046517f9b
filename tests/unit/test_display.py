"""What is shown in a terminal has nothing in it that the terminal would obey, whatever a server calls its files."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runicornfs
from runicornfs.cli import display
from runicornfs.errors import ServerError

EVIL = "a\x1b[31mred\x9b2J\x07\u202exe.txt\nerror: all is lost\x7f\udcff"


def lines_of(text: str) -> list[str]:
    assert all(line.isprintable() for line in text.split("\n"))
    return text.split("\n")


def test_a_name_stays_in_its_cell() -> None:
    head, row = lines_of(display.table(["NAME", "SIZE"], [[EVIL, "3"]]))
    assert row.endswith("3")
    assert head.index("SIZE") == row.rindex("3")


@pytest.mark.promise("K4")
def test_a_sentence_has_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    display.say(f"deleted {EVIL}")
    lines_of(capsys.readouterr().out)


@given(st.text())
def test_json_can_be_shown_and_read(text: str) -> None:
    shown = display.as_json({text: [text, 1]})
    lines_of(shown)
    assert json.loads(shown) == {text: [text, 1]}


def test_json_stays_readable() -> None:
    assert display.as_json(["größe", EVIL]).startswith('[\n  "größe",')
    assert json.loads(display.as_json([EVIL])) == [EVIL]


def test_the_log_has_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    formatter = runicornfs._Printable("%(levelname)s %(message)s")
    try:
        raise ServerError(EVIL)
    except ServerError:
        record = logging.LogRecord("runicornfs", logging.ERROR, "", 1, "lost %s", (EVIL,), sys.exc_info())
    first, *trace = lines_of(formatter.format(record))
    assert first.startswith(r"ERROR lost a\x1b[31mred")
    assert trace[0] == "Traceback (most recent call last):"

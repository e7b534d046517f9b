"""How things are shown in a terminal: sizes, times, tables, the progress of a sync.

Names come from a server, which may put into them what a terminal obeys: all that is shown goes through here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import NoReturn, Protocol

import click
from pydantic import ByteSize
from tqdm import tqdm

from runicornfs.store.paths import printable

# Who waits no longer than this needs no bar.
QUICK_S = 1.0
# Characters of an error: more than every sentence of ours, less than somebody's name of ten thousand letters.
LONGEST_SENTENCE = 2000


class Progress(Protocol):
    """The part of a sync's progress that is shown. Bytes and files of the documents that travel."""

    @property
    def total_files(self) -> int: ...
    @property
    def synced_files(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def synced_bytes(self) -> int: ...
    @property
    def current_file(self) -> str | None: ...


class Bar:
    """A bar of bytes on standard error, where that is a terminal and it takes over a second."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = time.monotonic()
        self._bar: tqdm[NoReturn] | None = None

    def show(self, done: int, total: int, note: str) -> None:
        """Bytes; a total of 0 is one that is not known yet."""
        if time.monotonic() - self._started < QUICK_S or not sys.stderr.isatty():
            return
        if self._bar is None:
            what = printable(self._what)
            self._bar = tqdm(desc=what, unit="B", unit_scale=True, leave=False, file=sys.stderr, initial=done)
        self._bar.total = total or None
        self._bar.set_postfix_str(printable(note), refresh=False)
        self._bar.n = done
        self._bar.refresh()  # also where nothing has moved: a large file takes its time

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class SyncDisplay:
    """A bar while a sync runs, one plain line at the end."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._bar = Bar("syncing metadata")

    def show(self, progress: Progress) -> None:
        files = f"{progress.synced_files}/{progress.total_files} files"
        note = f"{files}  {(progress.current_file or '')[-50:]}"
        self._bar.show(progress.synced_bytes, progress.total_bytes, note)

    def finish(self, progress: Progress) -> None:
        self._bar.close()
        seconds = time.monotonic() - self._started
        print(
            f"synced {progress.synced_files} metadata files ({size(progress.synced_bytes)}) in {seconds:.1f} s",
            file=sys.stderr,
        )


def say(text: str, err: bool = False) -> None:
    """Lines for a person, without anything that a terminal would obey."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def as_json(answer: object) -> str:
    """JSON as people read it, where standard output can say it; what is not printable is escaped, as JSON does."""
    text = json.dumps(answer, indent=2, ensure_ascii=False)
    text = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)
    try:
        text.encode(sys.stdout.encoding if sys.stdout else "ascii")
    except UnicodeEncodeError:
        return json.dumps(answer, indent=2).replace("\x7f", _escaped("\x7f"))
    return text


def _escaped(character: str) -> str:
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]  # DEL is the one that JSON leaves


def size(count: int) -> str:
    """Bytes as people read them: `1.4MiB`."""
    return ByteSize(count).human_readable()


def moment(unix_seconds: float | None) -> str:
    """A time of this machine's clock; `-` where there is none."""
    if unix_seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_seconds))


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Columns, each as wide as its widest cell. Names are whatever a server says: what could move the cursor or break a
    line is shown as an escape."""
    lines = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def one_line(sentence: str) -> str:
    """What went wrong, whatever names it quotes."""
    return printable(sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE]}…")

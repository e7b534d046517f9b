"""A file that grows while it is open: what it had stays, what is appended follows."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from runicornfs.catalog.nodes import Kind, Node
from runicornfs.content.contents import never
from runicornfs.content.local import LocalContents
from runicornfs.mount.growing import GrowingReader

LOG = "vision/train/runs/r1/logs.txt"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / LOG
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first\n")
    return path


@pytest.fixture
def contents(tmp_path: Path, log: Path) -> LocalContents:
    return LocalContents(tmp_path)


def node_of(log: Path) -> Node:
    status = log.stat()
    return Node(LOG, 7, Kind.PLAIN, status.st_size, status.st_mtime_ns)


def append(log: Path, text: bytes) -> Node:
    with open(log, "ab") as file:
        file.write(text)
    return node_of(log)


def read(reader: GrowingReader, offset: int = 0, size: int = 1000) -> bytes:
    return reader.read(offset, size, never)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_without_growth_it_ends_where_it_ended(contents: LocalContents, log: Path) -> None:
    reader = GrowingReader(node_of(log), contents)
    append(log, b"not synced\n")
    assert read(reader) == b"first\n"
    assert read(reader, offset=6) == b""
    reader.close()


def test_what_was_appended_follows(contents: LocalContents, log: Path) -> None:
    reader = GrowingReader(node_of(log), contents)
    reader.follow(append(log, b"second\n"))
    assert read(reader, offset=6) == b"second\n"
    assert read(reader) == b"first\nsecond\n"
    assert read(reader, offset=3, size=5) == b"st\nse"
    assert reader.node.size == 13
    reader.close()


def test_bytes_that_were_there_come_from_what_was_opened(contents: LocalContents, log: Path) -> None:
    reader = GrowingReader(node_of(log), contents)
    log.rename(log.with_name("moved"))
    log.write_bytes(b"other\nsecond\n")
    reader.follow(node_of(log))
    assert read(reader) == b"first\nsecond\n"
    reader.close()


def test_many_growths_keep_no_more_than_two_contents_open(contents: LocalContents, log: Path) -> None:
    before = open_descriptors()
    reader = GrowingReader(node_of(log), contents)
    for number in range(20):
        reader.follow(append(log, b"%d\n" % number))
        assert read(reader) == log.read_bytes()
    assert open_descriptors() == before + 2
    reader.close()
    assert open_descriptors() == before


def test_a_growth_that_nobody_reads_opens_nothing(contents: LocalContents, log: Path) -> None:
    reader = GrowingReader(node_of(log), contents)
    before = open_descriptors()
    reader.follow(append(log, b"second\n"))
    assert read(reader, size=6) == b"first\n"
    assert open_descriptors() == before
    reader.close()


@pytest.mark.parametrize("successor", ["nothing", "shorter", "folder"])
def test_what_is_not_the_same_file_grown_ends_the_following(contents: LocalContents, log: Path, successor: str) -> None:
    node = node_of(log)
    reader = GrowingReader(node, contents)
    others = {"nothing": None, "shorter": replace(node, size=2), "folder": replace(node, kind=Kind.DIRECTORY)}
    reader.follow(others[successor])
    reader.follow(append(log, b"second\n"))
    assert read(reader) == b"first\n"
    assert reader.node is node
    reader.close()


def test_the_same_size_with_another_time_is_no_growth(contents: LocalContents, log: Path) -> None:
    node = node_of(log)
    reader = GrowingReader(node, contents)
    reader.follow(replace(node, mtime_ns=node.mtime_ns + 1))
    assert reader.node is node
    reader.follow(append(log, b"second\n"))
    assert read(reader) == b"first\nsecond\n"
    reader.close()

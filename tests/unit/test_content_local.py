"""Contents of a store on this machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from runicornfs.content.contents import CACHED, Freed
from runicornfs.content.identity import Identity
from runicornfs.content.local import LocalContents
from runicornfs.errors import AccessDenied, MissingOnServer, NotFound, Refused, StaleFile

DATA = b"0123456789" * 100


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(DATA)
    return root


@pytest.fixture
def contents(root: Path) -> LocalContents:
    return LocalContents(root)


IDENTITY = Identity("key", "a/b/file", len(DATA), hashlib.sha256(DATA).digest(), None)


def test_files_are_read_where_they_lie(contents: LocalContents) -> None:
    reader = contents.open(IDENTITY)
    assert reader.read(5, 10) == DATA[5:15]
    assert reader.read(len(DATA) - 1, 10) == DATA[-1:]
    assert reader.read(len(DATA), 10) == b""
    assert reader.state == CACHED
    reader.close()
    reader.close()
    status = contents.status()
    assert (status.hits, status.misses, status.hit_ratio, status.bytes_served) == (2, 0, 1.0, 11)


def test_all_of_everything_is_here(contents: LocalContents) -> None:
    cached, state = contents.cached_bytes(["key"])["key"]
    assert min(cached, IDENTITY.size) == IDENTITY.size
    assert state == CACHED
    assert contents.free_bytes() > 0


def test_another_size_is_stale(contents: LocalContents) -> None:
    with pytest.raises(StaleFile):
        contents.open(replace(IDENTITY, size=5))


def test_a_file_without_a_digest_may_have_grown_but_not_changed(contents: LocalContents, root: Path) -> None:
    os.utime(root / IDENTITY.path, (1000, 1000.5))
    log = replace(IDENTITY, sha256=None, mtime_s=1000)
    contents.open(log).close()
    contents.open(replace(log, size=5, mtime_s=900)).close()
    with pytest.raises(StaleFile):
        contents.open(replace(log, mtime_s=999))
    with pytest.raises(StaleFile):
        contents.open(replace(log, size=len(DATA) + 1))


def test_a_file_that_becomes_shorter_while_it_is_open_is_stale(contents: LocalContents, root: Path) -> None:
    reader = contents.open(IDENTITY)
    os.truncate(root / IDENTITY.path, 10)
    assert reader.read(0, 10) == DATA[:10]
    with pytest.raises(StaleFile):
        reader.read(5, 10)
    reader.close()


@pytest.mark.parametrize("path", ["a/b/gone", "a/gone/file"])
def test_what_is_gone_is_missing(contents: LocalContents, path: str) -> None:
    with pytest.raises(MissingOnServer):
        contents.open(replace(IDENTITY, path=path))


def test_links_are_not_followed(contents: LocalContents, root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_bytes(DATA)
    (root / "a" / "out").symlink_to(secret)
    (root / "a" / "link").symlink_to(secret / "file")
    for path in ("a/out/file", "a/link"):
        with pytest.raises(StaleFile):
            contents.open(replace(IDENTITY, path=path))


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(contents: LocalContents, root: Path) -> None:
    os.mkfifo(root / "a" / "pipe")
    with pytest.raises(StaleFile):
        contents.open(replace(IDENTITY, path="a/pipe", size=0))


def test_permissions_are_said(contents: LocalContents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file of mode 0, which root could read all the same."""
    real = os.open

    def refuse(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if path == "file":
            raise PermissionError
        return real(path, flags, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(AccessDenied):
            contents.open(IDENTITY)


def test_no_descriptor_is_left_behind(contents: LocalContents) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("a/b/file", "a/b/gone", "a/gone/x"):
        for size in (5, len(DATA)):
            try:
                contents.open(replace(IDENTITY, path=path, size=size)).close()
            except (StaleFile, MissingOnServer):
                continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_kept_so_there_is_nothing_to_pin_or_check(contents: LocalContents) -> None:
    assert contents.files("size", 10) == []
    assert contents.pins() == []
    assert contents.clear() == contents.cleanup() == Freed(0, 0)
    assert contents.verification().status == "idle"
    with pytest.raises(Refused, match="need not be pinned"):
        contents.pin("model/net:v1", {"key": 1})
    with pytest.raises(NotFound):
        contents.unpin("model/net:v1")
    with pytest.raises(Refused, match="nothing to check"):
        contents.verify()

"""What a content pool saves, read off its links."""

from __future__ import annotations

from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.workspace import localstatistics
from runicornfs.workspace.localstatistics import Pool, read_pool


def test_a_file_in_two_versions_saves_its_size_once(store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"x" * 1000, "b.bin": b"y" * 10})
    store_writer.add_version("model", "net", {"a.bin": b"x" * 1000, "copy.bin": b"x" * 1000})
    assert read_pool(store_writer.pool) == Pool(True, size_bytes=1010, linked_bytes=3010, complete=True)


def test_what_no_version_has_any_more_saves_nothing(store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"x" * 1000})
    store_writer.delete_permanently("model", "net", 1)
    assert read_pool(store_writer.pool) == Pool(True, size_bytes=1000, linked_bytes=0, complete=True)


def test_a_store_without_a_pool_has_none(tmp_path: Path) -> None:
    assert read_pool(tmp_path / "nowhere") == Pool(False, 0, 0, complete=True)


def test_a_link_out_of_the_pool_is_not_followed(store_writer: StoreWriter, tmp_path: Path) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"x" * 1000})
    (tmp_path / "large").write_bytes(bytes(5000))
    (store_writer.pool / "ab").mkdir(exist_ok=True)
    (store_writer.pool / "ab" / "link").symlink_to(tmp_path / "large")
    assert read_pool(store_writer.pool).size_bytes == 1000


def test_a_pool_that_takes_too_long_is_left_uncounted_from_there(
    store_writer: StoreWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"x" * 1000, "b.bin": b"y" * 1000})
    monkeypatch.setattr(localstatistics, "POOL_SECONDS", -1.0)
    assert read_pool(store_writer.pool) == Pool(True, size_bytes=1000, linked_bytes=1000, complete=False)

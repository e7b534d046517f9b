"""Manifests are untrusted: a bad entry is refused and named, the rest works."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import MalformedRecord
from runicornfs.store import records
from runicornfs.store.paths import check_relative
from runicornfs.store.records import Manifest, ManifestFile, Reference, parse_manifest
from tests.stores import file_paths
from tests.unit.observing import entry


def parsed(*files: Any, **fields: Any) -> Manifest:
    return parse_manifest(json.dumps({"files": files} | fields).encode())


def paths_of(manifest: Manifest) -> list[str]:
    return [file.path for file in manifest.files]


def test_a_manifest_is_read() -> None:
    manifest = parsed(
        entry("a/b.bin", 3),
        entry("c", 0, modified_at=None),
        references=[{"uri": "s3://x", "checksum": None, "size": 5, "metadata": {"k": 1}}],
        total_size=8,
        total_files=2,
        total_references=1,
    )
    assert manifest.files == [
        ManifestFile("a/b.bin", 3, bytes(31) + b"\x03", 1.0e9),
        ManifestFile("c", 0, bytes(32), None),
    ]
    assert manifest.references == [Reference("s3://x", None, 5, {"k": 1})]
    assert (manifest.total_size, manifest.total_files, manifest.total_references) == (8, 2, 1)
    assert manifest.problems == []


def test_totals_that_are_missing_are_counted() -> None:
    manifest = parsed(entry("a", 3), entry("b", 4))
    assert (manifest.total_size, manifest.total_files, manifest.total_references) == (7, 2, 0)


@pytest.mark.parametrize("files", [None, {}, "a", 1])
def test_a_manifest_without_a_list_of_files_is_malformed(files: Any) -> None:
    with pytest.raises(MalformedRecord):
        parse_manifest(json.dumps({"files": files}).encode())


@pytest.mark.parametrize(
    "bad",
    [
        None, [], "a", {}, {"path": None, "size": 1},
        *[entry(path) for path in ("", "../up", "/absolute", "a//b", "a/../b", "nul\0", "x" * 256, "\ud800", "a/")],
        *[entry("bad") | {"size": size} for size in (-1, 1.5, 2.0, "3", None, True, 2**62 + 1, 10**300)],
        *[entry("bad", digest=digest) for digest in (
            "", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65, "md5:" + "a" * 32,
            "sha256:" + "a" * 62 + "  ", "sha256:" + "é" * 64, 5, ["sha256:" + "a" * 64])],
    ],
)  # fmt: skip
@pytest.mark.promise("S5")
def test_a_bad_entry_is_refused_and_named_and_the_rest_works(bad: Any) -> None:
    manifest = parsed(entry("first"), bad, entry("last"))
    assert paths_of(manifest) == ["first", "last"]
    assert len(manifest.problems) == 1
    assert "entry 2 of files" in manifest.problems[0]


def test_a_file_may_have_no_digest() -> None:
    assert parsed(entry("a", digest=None)).files[0].digest is None


@pytest.mark.parametrize("modified_at", ["today", 1e300, float("nan"), float("inf"), True, []])
def test_a_time_that_is_none_costs_only_itself(modified_at: Any) -> None:
    manifest = parsed(entry("a", modified_at=modified_at))
    assert (manifest.files[0].modified_at, manifest.problems) == (None, [])


def test_a_second_entry_that_agrees_is_silently_one() -> None:
    manifest = parsed(entry("a", 3), entry("a", 3, modified_at=5.0))
    assert (paths_of(manifest), manifest.problems) == (["a"], [])


@pytest.mark.parametrize(
    "second", [entry("a", 4), entry("a", 3, digest=None), entry("a", 3, digest="sha256:" + "f" * 64)]
)
def test_a_second_entry_that_disagrees_is_refused(second: dict[str, Any]) -> None:
    manifest = parsed(entry("a", 3), second)
    assert manifest.files == parsed(entry("a", 3)).files
    assert "'a' stands there already" in manifest.problems[0]


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b"), ("a", "a/b/c/d")])
def test_of_a_file_and_a_folder_of_one_path_the_first_wins(paths: tuple[str, str]) -> None:
    manifest = parsed(entry(paths[0]), entry(paths[1]))
    assert paths_of(manifest) == [paths[0]]
    assert len(manifest.problems) == 1


def test_a_refused_entry_makes_no_folders() -> None:
    manifest = parsed(entry("a"), entry("b/c"), entry("a/x/y"), entry("b"), entry("x"))
    assert paths_of(manifest) == ["a", "b/c", "x"]


def test_a_manifest_beyond_the_limit_is_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MANIFEST_LIMIT", 100)
    with pytest.raises(MalformedRecord, match="more than the 100"):
        parse_manifest(b'{"files": []}' + b" " * 100)


def test_deep_paths_cannot_ask_for_folders_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "FOLDER_LIMIT", 5)
    manifest = parsed(entry("a/b/c/d"), entry("e/f/g/h"), entry("i"))
    assert paths_of(manifest) == ["a/b/c/d", "i"]
    assert "more than 5 folders" in manifest.problems[0]


def test_a_bad_reference_costs_itself() -> None:
    manifest = parsed(references=[{"uri": 3}, 5, {"uri": "s3://x", "size": -1}, {"uri": "s3://y"}])
    assert [reference.uri for reference in manifest.references] == ["s3://y"]
    assert len(manifest.problems) == 3


@given(st.lists(st.tuples(file_paths(), st.integers(0, 3))))
def test_files_and_folders_never_contradict_each_other(given_files: list[tuple[str, int]]) -> None:
    manifest = parsed(*[entry(path, size) for path, size in given_files])
    paths = paths_of(manifest)
    folders = {path[:at] for path in paths for at, character in enumerate(path) if character == "/"}
    assert len(set(paths)) == len(paths)
    assert not folders & set(paths)
    assert all(check_relative(path) == path for path in paths)
    sizes: dict[str, int] = {}
    for path, size in given_files:
        sizes.setdefault(path, size)
    assert all(sizes[file.path] == file.size for file in manifest.files)

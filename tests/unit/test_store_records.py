"""The records of artifacts and runs: what is tolerated, and what costs itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import MalformedRecord
from runicornfs.store.fields import NUMBER_LIMIT, PROBLEM_LIMIT, parse_object
from runicornfs.store.records import (
    ArtifactUse,
    IndexEntry,
    RunStatus,
    parse_artifact_uses,
    parse_manifest,
    parse_run_meta,
    parse_run_status,
    parse_version_index,
    parse_version_metadata,
    visible_aliases,
)

PARSERS: list[Callable[[bytes], object]] = [
    parse_artifact_uses, parse_manifest, parse_object, parse_run_meta, parse_run_status, parse_version_index,
    parse_version_metadata,
]  # fmt: skip
SAMPLE = {
    "artifact_name": "net",
    "artifact_type": "model",
    "versions": [
        {"version": 1, "created_at": 5, "created_by_run": "r1", "size_bytes": 10, "num_files": 2, "status": "ready",
         "aliases": ["latest"]},
        {"version": 2, "new_field": {}},
    ],
    "aliases": {"latest": 2, "stable": 1},
    "created_at": 1.5,
    "updated_at": 2.5,
}  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()))
NAMES = st.sampled_from(
    ["versions", "aliases", "files", "references", "artifacts", "version", "created_at", "size_bytes", "status",
     "path", "size", "digest", "modified_at", "name", "type", "uri", "metadata", "tags", "used_at"]
)  # fmt: skip
RECORDS = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=6))
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def entries_of(*entries: Any) -> bytes:
    return encoded({"versions": entries})


def test_an_index_is_read_field_by_field() -> None:
    index = parse_version_index(encoded(SAMPLE))
    assert (index.artifact_name, index.artifact_type, index.created_at, index.updated_at) == ("net", "model", 1.5, 2.5)
    assert index.versions == [
        IndexEntry(1, 5.0, "r1", 10, 2, "ready"),
        IndexEntry(2, None, None, None, None, None),
    ]
    assert index.aliases == {"latest": 2, "stable": 1}
    assert index.problems == []


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"nul", b"[]", b"3", b'"x"', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 100_000,
     b'{"a": ' + b"1" * 10_000 + b"}"],
)  # fmt: skip
def test_what_is_no_json_object_is_malformed(parse: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(MalformedRecord):
        parse(data)


@pytest.mark.parametrize("parse", PARSERS)
@given(record=RECORDS)
def test_whatever_json_says_is_read_or_malformed(parse: Callable[[bytes], object], record: Any) -> None:
    try:
        parse(encoded(record))
    except MalformedRecord:
        return


@pytest.mark.parametrize("parse", PARSERS)
@given(data=st.binary(max_size=50))
def test_whatever_bytes_there_are_is_read_or_malformed(parse: Callable[[bytes], object], data: bytes) -> None:
    try:
        parse(data)
    except MalformedRecord:
        return


@pytest.mark.parametrize("versions", [None, {}, "x", 3])
def test_an_index_without_a_list_of_versions_is_malformed(versions: Any) -> None:
    with pytest.raises(MalformedRecord):
        parse_version_index(encoded({"versions": versions}))


@pytest.mark.parametrize(
    "broken",
    [3, None, [], {}, {"version": 0}, {"version": -1}, {"version": True}, {"version": "2"}, {"version": 2.0},
     {"version": 1_000_000_000}, {"version": 2, "size_bytes": -1}, {"version": 2, "size_bytes": "9"},
     {"version": 2, "num_files": NUMBER_LIMIT + 1}, {"version": 2, "created_at": "today"},
     {"version": 2, "created_at": 1e300}, {"version": 2, "created_at": float("nan")}, {"version": 2, "status": 3},
     {"version": 2, "created_by_run": []}],
)  # fmt: skip
def test_a_broken_entry_of_the_index_costs_itself(broken: Any) -> None:
    index = parse_version_index(entries_of({"version": 1}, broken, {"version": 3}))
    assert [entry.version for entry in index.versions] == [1, 3]
    assert len(index.problems) == 1
    assert "entry 2" in index.problems[0]


def test_of_two_entries_with_one_number_the_last_counts() -> None:
    index = parse_version_index(entries_of({"version": 1, "status": "failed"}, {"version": 1, "status": "ready"}))
    assert [entry.status for entry in index.versions] == ["ready"]


def test_half_a_surrogate_pair_in_a_text_becomes_a_question_mark() -> None:
    index = parse_version_index(entries_of({"version": 1, "created_by_run": "run \ud800"}))
    assert index.versions[0].created_by_run == "run ?"


def test_problems_are_counted_beyond_the_limit() -> None:
    index = parse_version_index(entries_of(*[None] * (PROBLEM_LIMIT + 5)))
    assert len(index.problems) == PROBLEM_LIMIT + 1
    assert index.problems[-1] == "and 5 problems more"


@pytest.mark.parametrize("target", [None, "3", 0, True, 1.5, []])
def test_an_alias_that_points_to_no_number_is_left_out_and_named(target: Any) -> None:
    index = parse_version_index(encoded({"versions": [], "aliases": {"best": target, "latest": 1}}))
    assert index.aliases == {"latest": 1}
    assert "'best'" in index.problems[0]


def test_aliases_that_are_no_object_are_a_problem() -> None:
    index = parse_version_index(encoded({"versions": [], "aliases": ["latest"]}))
    assert (index.aliases, len(index.problems)) == ({}, 1)


@pytest.mark.parametrize(
    "name", ["v3", "v1", "versions.json", ".lock", "a/b", "..", ".", "", "x" * 256, "\ud800", "a\0"]
)
def test_an_alias_that_cannot_be_a_link_is_left_out_and_named(name: str) -> None:
    index = parse_version_index(encoded({"versions": [], "aliases": {name: 1, "latest": 1}}))
    visible, problems = visible_aliases(index, {1})
    assert visible == {"latest": 1}
    assert len(problems) == 1


def test_an_alias_of_a_version_that_is_not_shown_is_left_out_without_a_word() -> None:
    index = parse_version_index(encoded({"versions": [], "aliases": {"v9": 2, "stable": 2, "latest": 1}}))
    assert visible_aliases(index, {1}) == ({"latest": 1}, [])


def test_metadata_is_read_and_what_is_odd_in_it_is_nothing() -> None:
    metadata = parse_version_metadata(
        encoded({"name": "net", "version": 3, "size_bytes": -1, "tags": ["a", 3], "metadata": [], "created_at": 1})
    )
    assert (metadata.name, metadata.version, metadata.size_bytes, metadata.tags) == ("net", 3, None, ["a"])
    assert (metadata.metadata, metadata.created_at, metadata.description) == ({}, 1.0, None)


def test_the_status_of_a_run_is_read() -> None:
    data = encoded({"status": "running", "started_at": 1.5, "ended_at": None})
    assert parse_run_status(data) == RunStatus("running", 1.5, None)


def test_a_use_of_an_artifact_is_read_with_its_time_whether_created_or_used() -> None:
    made = {"name": "net", "type": "model", "version": 2, "size_bytes": 5, "num_files": 1}
    data = encoded({"artifacts": [made | {"created_at": 1.5}, made | {"used_at": 2.5}, {"name": "net"}]})
    uses = parse_artifact_uses(data)
    assert uses.uses == [
        ArtifactUse("net", "model", 2, 1.5, 5, 1, None),
        ArtifactUse("net", "model", 2, 2.5, 5, 1, None),
    ]
    assert "entry 3" in uses.problems[0]

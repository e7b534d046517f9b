"""Answers have the types that the description promises, whatever stands in the server's records."""

from __future__ import annotations

from runicornfs.api.artifacts import VersionAnswer
from runicornfs.api.requests import answer

RECORD = {"name": "net", "version": 3, "created_at": 1.5, "tags": ["a"], "aliases": ["best"], "framework": {"v": 2}}


def test_a_version_is_answered_as_its_record_has_it() -> None:
    told = VersionAnswer.model_validate(RECORD).model_dump()
    assert told | RECORD == told
    assert (told["description"], told["status"]) == (None, None)


def test_a_field_of_a_wrong_type_is_null() -> None:
    odd = {
        "name": ["net"],
        "version": "three",
        "created_at": "yesterday",
        "tags": [1, "a"],
        "metadata": [],
        "aliases": [],
    }
    told = VersionAnswer.model_validate(odd).model_dump()
    assert [told[field] for field in ("name", "version", "created_at", "tags", "metadata")] == [None] * 5


def test_text_that_is_no_unicode_does_no_harm() -> None:
    told = VersionAnswer.model_validate({"name": "odd\udcff", "note": "odd\udcff", "aliases": ["odd\udcff"]})
    assert told.aliases == ["odd\udcff"]
    assert b'"note": "odd\\udcff"' in answer(told).body

"""What edits make of records: which file changes, what stays, what is refused."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.store import edits
from runicornfs.store.edits import EditRefused, Plan, State, check_alias, check_tags, encoded, plan

NOW = 1_800_000_000.25


def index(statuses: dict[int, str], aliases: dict[str, Any], **more: Any) -> dict[str, Any]:
    versions = [{"version": number, "status": status, "aliases": ["latest"]} for number, status in statuses.items()]
    return {"artifact_name": "net", "versions": versions, "aliases": aliases, "updated_at": 1.0} | more


def state(
    record: dict[str, Any] | bytes | None,
    *,
    metadata: dict[str, Any] | None = None,
    folders: Collection[int] = (1, 2, 3),
    marked: Collection[int] = (),
) -> State:
    content = encoded(record) if isinstance(record, dict) else record
    return State(content, None if metadata is None else encoded(metadata), folders, marked)


THREE = index({1: "ready", 2: "ready", 3: "ready"}, {"latest": 3, "best": 3, "stable": 1})


def made(action: str, before: State, version: int = 3, **more: Any) -> Plan:
    return plan({"action": action, "version": version, **more}, "net", before, NOW)


def record(wanted: Plan) -> dict[str, Any]:
    assert wanted.content is not None
    found: dict[str, Any] = json.loads(wanted.content)
    return found


def refusal(action: str, before: State, version: int = 3, **more: Any) -> str:
    with pytest.raises(EditRefused) as refused:
        made(action, before, version, **more)
    return refused.value.code


def test_a_soft_delete_writes_the_marker_and_nothing_else() -> None:
    wanted = made(edits.DELETE, state(THREE))
    assert (wanted.path, wanted.removes_folder) == ("v3/.deleted", False)
    assert (
        wanted.content == b'{"deleted_at": 1800000000.25, "deleted_by": "user", "version": 3, "artifact_name": "net"}'
    )


def test_a_version_that_is_deleted_already_is_left_as_it_is() -> None:
    assert made(edits.DELETE, state(THREE, marked=[3])).path is None


def test_a_restore_removes_the_marker() -> None:
    wanted = made(edits.RESTORE, state(THREE, marked=[3]))
    assert (wanted.path, wanted.content) == ("v3/.deleted", None)
    assert refusal(edits.RESTORE, state(THREE)) == "conflict"


def test_a_permanent_delete_keeps_the_entry_so_that_no_number_is_used_twice() -> None:
    wanted = made(edits.DELETE_FOR_GOOD, state(THREE))
    assert (wanted.path, wanted.removes_folder) == ("versions.json", True)
    after = record(wanted)
    assert [(entry["version"], entry["status"]) for entry in after["versions"]] == [
        (1, "ready"), (2, "ready"), (3, "deleted"),
    ]  # fmt: skip
    assert after["updated_at"] == NOW


def test_latest_moves_to_the_newest_version_left_and_other_aliases_go() -> None:
    assert record(made(edits.DELETE_FOR_GOOD, state(THREE)))["aliases"] == {"latest": 2, "stable": 1}


def test_latest_does_not_move_to_a_version_that_is_deleted_or_unfinished() -> None:
    before = index({1: "ready", 2: "ready", 3: "ready", 4: "pending"}, {"latest": 3})
    after = record(made(edits.DELETE_FOR_GOOD, state(before, marked=[2], folders=[1, 2, 3, 4])))
    assert after["aliases"] == {"latest": 1}
    last = record(made(edits.DELETE_FOR_GOOD, state(before, marked=[2], folders=[2, 3])))
    assert last["aliases"] == {}, "there is no version left that it could mean"


def test_aliases_of_other_versions_stay() -> None:
    after = record(made(edits.DELETE_FOR_GOOD, state(THREE), version=1))
    assert after["aliases"] == {"latest": 3, "best": 3}


def test_a_permanent_delete_that_was_cut_off_can_be_completed() -> None:
    before = index({1: "ready", 3: "deleted"}, {"latest": 1})
    wanted = made(edits.DELETE_FOR_GOOD, state(before))
    assert (wanted.path, wanted.removes_folder) == (None, True)
    assert refusal(edits.DELETE_FOR_GOOD, state(before, folders=[1])) == "not_found"


def test_what_was_deleted_for_good_is_not_there_for_any_edit() -> None:
    before = state(index({1: "ready", 3: "deleted"}, {}), metadata={}, folders=[1, 3])
    assert refusal(edits.DELETE, before) == "not_found"
    assert refusal(edits.RESTORE, before) == "not_found"
    assert refusal(edits.SET_ALIAS, before, alias="best") == "not_found"
    assert refusal(edits.ADD_TAGS, before, tags=["x"]) == "not_found"


def test_an_alias_moves() -> None:
    after = record(made(edits.SET_ALIAS, state(THREE), version=2, alias="stable"))
    assert after["aliases"] == {"latest": 3, "best": 3, "stable": 2}
    assert made(edits.SET_ALIAS, state(THREE), version=1, alias="stable").path is None


def test_an_alias_is_refused_on_a_version_that_is_deleted_missing_or_unfinished() -> None:
    assert refusal(edits.SET_ALIAS, state(THREE, marked=[3]), alias="best") == "conflict"
    assert refusal(edits.SET_ALIAS, state(THREE), version=9, alias="best") == "not_found"
    assert refusal(edits.SET_ALIAS, state(THREE, folders=[1, 2]), alias="best") == "not_found"
    assert refusal(edits.SET_ALIAS, state(index({3: "uploading"}, {})), alias="best") == "conflict"


def test_an_alias_is_removed_whatever_its_name_is() -> None:
    before = index({3: "ready"}, {"latest": 3, "an odd/one\n": 3})
    assert record(made(edits.REMOVE_ALIAS, state(before), 0, alias="an odd/one\n"))["aliases"] == {"latest": 3}
    assert refusal(edits.REMOVE_ALIAS, state(before), 0, alias="best") == "not_found"
    assert refusal(edits.REMOVE_ALIAS, state(before), 0, alias="latest") == "invalid_input"


@pytest.mark.parametrize("alias", ["production", "v", "v3a", "V3", "3", "-rf", ".hidden", "a" * 128, "1.0.0", "..."])
def test_these_can_be_aliases(alias: str) -> None:
    check_alias(alias)


@pytest.mark.parametrize(
    "alias",
    ["", ".", "..", "v3", "v0", "v03", "a/b", "a b", "a\n", "é", "a" * 129, "versions.json", ".lock", "$x", "x\0",
     ".runicornfs-edit.tmp"],
)  # fmt: skip
def test_these_cannot_be_aliases(alias: str) -> None:
    with pytest.raises(EditRefused) as refused:
        check_alias(alias)
    assert refused.value.code == "invalid_input"


def test_tags_are_added_once_and_in_order() -> None:
    before = state(THREE, metadata={"tags": ["old"], "version": 3})
    wanted = made(edits.ADD_TAGS, before, tags=["new", "old", "new", "l'été $HOME"])
    assert wanted.path == "v3/metadata.json"
    assert record(wanted) == {"tags": ["old", "new", "l'été $HOME"], "version": 3, "updated_at": NOW}
    assert made(edits.ADD_TAGS, before, tags=["old"]).path is None


def test_tags_are_removed() -> None:
    before = state(THREE, metadata={"tags": ["a", "b", 7]})
    assert record(made(edits.REMOVE_TAGS, before, tags=["a"]))["tags"] == ["b", 7]
    assert refusal(edits.REMOVE_TAGS, before, tags=["a", "c"]) == "not_found"


@pytest.mark.parametrize("tags", [[], [""], ["a\nb"], ["x" * 257], ["\ud800"]])
def test_these_cannot_be_tags(tags: list[str]) -> None:
    with pytest.raises(EditRefused):
        check_tags(tags)


def test_a_version_has_a_bounded_number_of_tags() -> None:
    many = [str(number) for number in range(edits.TAGS_LIMIT)]
    assert made(edits.ADD_TAGS, state(THREE, metadata={}), tags=many).path is not None
    assert refusal(edits.ADD_TAGS, state(THREE, metadata={}), tags=[*many, "one more"]) == "conflict"


def test_an_index_that_cannot_be_read_stops_what_needs_it_and_nothing_else() -> None:
    before = state(None, metadata={"tags": []})
    assert made(edits.DELETE, before).path == "v3/.deleted"
    assert made(edits.ADD_TAGS, before, tags=["x"]).path == "v3/metadata.json"
    assert refusal(edits.SET_ALIAS, before, alias="best") == "access_denied"
    assert refusal(edits.DELETE_FOR_GOOD, before) == "access_denied"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff{}", b'{"versions": 3}', b"[" * 100_000])
def test_a_malformed_index_is_left_as_it_is(content: bytes) -> None:
    assert refusal(edits.SET_ALIAS, state(content), alias="best") == "malformed_record"


def test_entries_that_make_no_sense_are_kept() -> None:
    odd = index({3: "ready"}, {"latest": 3, "odd": "x"}, versions=[7, {"version": True}, {"version": 3}], aliased=None)
    after = record(made(edits.SET_ALIAS, state(odd), alias="best"))
    assert after["versions"] == [7, {"version": True}, {"version": 3}]
    assert after["aliases"] == {"latest": 3, "odd": "x", "best": 3}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text().filter(lambda name: name not in ("tags", "updated_at")), values, max_size=5))
def test_fields_that_are_not_known_stay_as_they_are(fields: dict[str, Any]) -> None:
    after = record(made(edits.ADD_TAGS, state(THREE, metadata=fields), tags=["x"]))
    assert after == fields | {"tags": ["x"], "updated_at": NOW}


def test_json_is_written_as_the_sdk_writes_it() -> None:
    assert encoded({"note": "été", "list": [1]}) == '{\n  "note": "été",\n  "list": [\n    1\n  ]\n}'.encode()
    assert json.loads(encoded({"half a pair": "\ud800"})) == {"half a pair": "\ud800"}

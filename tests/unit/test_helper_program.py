"""What the walk over a store sees, tells and leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from runicornfs.remote import helper_program
from runicornfs.remote.helper_program import scan
from runicornfs.remote.walk import ALIVE, DIRECTORY, DOCUMENT, FILE, GONE, PLAN, WARNING, StoreMissing

Event = tuple[object, ...]


def put(root: Path, path: str, content: bytes = b"{}") -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in (
        "runicorn.db",
        "artifacts/.dedup/ab/abcd",
        "artifacts/model/net/versions.json",
        "artifacts/model/net/.lock",
        "artifacts/model/net/v1/metadata.json",
        "artifacts/model/net/v1/manifest.json",
        "artifacts/model/net/v1/files/big.bin",
        "vision/train/runs/r1/meta.json",
        "vision/train/runs/r1/logs.txt",
        "vision/train/runs/r1/media/a.png",
        "backup/huge/file",
    ):
        put(tmp_path, path)
    return tmp_path


def events(root: Path, known: dict[bytes, bytes] | None = None) -> list[Event]:
    return list(scan(os.fsencode(root), {} if known is None else dict(known)))


def state(found: list[Event]) -> dict[bytes, bytes]:
    return {event[1]: event[2] for event in found if event[0] in (DOCUMENT, FILE, DIRECTORY)}  # type: ignore[misc]


def paths(found: list[Event], kind: int) -> list[str]:
    return sorted(os.fsdecode(event[1]) for event in found if event[0] == kind)  # type: ignore[arg-type]


def test_only_the_small_json_travels(root: Path) -> None:
    assert paths(events(root), DOCUMENT) == [
        "artifacts/model/net/v1/manifest.json",
        "artifacts/model/net/v1/metadata.json",
        "artifacts/model/net/versions.json",
        "vision/train/runs/r1/meta.json",
    ]


def test_the_rest_of_a_run_is_listed_and_contents_of_artifacts_are_not(root: Path) -> None:
    assert paths(events(root), FILE) == [
        "artifacts/model/net/.lock",
        "vision/train/runs/r1/logs.txt",
        "vision/train/runs/r1/media/a.png",
    ]


def test_a_second_walk_has_nothing_to_tell(root: Path) -> None:
    assert events(root, state(events(root))) == [(PLAN, 0, 0)]


def test_the_plan_counts_what_follows_it(root: Path) -> None:
    found = events(root)
    at = next(index for index, event in enumerate(found) if event[0] == PLAN)
    following = [event for event in found[at + 1 :] if event[0] == DOCUMENT]
    assert found[at] == (PLAN, len(following), sum(event[3] for event in following))  # type: ignore[misc]


def test_what_was_removed_is_gone(root: Path) -> None:
    known = state(events(root))
    (root / "vision/train/runs/r1/media/a.png").unlink()
    assert paths(events(root, known), GONE) == ["vision/train/runs/r1/media/a.png"]


def test_a_change_without_a_change_of_size_is_seen(root: Path) -> None:
    path = root / "artifacts/model/net/versions.json"
    known = state(events(root))
    before = path.stat()
    path.write_bytes(b"[]")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert paths(events(root, known), DOCUMENT) == ["artifacts/model/net/versions.json"]


def test_a_document_carries_exactly_its_bytes(root: Path) -> None:
    content = json.dumps({"name": "né"}).encode()
    put(root, "artifacts/model/net/versions.json", content)
    sent = {event[1]: event[5] for event in events(root) if event[0] == DOCUMENT}
    assert sent[b"artifacts/model/net/versions.json"] == content


def test_a_small_document_costs_little_memory(root: Path) -> None:
    tracemalloc.start()
    try:
        events(root)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_links_are_named_and_not_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    put(outside, "versions.json", b"secret")
    (root / "artifacts/model/link").symlink_to(outside)
    (root / "artifacts/model/net/v1/.deleted").symlink_to(outside / "versions.json")
    (root / "vision/train/runs/r1/media/b.png").symlink_to(outside / "versions.json")
    found = events(root)
    assert paths(found, WARNING) == [
        "artifacts/model/link",
        "artifacts/model/net/v1/.deleted",
        "vision/train/runs/r1/media/b.png",
    ]
    assert b"secret" not in [event[5] for event in found if event[0] == DOCUMENT]


def test_a_pipe_in_a_run_holds_nothing_up(root: Path) -> None:
    os.mkfifo(root / "vision/train/runs/r1/status.json")
    assert paths(events(root), WARNING) == ["vision/train/runs/r1/status.json"]


def test_a_folder_that_cannot_be_listed_deletes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = state(events(root))
    real = os.scandir

    def refuse(path: bytes) -> object:
        if path.endswith(b"/media") or path.endswith(b"/v1"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = events(root, known)
    assert paths(found, GONE) == []
    assert paths(found, WARNING) == ["artifacts/model/net/v1", "vision/train/runs/r1/media"]


def test_a_document_that_cannot_be_read_keeps_its_old_state(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = state(events(root))
    put(root, "vision/train/runs/r1/meta.json", b'{"changed": 1}')
    real = os.open

    def refuse(path: bytes, flags: int) -> int:
        if path.endswith(b"meta.json"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    found = events(root, known)
    assert paths(found, WARNING) == ["vision/train/runs/r1/meta.json"]
    assert paths(found, GONE) == []


def test_a_missing_root_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="no folder"):
        events(tmp_path / "nowhere")


def test_a_store_whose_artifacts_vanished_deleted_nothing(root: Path) -> None:
    known = state(events(root))
    (root / "artifacts").rename(root.parent / "elsewhere")
    with pytest.raises(StoreMissing, match="no artifacts folder"):
        events(root, known)


@pytest.mark.parametrize("there", [[], ["lost+found"], [".snapshot"]])
def test_a_store_of_runs_of_which_nothing_is_left_deleted_nothing(tmp_path: Path, there: list[str]) -> None:
    """A file system that is not mounted leaves an empty folder, or one with what some other one has."""
    put(tmp_path / "store", "vision/train/runs/r1/meta.json")
    known = state(events(tmp_path / "store"))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    (tmp_path / "store").mkdir()
    for name in there:
        (tmp_path / "store" / name).mkdir()
    with pytest.raises(StoreMissing, match="is empty now"):
        events(tmp_path / "store", known)


@pytest.mark.promise("S7")
def test_artifacts_on_a_file_system_of_their_own_that_is_away_are_not_deleted(root: Path) -> None:
    known = state(events(root))
    shutil.rmtree(root / "artifacts")
    (root / "artifacts/.dedup").mkdir(parents=True)
    with pytest.raises(StoreMissing, match="artifacts is empty now"):
        events(root, known)


def test_the_only_project_may_get_another_name(tmp_path: Path) -> None:
    put(tmp_path, "vision/train/runs/r1/meta.json")
    known = state(events(tmp_path))
    (tmp_path / "vision").rename(tmp_path / "speech")
    found = events(tmp_path, known)
    assert paths(found, DOCUMENT) == ["speech/train/runs/r1/meta.json"]
    assert "vision/train/runs/r1/meta.json" in paths(found, GONE)


def test_a_project_and_a_type_that_are_deleted_are_gone_while_others_stay(root: Path) -> None:
    put(root, "second/train/runs/r1/meta.json")
    put(root, "artifacts/dataset/d/versions.json")
    known = state(events(root))
    shutil.rmtree(root / "second")
    shutil.rmtree(root / "artifacts/dataset")
    gone = paths(events(root, known), GONE)
    assert "second/train/runs/r1/meta.json" in gone
    assert "artifacts/dataset/d/versions.json" in gone
    assert not any(path.startswith(("artifacts/model", "vision")) for path in gone)


def test_older_stores_with_runs_and_sweeps_at_the_root(tmp_path: Path) -> None:
    put(tmp_path, "runs/r1/meta.json")
    put(tmp_path, "sweeps/s1/config.yaml")
    put(tmp_path, "notes/readme")
    found = events(tmp_path)
    assert paths(found, DOCUMENT) == ["runs/r1/meta.json"]
    assert paths(found, FILE) == ["sweeps/s1/config.yaml"]
    assert paths(found, DIRECTORY) == ["runs/r1", "sweeps", "sweeps/s1"]


def test_a_long_walk_shows_that_it_is_alive(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = state(events(root))
    monkeypatch.setattr(helper_program, "ALIVE_EVERY_S", 0.0)
    found = events(root, known)
    assert {event[0] for event in found} == {ALIVE, PLAN}


def test_names_in_odd_encodings_survive(tmp_path: Path) -> None:
    odd = os.path.join(os.fsencode(tmp_path), b"p", b"e", b"runs", b"r\xff\n 1")
    os.makedirs(odd)
    with open(os.path.join(odd, b"logs.txt"), "wb") as file:
        file.write(b"x")
    found = events(tmp_path)
    assert Counter(event[0] for event in found) == {DIRECTORY: 1, FILE: 1, PLAN: 1}
    header = helper_program.header_of(next(event for event in found if event[0] == FILE))
    assert os.fsencode(json.loads(json.dumps(header))[0]) == b"p/e/runs/r\xff\n 1/logs.txt"


def test_paths_travel_as_utf8_whatever_the_locale_of_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsdecode", lambda path: path.decode("latin-1"))
    path = "runs/caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()
    assert helper_program.header_of((GONE, path)) == ["runs/caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
    assert helper_program.header_of((GONE, b"runs/\xe9")) == ["runs/\udce9"]

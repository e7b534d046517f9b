"""How a sync's result becomes what the catalog shows: all at once, and with exactly what changed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runicornfs.catalog import changed, history, manifests
from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import Kind, inode_of
from runicornfs.catalog.update import STAGED_ENTRIES
from runicornfs.catalog.writer import NodeWriter
from runicornfs.errors import UnsafePath
from runicornfs.store import records
from runicornfs.store.observed import Observed
from runicornfs.store.records import Manifest, parse_manifest
from tests.unit.observing import a_version, apply, directory, document, entry, index, manifest, plain_file, tree

NET = "artifacts/model/net"
INDEX = f"{NET}/versions.json"
RUN = "vision/train/runs/r1"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(tmp_path / "index.db")
    yield catalog
    catalog.close()


def names(catalog: Catalog, path: str) -> list[str]:
    return [name for name, _ in catalog.children(path)]


def two_versions(aliases: dict[str, int] | None = None, second: str = "ready") -> list[Observed]:
    return [document(INDEX, index({1: "ready", 2: second}, aliases)), *a_version(f"{NET}/v1"), *a_version(f"{NET}/v2")]


def rows_of(catalog: Catalog, table: str) -> int:
    with catalog._database.reader() as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# What is staged


def test_what_is_staged_is_known_and_not_shown(catalog: Catalog) -> None:
    with catalog.update() as update:
        update.stage(plain_file(f"{RUN}/logs.txt", token=b"x"))
        assert list(update.known()) == [(f"{RUN}/logs.txt".encode(), b"x")]
        assert catalog.children("") == []


def test_what_is_known_is_ordered_by_bytes_with_the_staged_on_top(catalog: Catalog) -> None:
    apply(catalog, *(plain_file(f"runs/{name}", token=b"old") for name in ("a", "b", "é", "c/d", "c.")))
    with catalog.update() as update:
        update.stage(plain_file("runs/b", token=b"new"))
        update.stage(plain_file("runs/z", token=b"new"))
        update.gone("runs/a")
        assert list(update.known()) == [
            (b"runs/b", b"new"),
            (b"runs/c.", b"old"),
            (b"runs/c/d", b"old"),
            (b"runs/z", b"new"),
            ("runs/é".encode(), b"old"),
        ]


def test_a_sync_that_breaks_off_keeps_what_it_received(catalog: Catalog) -> None:
    def sync() -> None:
        with catalog.update() as update:
            for item in two_versions():
                update.stage(item)
            raise KeyError

    with pytest.raises(KeyError):
        sync()
    assert catalog.children("") == []
    with catalog.update() as update:
        assert len(list(update.known())) == 5
        update.apply()
    assert names(catalog, NET) == ["v1", "v2", "versions.json"]


def test_what_was_staged_survives_a_restart(catalog: Catalog, tmp_path: Path) -> None:
    with catalog.update() as update:
        update.stage(plain_file(f"{RUN}/logs.txt"))
    again = Catalog.open(tmp_path / "index.db")
    with again.update() as update:
        update.apply()
    assert names(again, RUN) == ["logs.txt"]
    again.close()


def test_many_entries_are_committed_on_the_way(catalog: Catalog) -> None:
    with catalog.update() as update:
        for number in range(STAGED_ENTRIES + 1):
            update.stage(plain_file(f"{RUN}/{number}"))
        assert rows_of(catalog, "staged") == STAGED_ENTRIES


def test_a_large_document_is_committed_at_once(catalog: Catalog) -> None:
    with catalog.update() as update:
        update.stage(document(f"{RUN}/summary.json", b"x" * 5_000_000))
        assert rows_of(catalog, "staged") == 1


def test_an_unsafe_path_is_refused(catalog: Catalog) -> None:
    with catalog.update() as update:
        with pytest.raises(UnsafePath):
            update.stage(plain_file("runs/../../etc/passwd"))
        with pytest.raises(UnsafePath):
            update.gone("/etc/passwd")


def test_one_update_waits_for_the_other(catalog: Catalog) -> None:
    order = []

    def other() -> None:
        with catalog.update():
            order.append("second")

    with catalog.update() as update:
        thread = threading.Thread(target=other)
        thread.start()
        update.stage(plain_file("runs/r/a"))
        update.apply()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_known_can_be_read_in_another_thread_while_the_first_stages(catalog: Catalog) -> None:
    apply(catalog, *(plain_file(f"runs/r/{number:04}") for number in range(2000)))
    with catalog.update() as update:
        known = update.known()
        seen = [next(known)]
        thread = threading.Thread(target=lambda: seen.extend(known))
        for number in range(1000):
            update.stage(plain_file(f"runs/r/{number:04}", token=b"2"))
        thread.start()
        for number in range(1000, 2000):
            update.stage(plain_file(f"runs/r/{number:04}", token=b"2"))
        thread.join()
        assert len(seen) == 2000
        assert {token for _, token in seen} == {b"1"}


# What apply reports


def test_nothing_staged_is_nothing_written(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    generation = catalog.generation
    with catalog.update() as update:
        before = catalog._database.writer.total_changes
        changes = update.apply()
        assert catalog._database.writer.total_changes == before
    assert (changes.changed_paths, changes.documents_changed, changes.problems) == ([], [], [])
    assert catalog.generation == generation


def test_a_new_token_of_the_same_content_changes_nothing(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    before = tree(catalog)
    again = [document(INDEX, index({1: "ready", 2: "ready"}), b"2"), *a_version(f"{NET}/v1", token=b"2")]
    changes = apply(catalog, *again)
    assert (changes.changed_paths, changes.documents_changed) == ([], [])
    assert tree(catalog) == before
    assert dict(catalog.documents()).keys() == {path for path, _ in catalog.documents()}
    assert rows_of(catalog, "documents") == 5


def test_everything_that_came_is_reported_with_the_folders_that_list_it(catalog: Catalog) -> None:
    changes = apply(catalog, document(INDEX, index({1: "ready"})), *a_version(f"{NET}/v1"))
    assert set(changes.changed_paths) == {"", *tree(catalog)}
    assert len(set(changes.changed_paths)) == len(changes.changed_paths)


def test_only_what_differs_is_reported(catalog: Catalog) -> None:
    apply(catalog, *two_versions({"latest": 1}))
    changes = apply(catalog, document(INDEX, index({1: "ready", 2: "ready"}, {"latest": 2}), b"2"))
    assert set(changes.changed_paths) == {INDEX, f"{NET}/latest"}
    assert [path for path, _ in changes.documents_changed] == [INDEX]


def test_a_version_that_goes_is_reported_with_all_below_it(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    before = set(tree(catalog, f"{NET}/v2"))
    changes = apply(catalog, document(f"{NET}/v2/.deleted", {}))
    assert before | {f"{NET}/v2", NET} == set(changes.changed_paths)
    assert changes.documents_changed == [(f"{NET}/v2/.deleted", dict(catalog.documents())[f"{NET}/v2/.deleted"])]


def test_documents_that_went_are_reported(catalog: Catalog) -> None:
    apply(catalog, document(f"{RUN}/meta.json", {}), plain_file(f"{RUN}/logs.txt"))
    changes = apply(catalog, gone=(f"{RUN}/meta.json", f"{RUN}/logs.txt"))
    assert changes.documents_changed == [(f"{RUN}/meta.json", None)]
    assert rows_of(catalog, "documents") == 0


def test_a_generation_is_seen_no_later_than_its_snapshot(catalog: Catalog) -> None:
    before = catalog.generation
    apply(catalog, plain_file(f"{RUN}/logs.txt"))
    assert catalog.generation > before


def test_an_exception_rolls_back_and_the_next_apply_has_it_all(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(catalog, *two_versions())
    before, totals, generation = tree(catalog), catalog.totals(), catalog.generation

    def fail(*_: object) -> None:
        raise KeyError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(NodeWriter, "refresh_ancestors", fail)
        with pytest.raises(KeyError):
            apply(catalog, *a_version(f"{NET}/v2", {"other.bin": 1}, b"2"), gone=(f"{NET}/v1/metadata.json",))
    assert (tree(catalog), catalog.totals(), catalog.generation) == (before, totals, generation)
    apply(catalog)
    assert names(catalog, NET) == ["v2", "versions.json"]
    assert names(catalog, f"{NET}/v2/files") == ["other.bin"]


def test_a_reader_keeps_its_snapshot(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    listing = catalog.documents()
    first = next(listing)
    apply(catalog, gone=tuple(path for path, _ in [*catalog.documents()]))
    assert len([first, *listing]) == 5
    assert catalog.children("") == []


@pytest.mark.promise("S1")
def test_readers_see_the_old_snapshot_or_the_new_one(catalog: Catalog) -> None:
    apply(catalog, *two_versions({"latest": 2}))
    with_both, with_one = ["latest", "v1", "v2", "versions.json"], ["v1", "versions.json"]
    seen: list[list[str]] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.append(names(catalog, NET))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(30):
        apply(catalog, document(f"{NET}/v2/.deleted", {}))
        apply(catalog, gone=(f"{NET}/v2/.deleted",))
    ended.set()
    for reader in readers:
        reader.join()
    assert all(listing in (with_both, with_one) for listing in seen)


# A whole sync


def test_seeing_the_same_again_changes_nothing(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    before = dict(catalog.documents())
    with catalog.update() as update:
        for item in two_versions():
            update.stage(item)
        changes = update.apply()
    assert (changes.changed_paths, changes.documents_changed) == ([], [])
    assert dict(catalog.documents()) == before


def test_the_time_of_a_sync_is_kept_even_where_nothing_changed(catalog: Catalog) -> None:
    with catalog.update() as update:
        update.apply(last_sync=1795385482.25)
    assert catalog.last_sync() == 1795385482.25


def test_a_sync_that_finds_nothing_new_writes_nothing(catalog: Catalog, tmp_path: Path) -> None:
    def sync(*items: Observed) -> None:
        with catalog.update() as update:
            assert update.known() is not None
            for item in items:
                update.stage(item)
            update.notice("vision: cannot be listed")
            update.apply(last_sync=1.0)

    sync(*two_versions())
    files = [path for path in tmp_path.iterdir() if not path.name.endswith("-shm")]  # that is shared memory
    before = [(path.name, path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    sync()
    assert before == [(path.name, path.stat().st_mtime_ns, path.read_bytes()) for path in files]


def test_notices_are_problems_until_the_next_whole_sync(catalog: Catalog) -> None:
    with catalog.update() as update:
        update.notice("runs/r1/meta.json: cannot be read\n\ud800")
        assert update.apply(last_sync=1.0).problems == ["runs/r1/meta.json: cannot be read\\n\\ud800"]
    apply(catalog, plain_file("runs/r1/a"))
    assert catalog.problems() == ["runs/r1/meta.json: cannot be read\\n\\ud800"]
    with catalog.update() as update:
        update.apply(last_sync=2.0)
    assert catalog.problems() == []


# Which versions are shown


@pytest.mark.parametrize("status", ["ready", "", "archived", None])
def test_a_version_in_a_state_that_says_nothing_else_is_shown(catalog: Catalog, status: Any) -> None:
    apply(catalog, document(INDEX, {"versions": [{"version": 1, "status": status}]}), *a_version(f"{NET}/v1"))
    assert names(catalog, NET) == ["v1", "versions.json"]


@pytest.mark.parametrize("status", ["pending", "uploading", "failed", "deleted"])
def test_a_version_that_is_not_finished_or_is_no_more_is_not_shown(catalog: Catalog, status: str) -> None:
    apply(catalog, *two_versions(second=status))
    assert names(catalog, NET) == ["v1", "versions.json"]


def test_a_version_that_the_index_does_not_name_is_not_shown(catalog: Catalog) -> None:
    changes = apply(catalog, document(INDEX, index({1: "ready"})), *a_version(f"{NET}/v1"), *a_version(f"{NET}/v2"))
    assert names(catalog, NET) == ["v1", "versions.json"]
    assert changes.problems == []
    apply(catalog, document(INDEX, index({1: "ready", 2: "ready"}), b"2"))
    assert names(catalog, NET) == ["v1", "v2", "versions.json"]


@pytest.mark.parametrize("missing", ["metadata.json", "manifest.json"])
def test_a_version_without_its_documents_is_left_out_and_named(catalog: Catalog, missing: str) -> None:
    changes = apply(catalog, *(item for item in two_versions() if item.path != f"{NET}/v2/{missing}"))
    assert names(catalog, NET) == ["v1", "versions.json"]
    assert changes.problems == catalog.problems()
    assert len(changes.problems) == 1
    assert f"{NET}/v2" in changes.problems[0]
    assert missing in changes.problems[0]


@pytest.mark.parametrize("name", ["metadata.json", "manifest.json"])
def test_a_version_with_a_malformed_document_is_left_out_and_named(catalog: Catalog, name: str) -> None:
    apply(catalog, *two_versions())
    changes = apply(catalog, document(f"{NET}/v2/{name}", b"{", b"2"))
    assert names(catalog, NET) == ["v1", "versions.json"]
    assert f"{NET}/v2/{name}" in changes.problems[0]
    changes = apply(catalog, *a_version(f"{NET}/v2", token=b"3"))
    assert names(catalog, NET) == ["v1", "v2", "versions.json"]
    assert catalog.problems() == []


def test_a_manifest_beyond_the_limit_is_refused_and_named(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MANIFEST_LIMIT", 10)
    changes = apply(catalog, *two_versions())
    assert names(catalog, NET) == ["versions.json"]
    assert "that a manifest may have" in changes.problems[0]


def test_a_version_is_restored_when_its_marker_goes(catalog: Catalog) -> None:
    apply(catalog, *two_versions(), document(f"{NET}/v2/.deleted", {}))
    assert names(catalog, NET) == ["v1", "versions.json"]
    apply(catalog, gone=(f"{NET}/v2/.deleted",))
    assert names(catalog, NET) == ["v1", "v2", "versions.json"]
    assert ".deleted" not in names(catalog, f"{NET}/v2")


def test_a_version_number_can_come_back_with_other_bytes(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    old = catalog.lookup(f"{NET}/v2/files/w.bin")
    changes = apply(catalog, *a_version(f"{NET}/v2", {"w.bin": 8}, b"2"))
    new = catalog.lookup(f"{NET}/v2/files/w.bin")
    assert old is not None
    assert new is not None
    assert old.inode == new.inode
    assert (old.digest, new.digest) == (bytes(31) + b"\x07", bytes(31) + b"\x08")
    assert f"{NET}/v2/files/w.bin" in changes.changed_paths


def test_an_untouched_version_is_not_read_again(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(catalog, *two_versions())
    read = []

    def parse(data: bytes) -> Manifest:
        read.append(data)
        return parse_manifest(data)

    monkeypatch.setattr(manifests, "parse_manifest", parse)
    apply(catalog, document(INDEX, index({1: "ready", 2: "ready"}, {"best": 1}), b"2"))
    assert read == []
    apply(catalog, *a_version(f"{NET}/v2", {"w.bin": 8}, b"2"))
    assert len(read) == 1


def test_a_manifest_is_taken_in_when_it_is_received(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left to do at the end does not grow with the files, and until then nobody sees any of them."""
    apply(catalog, *two_versions())
    with catalog.update() as update:
        for item in (*a_version(f"{NET}/v2", {"w.bin": 8}, b"2"), *a_version(f"{NET}/v3")):
            update.stage(item)
        update.stage(document(INDEX, index({1: "ready", 2: "ready", 3: "ready"}), b"2"))
        update.flush()
        assert rows_of(catalog, "entries") == 4
        assert catalog.lookup(f"{NET}/v3/files/w.bin") is None
        assert catalog.children(f"{NET}/v3/files") == []
        old = catalog.lookup(f"{NET}/v2/files/w.bin")
        assert old is not None
        assert old.digest == bytes(31) + b"\x07"
        monkeypatch.setattr(manifests, "parse_manifest", None)
        update.apply()
    assert names(catalog, f"{NET}/v3/files") == ["w.bin"]
    assert rows_of(catalog, "entries") == 3


def test_what_a_manifest_says_goes_with_it(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    apply(catalog, gone=(f"{NET}/v1/manifest.json", f"{NET}/v2/manifest.json"))
    assert (rows_of(catalog, "manifests"), rows_of(catalog, "entries")) == (0, 0)


def test_files_without_a_date_are_as_old_as_their_manifest(catalog: Catalog) -> None:
    undated = {"files": [{**entry("w.bin"), "modified_at": None}]}
    item = document(f"{NET}/v2/manifest.json", undated)
    apply(catalog, *two_versions(), item)
    touched = replace(item, token=b"2", mtime_ns=item.mtime_ns + 5)
    changes = apply(catalog, touched)
    node = catalog.lookup(f"{NET}/v2/files/w.bin")
    assert node is not None
    assert node.mtime_ns == touched.mtime_ns
    assert f"{NET}/v2/files/w.bin" in changes.changed_paths


def test_a_manifest_that_was_only_touched_changes_no_file(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    item = next(item for item in a_version(f"{NET}/v2", token=b"2") if item.path.endswith("/manifest.json"))
    changes = apply(catalog, replace(item, mtime_ns=item.mtime_ns - 5))
    assert set(changes.changed_paths) == {f"{NET}/v2/manifest.json"}


def test_very_many_changed_paths_are_read_when_they_are_asked_for(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (changed, history):
        monkeypatch.setattr(module, "KEPT_PATHS", 10)
    files = {f"a/b {number}/w.bin": number for number in range(20)}
    changes = apply(catalog, document(INDEX, index({1: "ready"})), *a_version(f"{NET}/v1", files))
    assert sorted(changes.changed_paths) == sorted({"", *tree(catalog)})
    assert len(changes.changed_paths) == len(list(changes.changed_paths))
    assert f"{NET}/v1/files/a/b 7/w.bin" in changes.changed_paths
    assert rows_of(catalog, "history") == 0
    apply(catalog, gone=(INDEX, *(item.path for item in a_version(f"{NET}/v1"))))
    assert f"{NET}/v1/files/a/b 7/w.bin" not in changes.changed_paths, "the later snapshot has told of it"


@pytest.mark.promise("S5")
def test_a_bad_entry_of_a_manifest_costs_itself_and_names_the_manifest(catalog: Catalog) -> None:
    bad = {"files": [entry("../up"), entry("good")]}
    apply(catalog, *two_versions())
    changes = apply(catalog, document(f"{NET}/v2/manifest.json", bad, b"2"))
    assert names(catalog, f"{NET}/v2/files") == ["good"]
    assert changes.problems[0].startswith(f"{NET}/v2/manifest.json: entry 1 of files")
    apply(catalog, document(INDEX, index({1: "ready", 2: "ready"}, {"best": 1}), b"2"))
    assert catalog.problems() == changes.problems  # those of a version stay while it is not rebuilt


def test_problems_are_capped(catalog: Catalog) -> None:
    apply(catalog, *(document(f"runs/{number}/meta.json", b"{") for number in range(1100)))
    assert len(catalog.problems()) == 1000


# Aliases, and an index that cannot be used


def test_aliases_follow_the_index(catalog: Catalog) -> None:
    apply(catalog, *two_versions({"latest": 2, "stable": 1}))
    assert [node.target for _, node in catalog.children(NET) if node.kind is Kind.SYMLINK] == ["v2", "v1"]
    apply(catalog, document(INDEX, index({1: "ready", 2: "ready"}, {"latest": 2}), b"2"))
    assert names(catalog, NET) == ["latest", "v1", "v2", "versions.json"]


@pytest.mark.promise("L2")
def test_an_alias_of_a_version_that_is_not_shown_is_not_shown(catalog: Catalog) -> None:
    apply(catalog, *two_versions({"latest": 2}), document(f"{NET}/v2/.deleted", {}))
    assert names(catalog, NET) == ["v1", "versions.json"]
    assert catalog.artifacts.all()[0].aliases == {}
    apply(catalog, gone=(f"{NET}/v2/.deleted",))
    assert names(catalog, NET) == ["latest", "v1", "v2", "versions.json"]


@pytest.mark.parametrize("alias", ["v3", "versions.json", ".lock", "a/b", "..", ""])
@pytest.mark.promise("L2")
def test_an_alias_that_cannot_be_a_link_is_reported(catalog: Catalog, alias: str) -> None:
    changes = apply(catalog, *two_versions({alias: 1, "latest": 2}))
    assert names(catalog, NET) == ["latest", "v1", "v2", "versions.json"]
    assert len(changes.problems) == 1
    assert changes.problems[0].startswith(NET)
    assert catalog.artifacts.versions(catalog.artifacts.find("net"))[0].aliases == [alias]  # it is one nevertheless


def test_an_alias_beside_a_file_of_its_name_is_reported(catalog: Catalog) -> None:
    changes = apply(catalog, *two_versions({"notes": 1}), plain_file(f"{NET}/notes", 5))
    node = catalog.lookup(f"{NET}/notes")
    assert node is not None
    assert node.kind is Kind.PLAIN
    assert "'notes'" in changes.problems[0]


def test_an_alias_that_cannot_be_encoded_costs_itself(catalog: Catalog) -> None:
    changes = apply(catalog, *two_versions({"\ud800": 1, "latest": 2}))
    assert names(catalog, NET) == ["latest", "v1", "v2", "versions.json"]
    assert len(changes.problems) == 1


def test_without_an_index_the_versions_own_metadata_counts(catalog: Catalog) -> None:
    failed = document(f"{NET}/v3/metadata.json", {"status": "failed"})
    changes = apply(catalog, *a_version(f"{NET}/v1"), *a_version(f"{NET}/v2"), failed)
    assert names(catalog, NET) == ["latest", "v1", "v2"]
    link = catalog.lookup(f"{NET}/latest")
    assert link is not None
    assert link.target == "v2"
    assert len(changes.problems) == 1
    assert "no versions.json" in changes.problems[0]
    assert catalog.artifacts.all()[0].aliases == {"latest": 2}


def test_with_a_malformed_index_the_versions_own_metadata_counts(catalog: Catalog) -> None:
    apply(catalog, *two_versions({"stable": 1}))
    changes = apply(catalog, document(INDEX, b"{", b"2"))
    assert names(catalog, NET) == ["latest", "v1", "v2", "versions.json"]
    assert "versions.json cannot be used" in changes.problems[0]
    apply(catalog, document(INDEX, index({1: "ready", 2: "ready"}, {"stable": 1}), b"3"))
    assert names(catalog, NET) == ["stable", "v1", "v2", "versions.json"]
    assert catalog.problems() == []


def test_an_index_whose_content_cannot_be_read_is_shown_as_a_file(catalog: Catalog) -> None:
    unreadable = Observed(INDEX, document(INDEX, b"").kind, b"2", 55, 10**18, None)
    apply(catalog, unreadable, *a_version(f"{NET}/v1"))
    node = catalog.lookup(INDEX)
    assert node is not None
    assert (node.kind, node.size) == (Kind.PLAIN, 55)
    assert names(catalog, NET) == ["latest", "v1", "versions.json"]


def test_what_the_index_does_not_say_comes_from_metadata(catalog: Catalog) -> None:
    metadata = {"created_at": 5.5, "size_bytes": 77, "num_files": 3, "created_by_run": "r1"}
    apply(
        catalog,
        document(INDEX, {"versions": [{"version": 1}]}),
        document(f"{NET}/v1/metadata.json", metadata),
        document(f"{NET}/v1/manifest.json", manifest({})),
    )
    (version,) = catalog.artifacts.versions(catalog.artifacts.find("net"))
    assert (version.created_at, version.size_bytes, version.num_files, version.created_by_run) == (5.5, 77, 3, "r1")
    assert (catalog.artifacts.all()[0].created_at, catalog.artifacts.all()[0].updated_at) == (5.5, 5.5)


def test_an_artifact_that_went_leaves_nothing(catalog: Catalog) -> None:
    items = [*two_versions({"latest": 2, "v9": 1}), plain_file(f"{NET}/.lock")]
    apply(catalog, *items)
    changes = apply(catalog, gone=tuple(item.path for item in items))
    assert tree(catalog) == {}
    assert (catalog.artifacts.all(), catalog.problems(), catalog.totals().files) == ([], [], 0)
    assert "" in changes.changed_paths
    for table in ("documents", "sources", "staged", "artifacts", "versions", "aliases", "problems"):
        assert rows_of(catalog, table) == 0


def test_a_file_in_the_artifacts_folder_without_index_is_not_shown(catalog: Catalog) -> None:
    apply(catalog, plain_file(f"{NET}/.lock"))
    assert tree(catalog) == {}


# Runs, and the folders above


def test_a_run_is_shown_as_it_was_seen(catalog: Catalog) -> None:
    changes = apply(
        catalog,
        directory(RUN),
        directory(f"{RUN}/media"),
        document(f"{RUN}/meta.json", {"id": "r1"}),
        plain_file(f"{RUN}/logs.txt", 12, mtime_ns=5),
        plain_file(f"{RUN}/deep/er/x.png", 3, mtime_ns=10**18 + 1),
    )
    assert names(catalog, RUN) == ["deep", "logs.txt", "media", "meta.json"]
    logs, empty, top = (catalog.lookup(path) for path in (f"{RUN}/logs.txt", f"{RUN}/media", "vision"))
    assert logs is not None
    assert (logs.kind, logs.size, logs.mtime_ns, logs.digest) == (Kind.PLAIN, 12, 5, None)
    assert empty is not None
    assert empty.kind is Kind.DIRECTORY
    assert top is not None
    assert top.mtime_ns == 10**18 + 1
    assert changes.problems == []


@pytest.mark.parametrize(
    "name",
    ["meta.json", "status.json", "summary.json", "environment.json", "artifacts_created.json", "artifacts_used.json"],
)
def test_a_malformed_document_of_a_run_is_shown_and_named(catalog: Catalog, name: str) -> None:
    changes = apply(catalog, document(f"{RUN}/{name}", b"[]"), plain_file(f"{RUN}/logs.txt"))
    assert names(catalog, RUN) == sorted([name, "logs.txt"])
    assert len(changes.problems) == 1
    assert changes.problems[0].startswith(f"{RUN}/{name}: ")


@pytest.mark.promise("L3")
def test_a_run_in_the_recycle_bin_is_not_shown(catalog: Catalog) -> None:
    apply(catalog, document(f"{RUN}/meta.json", b"{"), document(f"{RUN}/.deleted", {}))
    assert tree(catalog) == {}
    assert catalog.problems() == []
    apply(catalog, gone=(f"{RUN}/.deleted",))
    assert names(catalog, RUN) == ["meta.json"]
    assert len(catalog.problems()) == 1


def test_runs_and_sweeps_of_older_stores_are_shown(catalog: Catalog) -> None:
    apply(catalog, plain_file("runs/r1/logs.txt"), plain_file("sweeps/s1/config.json"), plain_file("stray.txt"))
    assert set(tree(catalog)) == {
        "runs", "runs/r1", "runs/r1/logs.txt", "sweeps", "sweeps/s1", "sweeps/s1/config.json"
    }  # fmt: skip


def test_the_folders_above_go_when_nothing_is_left_in_them(catalog: Catalog) -> None:
    apply(catalog, plain_file(f"{RUN}/logs.txt"), plain_file("vision/test/runs/r2/logs.txt"))
    changes = apply(catalog, gone=(f"{RUN}/logs.txt",))
    assert names(catalog, "vision") == ["test"]
    assert set(changes.changed_paths) == {f"{RUN}/logs.txt", RUN, "vision/train/runs", "vision/train", "vision"}


def test_a_folder_above_becomes_older_when_the_newest_goes(catalog: Catalog) -> None:
    apply(catalog, plain_file("runs/r1/a", mtime_ns=10), plain_file("runs/r2/a", mtime_ns=20))
    assert [node.mtime_ns for _, node in catalog.children("")] == [20]
    apply(catalog, gone=("runs/r2/a",))
    assert [node.mtime_ns for _, node in catalog.children("")] == [10]


def test_an_empty_store_of_artifacts_is_shown_with_its_pool(catalog: Catalog) -> None:
    apply(catalog, directory("artifacts"))
    assert set(tree(catalog)) == {"artifacts", "artifacts/.dedup"}
    apply(catalog, gone=("artifacts",))
    assert tree(catalog) == {}


def test_a_file_becomes_a_folder_and_back(catalog: Catalog) -> None:
    apply(catalog, plain_file("runs/r1/x"))
    apply(catalog, directory("runs/r1/x"), plain_file("runs/r1/x/y"))
    node = catalog.lookup("runs/r1/x")
    assert node is not None
    assert node.kind is Kind.DIRECTORY
    apply(catalog, plain_file("runs/r1/x"), gone=("runs/r1/x/y",))
    assert {path: node.kind for path, node in tree(catalog, "runs/r1").items()} == {"runs/r1/x": Kind.PLAIN}


def test_paths_of_two_thousand_folders_are_shown_and_removed(catalog: Catalog) -> None:
    deep = "/".join(["d"] * 2000)
    items = [document(INDEX, index({1: "ready"})), *a_version(f"{NET}/v1", {f"{deep}/w.bin": 1})]
    apply(catalog, *items)
    assert catalog.lookup(f"{NET}/v1/files/{deep}/w.bin") is not None
    apply(catalog, gone=tuple(item.path for item in items))
    assert rows_of(catalog, "nodes") == 1


def test_paths_of_a_content_are_found_by_its_digest(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    assert sorted(catalog.paths_of(bytes(31) + b"\x07")) == [f"{NET}/v1/files/w.bin", f"{NET}/v2/files/w.bin"]
    assert catalog.paths_of(bytes(32)) == []


def test_numbers_that_collide_hide_a_file_and_hurt_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a server could arrange it: a file has the number of the folder it lies in, so the way up is a circle.
    def colliding(path: str) -> int:
        return inode_of(f"{RUN}/a" if path == f"{RUN}/a/b/c" else path)

    monkeypatch.setattr("runicornfs.catalog.tree.inode_of", colliding)
    monkeypatch.setattr("runicornfs.catalog.writer.inode_of", colliding)
    items = [plain_file(f"{RUN}/a/b/c"), plain_file(f"{RUN}/good")]
    apply(catalog, *items)
    assert catalog.lookup(f"{RUN}/good") is not None
    apply(catalog, gone=tuple(item.path for item in items))
    assert tree(catalog) == {}


def test_the_metadata_of_a_version_keeps_odd_json(catalog: Catalog) -> None:
    apply(catalog, *two_versions())
    apply(catalog, document(f"{NET}/v1/metadata.json", json.dumps({"metadata": {"loss": [1e400]}}).encode(), b"2"))
    assert catalog.artifacts.metadata(catalog.artifacts.find("net"), 1)["metadata"] == {"loss": [float("inf")]}

"""The store writer against the store that the SDK itself wrote, and against what it promises."""

from __future__ import annotations

import hashlib
import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.demo.samplestore import LARGE_MODEL_BYTES, StoreWriter, write_sample_store
from tests import stores


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def shapes(root: Path) -> dict[str, set[tuple[str, ...]]]:
    """The keys, in their order, of every kind of record and of the entries of its lists."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for path in root.rglob("*.json"):
        if "files" not in path.parts and path.name != "summary.json":
            record = load(path)
            found.setdefault(path.name, set()).add(tuple(record))
            for key in ("versions", "files", "references", "artifacts"):
                for entry in record.get(key, []):
                    found.setdefault(f"{path.name} {key}", set()).add(tuple(entry))
    return found


def modes(root: Path) -> dict[str, set[int]]:
    """The permissions of every kind of file."""
    found: dict[str, set[int]] = {}
    for path in root.rglob("*"):
        if path.is_file():
            kind = "content" if "files" in path.parts or ".dedup" in path.parts else path.name
            found.setdefault(kind, set()).add(stat.S_IMODE(path.stat().st_mode))
    return found


def write_like_the_reference(writer: StoreWriter) -> None:
    run = writer.add_run("p", "e", steps=1, summary={}, log=["one"], media={"a.png": b"png"})
    writer.add_version("model", "m", {"a": b"a"}, created_by_run=run, references=[{"uri": "s3://b/k", "size": 3}])
    writer.use(run, "model", "m", 1)


def test_records_have_the_shape_of_the_sdks_own(store_writer: StoreWriter, sample_store: Path) -> None:
    write_like_the_reference(store_writer)
    assert shapes(store_writer.root) == shapes(sample_store)


def test_files_have_the_modes_of_the_sdks_own(store_writer: StoreWriter, sample_store: Path) -> None:
    write_like_the_reference(store_writer)
    reference = modes(sample_store)
    assert {kind: reference.get(kind) for kind in modes(store_writer.root) if not kind.endswith(".png")} == {
        kind: found for kind, found in modes(store_writer.root).items() if not kind.endswith(".png")
    }


@given(tree=stores.file_trees())
def test_every_file_lies_where_the_manifest_says(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes]
) -> None:
    writer = StoreWriter(tmp_path_factory.mktemp("store"))
    version = writer.version_folder("dataset", "d", writer.add_version("dataset", "d", tree))
    manifest = load(version / "manifest.json")
    assert {entry["path"] for entry in manifest["files"]} == set(tree)
    for entry in manifest["files"]:
        content = (version / "files" / entry["path"]).read_bytes()
        assert content == tree[entry["path"]]
        assert entry["size"] == len(content)
        assert entry["digest"] == "sha256:" + hashlib.sha256(content).hexdigest()
    assert load(version / "metadata.json")["manifest_digest"] == (
        hashlib.sha256((version / "manifest.json").read_bytes()).hexdigest()
    )


def test_the_same_content_is_stored_once(store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "a", {"x": b"same", "y": b"same"})
    store_writer.add_version("model", "b", {"z": b"same"})
    (pooled,) = [path for path in store_writer.pool.rglob("*") if path.is_file()]
    assert pooled.stat().st_nlink == 4


def test_latest_moves_and_other_aliases_stay(store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "m", {"a": b"1"}, aliases=["stable"])
    store_writer.add_version("model", "m", {"a": b"2"})
    assert store_writer.index("model", "m")["aliases"] == {"latest": 2, "stable": 1}
    store_writer.set_alias("model", "m", "stable", 2)
    store_writer.set_alias("model", "m", "production", 1)
    store_writer.set_alias("model", "m", "stable", None)
    assert store_writer.index("model", "m")["aliases"] == {"latest": 2, "production": 1}


def test_a_soft_delete_is_a_marker_and_restore_removes_it(store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "m", {"a": b"1"})
    before = store_writer.index("model", "m")
    store_writer.soft_delete("model", "m", 1)
    marker = store_writer.version_folder("model", "m", 1) / ".deleted"
    assert {"deleted_at", "deleted_by", "version", "artifact_name"} == set(load(marker))
    store_writer.restore("model", "m", 1)
    assert not marker.exists()
    assert store_writer.index("model", "m") == before


def test_after_a_permanent_delete_a_number_comes_back_with_other_bytes(store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "m", {"a": b"1"})
    store_writer.add_version("model", "m", {"a": b"2"})
    store_writer.delete_permanently("model", "m", 2)
    assert store_writer.index("model", "m")["aliases"] == {"latest": 1}
    assert store_writer.add_version("model", "m", {"a": b"3"}) == 2
    assert (store_writer.version_folder("model", "m", 2) / "files" / "a").read_bytes() == b"3"


def test_a_number_that_is_taken_fails_as_in_the_sdk(store_writer: StoreWriter) -> None:
    for content in (b"1", b"2"):
        store_writer.add_version("model", "m", {"a": content})
    store_writer.delete_permanently("model", "m", 1)
    with pytest.raises(FileExistsError):
        store_writer.add_version("model", "m", {"a": b"3"})


@given(writers=st.integers(2, 4))
def test_writers_of_one_artifact_take_turns(tmp_path_factory: pytest.TempPathFactory, writers: int) -> None:
    root = tmp_path_factory.mktemp("store")
    threads = [
        threading.Thread(target=lambda n=n: StoreWriter(root).add_version("model", "m", {"a": b"%d" % n}))
        for n in range(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry["version"] for entry in StoreWriter(root).index("model", "m")["versions"]] == list(
        range(1, writers + 1)
    )


def test_a_run_says_what_it_used_and_made(store_writer: StoreWriter) -> None:
    store_writer.add_version("dataset", "d", {"a": b"1"})
    run = store_writer.add_run("p", "e", uses=[("dataset", "d", 1)])
    store_writer.add_version("model", "m", {"a": b"2"}, created_by_run=run)
    folder = StoreWriter(store_writer.root).run_folder(run)
    assert [(e["type"], e["name"]) for e in load(folder / "artifacts_used.json")["artifacts"]] == [("dataset", "d")]
    assert [(e["type"], e["name"]) for e in load(folder / "artifacts_created.json")["artifacts"]] == [("model", "m")]


def test_a_run_that_is_thrown_away_keeps_its_status_in_the_marker(store_writer: StoreWriter) -> None:
    run = store_writer.add_run("p", "e", status="failed")
    store_writer.soft_delete_run(run)
    assert load(store_writer.run_folder(run) / ".deleted")["original_status"] == "failed"


def test_the_demo_store_has_a_large_model_and_odd_names(tmp_path: Path) -> None:
    writer = write_sample_store(tmp_path)
    large = writer.version_folder("model", "gpt-mini", 1) / "files" / "model.safetensors"
    assert large.stat().st_size > LARGE_MODEL_BYTES
    names = {path.name for path in tmp_path.rglob("*")}
    assert {"street signs", "Vorfahrt gewähren", "標識", "versions.json", "summary.json"} <= names

"""What the catalog answers about a store: the SDK's own sample, and artifacts whose names need care."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.catalog import manifests
from runicornfs.catalog.artifacts import ArtifactPlace
from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import Kind
from runicornfs.errors import AmbiguousName, MalformedRecord, NotFound
from tests.unit.observing import a_version, apply, document, index, observe, plain_file, tree

NET = "artifacts/model/net"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(tmp_path / "index.db")
    yield catalog
    catalog.close()


@pytest.fixture
def sample(catalog: Catalog, sample_store: Path) -> Catalog:
    assert apply(catalog, *observe(sample_store)).problems == []
    return catalog


def names(catalog: Catalog, path: str) -> list[str]:
    return [name for name, _ in catalog.children(path)]


def test_the_sample_looks_as_it_lies_on_the_disk(sample: Catalog, sample_store: Path) -> None:
    nodes = tree(sample)
    files = {path: node for path, node in nodes.items() if node.kind in (Kind.CONTENT, Kind.PLAIN, Kind.DOCUMENT)}
    on_disk = {
        file.relative_to(sample_store).as_posix(): file.stat().st_size
        for file in sample_store.rglob("*")
        if file.is_file()
        and "artifacts/.dedup" not in file.as_posix()
        and "resnet50/v2/" not in file.as_posix()
        and file.name != "runicorn.db"
    }
    assert {path: node.size for path, node in files.items()} == on_disk
    assert (sample.totals().files, sample.totals().bytes) == (len(on_disk), sum(on_disk.values()))
    assert (sample.totals().artifacts, sample.totals().versions) == (5, 8)


def test_documents_of_the_sample_are_served_byte_by_byte(sample: Catalog, sample_store: Path) -> None:
    documents = [node for node in tree(sample).values() if node.document is not None]
    assert len(documents) == 55
    for node in documents:
        assert node.document is not None
        assert sample.document(node.document) == (sample_store / node.path).read_bytes()


def test_contents_of_the_sample_carry_their_digest_and_time(sample: Catalog) -> None:
    node = sample.lookup("artifacts/model/resnet50/v1/files/model.pth")
    assert node is not None
    assert node.digest is not None
    assert node.digest.hex() == "ecd59a7ecae18da69bf4246c1f85f5611b2af9ac3e5586c73e6cff3cbcf62d43"
    assert node.mtime_ns / 10**9 == 1795385482.316943


def test_an_artifacts_folder_of_the_sample_holds_shown_versions_and_aliases(sample: Catalog) -> None:
    folder = "artifacts/model/resnet50"
    assert names(sample, folder) == [".lock", "latest", "production", "stable", "v1", "v3", "v4", "versions.json"]
    link = sample.lookup(f"{folder}/production")
    assert link is not None
    assert (link.kind, link.target, link.size) == (Kind.SYMLINK, "v3", 2)


def test_the_pool_is_an_empty_folder(sample: Catalog) -> None:
    assert names(sample, "artifacts") == [".dedup", "code", "config", "custom", "dataset", "model"]
    assert names(sample, "artifacts/.dedup") == []


def test_folders_are_as_new_as_their_newest_child(sample: Catalog) -> None:
    for node in tree(sample).values():
        children = [child.mtime_ns for name, child in sample.children(node.path) if name != ".dedup"]
        if children:
            assert node.mtime_ns == max(children)


def test_a_path_that_cannot_be_is_not_there(sample: Catalog) -> None:
    for path in ("nowhere", "artifacts/", "artifacts//model", "a/\ud800", "artifacts/model/resnet50/v2", "runicorn.db"):
        assert sample.lookup(path) is None
        assert sample.children(path) == []


def test_a_document_that_was_replaced_is_not_found(sample: Catalog) -> None:
    node = sample.lookup("artifacts/model/resnet50/versions.json")
    assert node is not None
    assert node.document is not None
    apply(sample, document(node.path, index({1: "ready"}), token=b"2"))
    with pytest.raises(NotFound):
        sample.document(node.document)


def test_artifacts_of_the_sample_are_listed_newest_update_first(sample: Catalog) -> None:
    found = sample.artifacts.all()
    assert [(a.type, a.name) for a in found] == [
        ("custom", "imagenet-ref"), ("code", "train-code"), ("config", "resnet50"), ("model", "resnet50"),
        ("dataset", "cifar-mini"),
    ]  # fmt: skip
    net = found[3]
    assert (net.num_versions, net.latest_version, net.size_bytes) == (3, 4, 1_500_022)
    assert net.aliases == {"latest": 4, "production": 3, "stable": 1}
    assert (net.created_at, net.updated_at) == (1795385482.3201897, 1795385482.6671097)


def test_artifacts_are_listed_of_one_type(sample: Catalog) -> None:
    assert [a.name for a in sample.artifacts.all("dataset")] == ["cifar-mini"]
    assert sample.artifacts.all("nothing") == []


def test_a_name_of_two_types_is_ambiguous_without_a_version_that_tells(sample: Catalog) -> None:
    for version in (None, 1):
        with pytest.raises(AmbiguousName) as caught:
            sample.artifacts.find("resnet50", version=version)
        assert caught.value.types == ["config", "model"]
    assert sample.artifacts.find("resnet50", version=4).type == "model"
    assert sample.artifacts.find("resnet50", "config").path == "artifacts/config/resnet50"


def test_a_version_in_the_recycle_bin_is_found(sample: Catalog) -> None:
    assert sample.artifacts.find("resnet50", version=2).type == "model"


def test_a_version_that_is_shown_goes_before_one_in_the_recycle_bin(sample: Catalog) -> None:
    config = "artifacts/config/resnet50"
    apply(
        sample, document(f"{config}/versions.json", index({1: "ready", 2: "ready"}), b"2"), *a_version(f"{config}/v2")
    )
    assert sample.artifacts.find("resnet50", version=2).type == "config"


@pytest.mark.parametrize(
    ("name", "kind", "version"),
    [("nothing", None, None), ("resnet50", "dataset", None), ("resnet50", None, 9), ("cifar-mini", "dataset", 3),
     ("\ud800", None, None), ("resnet50", "\ud800", None)],
)  # fmt: skip
def test_an_unknown_artifact_is_not_found(sample: Catalog, name: str, kind: str | None, version: int | None) -> None:
    with pytest.raises(NotFound):
        sample.artifacts.find(name, kind, version)


def test_versions_are_listed_with_their_true_aliases(sample: Catalog) -> None:
    ref = sample.artifacts.find("resnet50", "model")
    assert [(v.version, v.status, v.aliases) for v in sample.artifacts.versions(ref)] == [
        (1, "ready", ["stable"]), (3, "ready", ["production"]), (4, "ready", ["latest"])
    ]  # fmt: skip
    first = sample.artifacts.versions(ref)[0]
    assert (first.size_bytes, first.num_files, first.created_by_run) == (400_022, 2, "20261122_221122_b1a417")


def test_deleted_versions_are_listed_where_that_is_asked_for(sample: Catalog) -> None:
    ref = sample.artifacts.find("resnet50", "model")
    assert [(v.version, v.status) for v in sample.artifacts.versions(ref, include_deleted=True)] == [
        (1, "ready"), (2, "deleted"), (3, "ready"), (4, "ready")
    ]  # fmt: skip


def test_metadata_is_the_document_with_the_true_aliases(sample: Catalog, sample_store: Path) -> None:
    ref = sample.artifacts.find("resnet50", "model")
    on_disk = json.loads((sample_store / "artifacts/model/resnet50/v3/metadata.json").read_bytes())
    assert on_disk["aliases"] == ["latest"]
    assert sample.artifacts.metadata(ref, 3) == on_disk | {"aliases": ["production"]}


def test_the_manifest_is_served_as_it_is(sample: Catalog, sample_store: Path) -> None:
    ref = sample.artifacts.find("imagenet-ref")
    on_disk = (sample_store / "artifacts/custom/imagenet-ref/v1/manifest.json").read_bytes()
    assert sample.artifacts.manifest_document(ref, 1) == on_disk


def test_records_of_a_version_that_is_not_shown_are_not_found(sample: Catalog) -> None:
    ref = sample.artifacts.find("resnet50", "model")
    for version in (2, 9):
        with pytest.raises(NotFound):
            sample.artifacts.metadata(ref, version)
        with pytest.raises(NotFound):
            sample.artifacts.manifest_document(ref, version)


def test_all_documents_are_listed_for_the_export(sample: Catalog, sample_store: Path) -> None:
    listed = {path: sample.document(id) for path, id in sample.documents()}
    assert len(listed) == 58  # also those of the version in the recycle bin
    assert all(content == (sample_store / path).read_bytes() for path, content in listed.items())


def test_a_path_tells_its_artifact_and_version(sample: Catalog) -> None:
    folder = "artifacts/model/resnet50"
    assert sample.artifacts.place_of(f"{folder}/v3/files/model.pth") == ArtifactPlace(
        "model", "resnet50", 3, ["production"]
    )
    assert sample.artifacts.place_of(f"{folder}/latest") == ArtifactPlace("model", "resnet50", None, [])
    assert sample.artifacts.place_of("vision/train/runs/r/meta.json") is None


def test_names_that_are_no_utf8_are_kept(catalog: Catalog) -> None:
    name = os.fsdecode(b"caf\xe9")
    folder = f"artifacts/model/{name}"
    apply(
        catalog, document(f"{folder}/versions.json", index({1: "ready"}, {"b\udce9st": 1})), *a_version(f"{folder}/v1")
    )
    assert [a.name for a in catalog.artifacts.all()] == [name]
    assert catalog.artifacts.all()[0].aliases == {"b\udce9st": 1}
    assert names(catalog, folder) == ["b\udce9st", "v1", "versions.json"]
    assert catalog.artifacts.find(name).path == folder


def test_an_artifact_without_a_version_to_show_is_in_no_list(catalog: Catalog) -> None:
    apply(catalog, document(f"{NET}/versions.json", index({1: "failed"})), plain_file(f"{NET}/.lock"))
    assert catalog.artifacts.all() == []
    assert names(catalog, NET) == [".lock", "versions.json"]
    assert catalog.artifacts.versions(catalog.artifacts.find("net")) == []


def test_contents_are_found_in_all_the_versions_that_have_them(catalog: Catalog) -> None:
    apply(
        catalog,
        document(f"{NET}/versions.json", index({2: "ready", 10: "ready"})),
        *a_version(f"{NET}/v2", {"a.bin": 7, "copy/a.bin": 8}),
        *a_version(f"{NET}/v10", {"a.bin": 7}),
    )
    seven, eight, nine = (bytes.fromhex(f"{size:064x}") for size in (7, 8, 9))
    assert catalog.units_with([seven, eight, nine]) == {seven: [f"{NET}/v2", f"{NET}/v10"], eight: [f"{NET}/v2"]}
    assert catalog.units_with([]) == {}


def test_metadata_that_is_nested_without_measure_is_refused(catalog: Catalog) -> None:
    nested = b'{"metadata": ' + b"[" * 300 + b"]" * 300 + b"}"
    observed = a_version(f"{NET}/v1")
    apply(catalog, document(f"{NET}/versions.json", index({1: "ready"})), *observed)
    apply(catalog, document(f"{NET}/v1/metadata.json", nested, b"2"))
    with pytest.raises(MalformedRecord, match="nested too deep"):
        catalog.artifacts.metadata(catalog.artifacts.find("net"), 1)


@pytest.mark.parametrize("statement", [manifests.LOOKUP, manifests.CHILDREN])
def test_what_a_manifest_lists_is_found_by_probes_alone(sample: Catalog, statement: str) -> None:
    """However large the store is: one row by its number, the other by its key, and nothing is sorted."""
    with sample._database.reader() as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", (1, 1, 1, b"x")[: statement.count("?")]).fetchall()
    steps = [str(row[3]) for row in plan]
    assert len(steps) == 2
    assert steps[0] == "SEARCH n USING INTEGER PRIMARY KEY (rowid=?)"
    assert steps[1].startswith("SEARCH e USING PRIMARY KEY (manifest=? AND folder=?")

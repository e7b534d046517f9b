"""Random changes of a store against a plain model: however a state was reached, the catalog shows the same.

After each step three things must agree: the catalog that took all the steps, one that was built from the last state
alone, and a model that knows the rules and nothing of units, differences or SQLite.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import Kind, Node
from runicornfs.store.layout import Role, place_of
from runicornfs.store.observed import Observed, ObservedKind
from tests.unit.observing import entry, tree

ARTIFACTS = st.sampled_from(["artifacts/model/net", "artifacts/model/été", "artifacts/dataset/net"])
VERSIONS = st.integers(1, 3)
STATES = st.sampled_from(["ready", "ready", "ready", "failed", "deleted", None])
ALIASES = st.dictionaries(st.sampled_from(["latest", "best", "v3", "a/b", "notes"]), VERSIONS)
RUNS = st.sampled_from(["vision/train/runs/r1", "vision/train/runs/r2", "vision/test/runs/r1", "runs/r1", "sweeps"])
FILES = st.dictionaries(st.sampled_from(["w.bin", "d/x", "d/y", "d/e/z"]), st.integers(0, 2), max_size=3)
RUN_FILES = st.sampled_from(["logs.txt", "meta.json", "media/a.png", "media/b/c", ".deleted"])

Server = dict[str, Any]  # path: a document's value (bytes: not JSON), or the size of a plain file


class CatalogMachine(RuleBasedStateMachine):
    """`server` is what the store is, `synced` what it was when the last sync ended."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.catalog = Catalog.open(self.folder / "index.db")
        self.server: Server = {}
        self.synced: Server = {}
        self.shown: dict[str, Node] = {}

    def teardown(self) -> None:
        if hasattr(self, "catalog"):
            self.catalog.close()
            shutil.rmtree(self.folder)

    @rule(artifact=ARTIFACTS, versions=st.dictionaries(VERSIONS, STATES), aliases=ALIASES)
    def save_index(self, artifact: str, versions: dict[int, str | None], aliases: dict[str, int]) -> None:
        entries = [{"version": version, "status": status} for version, status in versions.items()]
        self.server[f"{artifact}/versions.json"] = {"versions": entries, "aliases": aliases}

    @rule(artifact=ARTIFACTS, version=VERSIONS, files=FILES)
    def save_version(self, artifact: str, version: int, files: dict[str, int]) -> None:
        self.server[f"{artifact}/v{version}/metadata.json"] = {"size_bytes": sum(files.values())}
        self.server[f"{artifact}/v{version}/manifest.json"] = {"files": [entry(p, size) for p, size in files.items()]}

    @rule(artifact=ARTIFACTS, version=VERSIONS)
    def delete_version_softly(self, artifact: str, version: int) -> None:
        self.server[f"{artifact}/v{version}/.deleted"] = {}

    @rule(artifact=ARTIFACTS, name=st.sampled_from([".lock", "notes"]))
    def touch_file_of_artifact(self, artifact: str, name: str) -> None:
        self.server[f"{artifact}/{name}"] = 0

    @rule(run=RUNS, name=RUN_FILES, size=st.integers(0, 2))
    def write_file_of_run(self, run: str, name: str, size: int) -> None:
        is_document = place_of(f"{run}/{name}").role is not Role.PLAIN
        self.server[f"{run}/{name}"] = {"size": size} if is_document else size

    @precondition(lambda self: self.server)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        del self.server[data.draw(st.sampled_from(sorted(self.server)))]

    @precondition(lambda self: any(not isinstance(value, int) for value in self.server.values()))
    @rule(data=st.data())
    def spoil_document(self, data: st.DataObject) -> None:
        documents = sorted(path for path, value in self.server.items() if not isinstance(value, int))
        self.server[data.draw(st.sampled_from(documents))] = b"{"

    @rule(data=st.data())
    def sync_part_of_it_and_break_off(self, data: st.DataObject) -> None:
        with self.catalog.update() as update:
            if self.server:
                for path in data.draw(st.sets(st.sampled_from(sorted(self.server)))):
                    update.stage(observed(path, self.server[path]))
            if self.synced:
                for path in data.draw(st.sets(st.sampled_from(sorted(self.synced)), max_size=2)):
                    update.gone(path)

    @rule(full=st.booleans())
    def sync(self, full: bool) -> None:
        with self.catalog.update() as update:
            known = dict(update.known())
            for path, value in self.server.items():
                item = observed(path, value)
                if full or known.get(path.encode()) != item.token:
                    update.stage(item)
            for raw in known.keys() - {path.encode() for path in self.server}:
                update.gone(raw.decode())
            changes = update.apply()
        before, self.shown = self.shown, tree(self.catalog)
        assert_reported(before, self.shown, changes.changed_paths)
        assert {path for path, _ in changes.documents_changed} == documents_that_differ(self.synced, self.server)
        self.synced = dict(self.server)

    @rule()
    def restart(self) -> None:
        self.catalog.close()
        self.catalog = Catalog.open(self.folder / "index.db")

    @invariant()
    def shows_what_the_model_shows(self) -> None:
        if not hasattr(self, "catalog"):
            return
        nodes = tree(self.catalog)
        assert {path: (node.kind, node.size, node.target) for path, node in nodes.items()} == model(self.synced)
        files = [node for node in nodes.values() if node.kind not in (Kind.DIRECTORY, Kind.SYMLINK)]
        totals = self.catalog.totals()
        assert (totals.files, totals.bytes) == (len(files), sum(node.size for node in files))
        assert totals.versions == sum(a.num_versions for a in self.catalog.artifacts.all())
        assert totals.artifacts == len(self.catalog.artifacts.all())

    @invariant()
    def is_what_one_sync_would_have_made(self) -> None:
        if not hasattr(self, "catalog"):
            return
        fresh = Catalog.open(self.folder / "fresh.db")
        with fresh.update() as update:
            for path, value in self.synced.items():
                update.stage(observed(path, value))
            update.apply()
        try:
            assert dump(self.catalog) == dump(fresh)
        finally:
            fresh.close()
            for file in self.folder.glob("fresh.db*"):
                file.unlink()


def observed(path: str, value: Any) -> Observed:
    if isinstance(value, int):
        return Observed(path, ObservedKind.FILE, b"%d" % value, value, 1000 + value, None)
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Observed(path, ObservedKind.DOCUMENT, content, len(content), 1000 + len(content), content)


def model(server: Server) -> dict[str, tuple[Kind, int, str | None]]:
    """Every path that is shown, with its kind, size and target."""
    files: dict[str, tuple[Kind, int, str | None]] = {}
    for path, value in server.items():
        place = place_of(path)
        if place.artifact is None and f"{place.unit}/.deleted" in server and place.unit != "sweeps":
            continue
        if place.artifact is None:
            size = observed(path, value).size
            files[path] = (Kind.PLAIN if isinstance(value, int) else Kind.DOCUMENT, size, None)
    for artifact in {place.artifact for place in map(place_of, server) if place.artifact}:
        files |= model_of_artifact(server, artifact)
    folders = {path[:at] for path in files for at, character in enumerate(path) if character == "/"}
    folders |= {f"{path.removesuffix('/metadata.json')}/files" for path in files if path.endswith("/metadata.json")}
    folders |= {"artifacts/.dedup"} if "artifacts" in folders else set()
    return files | dict.fromkeys(folders, (Kind.DIRECTORY, 0, None))


def model_of_artifact(server: Server, artifact: str) -> dict[str, tuple[Kind, int, str | None]]:
    index = server.get(f"{artifact}/versions.json", b"{")
    usable = index != b"{"
    if usable:
        states = {item["version"]: item["status"] for item in index["versions"]}
    else:
        states = {version: None for version in (1, 2, 3) if f"{artifact}/v{version}/metadata.json" in server}
    files: dict[str, tuple[Kind, int, str | None]] = {}
    versions = []
    for version, status in states.items():
        folder = f"{artifact}/v{version}"
        documents = [server.get(f"{folder}/{name}", b"{") for name in ("metadata.json", "manifest.json")]
        if status in ("failed", "deleted") or f"{folder}/.deleted" in server or b"{" in documents:
            continue
        versions.append(version)
        for name in ("metadata.json", "manifest.json"):
            size = observed(folder, server[f"{folder}/{name}"]).size
            files[f"{folder}/{name}"] = (Kind.DOCUMENT, size, None)
        for item in documents[1]["files"]:
            files[f"{folder}/files/{item['path']}"] = (Kind.CONTENT, item["size"], None)
    aliases = index["aliases"] if usable else {"latest": max(versions)} if versions else {}
    for alias, version in aliases.items():
        if version in versions and alias not in ("v3", "a/b"):
            files[f"{artifact}/{alias}"] = (Kind.SYMLINK, 2, f"v{version}")
    if f"{artifact}/versions.json" in server or versions:
        for name in ("versions.json", ".lock", "notes"):
            if f"{artifact}/{name}" in server:
                item = observed(artifact, server[f"{artifact}/{name}"])
                kind = Kind.DOCUMENT if item.content is not None else Kind.PLAIN
                files[f"{artifact}/{name}"] = (kind, item.size, None)
    return files


def documents_that_differ(before: Server, after: Server) -> set[str]:
    paths = {path for path in before.keys() | after.keys() if place_of(path).role is not Role.PLAIN}
    return {path for path in paths if before.get(path) != after.get(path)}


def assert_reported(before: dict[str, Node], after: dict[str, Node], changed: Collection[str]) -> None:
    """`changed` is every path whose node differs, and the folders of those that came or went."""
    expected = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    expected |= {path.rpartition("/")[0] for path in before.keys() ^ after.keys()}
    assert set(changed) - {""} == expected - {""}
    assert len(set(changed)) == len(changed)


def dump(catalog: Catalog) -> object:
    """All that can be asked of a catalog, without the ids of documents, which tell the history."""
    contents = {id: (path, catalog.document(id)) for path, id in catalog.documents()}
    nodes = [
        (replace(node, document=None), contents.get(node.document or 0)) for _, node in sorted(tree(catalog).items())
    ]
    artifacts = catalog.artifacts.all()
    refs = [catalog.artifacts.find(artifact.name, artifact.type) for artifact in artifacts]
    versions = [catalog.artifacts.versions(ref, include_deleted=True) for ref in refs]
    latest = zip(refs, artifacts, strict=True)
    metadata = [catalog.artifacts.metadata(ref, artifact.latest_version) for ref, artifact in latest]
    with catalog._database.reader() as connection:
        rows = connection.execute("SELECT count(*) FROM documents WHERE id NOT IN (SELECT document FROM staged"
                                  " WHERE document IS NOT NULL)").fetchone()  # fmt: skip
        sources = connection.execute("SELECT path, kind, token, size, mtime_ns FROM sources").fetchall()
    unreferenced = rows[0] > len(contents)
    return nodes, artifacts, versions, metadata, sorted(catalog.problems()), catalog.totals(), unreferenced, sources


CatalogMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
TestCatalogAgainstModel = CatalogMachine.TestCase

"""The Runicorn SDK with the mount as its storage root: what only reads works as on the server, what writes is refused.

Each reading program runs twice, on the server's folder and on the mount, and has to say the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.mounts import Mounted
from tests.sdk import Sdk

PROLOGUE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from runicorn.artifacts import ArtifactStorage, LineageTracker, create_artifact_storage
root = Path(sys.argv[1])
storage = create_artifact_storage(root)
"""
LIST = """
kinds = [None, "model", "dataset", "config", "custom", "nothing"]
print(json.dumps({str(kind): storage.list_artifacts(kind) for kind in kinds}))
"""
VERSIONS = """
names = [(a["name"], a["type"]) for a in storage.list_artifacts()]
print(json.dumps({f"{type}/{name}": [asdict(v) for v in storage.list_versions(name, type)] for name, type in names}))
"""
LOAD = """
how = [{}, {"alias": "latest"}, {"alias": "production"}, {"alias": "stable"}, {"version": 1}, {"version": 3}]
found = [storage.load_artifact("resnet50", "model", **which) for which in how]
print(json.dumps([[asdict(part) for part in pair] for pair in found]))
"""
LINEAGE = """
def edges(graph):
    return sorted([edge["source"], edge["edge_type"], edge["target"]] for edge in graph["edges"])
graphs = [LineageTracker(root).build_lineage_graph("resnet50", "model", version).to_dict() for version in (1, 3, 4)]
print(json.dumps([[sorted(node["node_id"] for node in graph["nodes"]), edges(graph)] for graph in graphs]))
"""
FILE_PATH = """
path = storage.get_artifact_file_path("resnet50", "model", 3, "model.pth")
print(json.dumps([str(path.relative_to(root)), path.stat().st_size,
                  storage.get_artifact_file_path("resnet50", "model", 3, "nothing")]))
"""
METRICS = """
from runicorn.exporters import MetricsExporter
exported = {run.name: MetricsExporter(run).to_csv(include_metadata=False) for run in root.glob("*/*/runs/*")}
assert any(exported.values())
print(json.dumps(exported))
"""
DOWNLOAD = """
folder = storage.download_artifact("resnet50", "model", 3, Path(sys.argv[2]))
_, manifest = storage.load_artifact("resnet50", "model", version=3)
print(json.dumps([[file.path, file.size, file.digest] for file in manifest.files]))
"""
SAVE = """
from runicorn.artifacts import Artifact
artifact = Artifact("resnet50", "model")
artifact.add_file(sys.argv[2])
storage.save_artifact(artifact, "no run", artifact._staged_files, [])
"""
DELETE = """
print(json.dumps([storage.delete_artifact_version("resnet50", "model", 3, soft) for soft in (True, False)]))
"""


@pytest.fixture
def sdk(tmp_path: Path) -> Sdk:
    return Sdk(tmp_path)


@pytest.mark.parametrize(
    "program",
    [LIST, VERSIONS, LOAD, LINEAGE, FILE_PATH, METRICS],
    ids=["list", "versions", "load", "lineage", "path of a file", "metrics of runs"],
)
@pytest.mark.timeout(400)
def test_it_reads_the_mount_as_the_store_itself(sdk: Sdk, mounted: Mounted, sample_store: Path, program: str) -> None:
    there = sdk.ask(PROLOGUE + program, sample_store)
    assert there
    assert sdk.ask(PROLOGUE + program, mounted.mountpoint) == there


def test_it_downloads_what_the_manifest_says(sdk: Sdk, mounted: Mounted, tmp_path: Path) -> None:
    files = sdk.ask(PROLOGUE + DOWNLOAD, mounted.mountpoint, tmp_path / "download")
    assert files
    for path, size, digest in files:
        content = (tmp_path / "download" / path).read_bytes()
        assert len(content) == size
        assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_soft_deleted_version_is_not_there(sdk: Sdk, mounted: Mounted) -> None:
    program = PROLOGUE + 'storage.load_artifact("resnet50", "model", version=2)'
    done = sdk.run("-c", program, mounted.mountpoint, check=False)
    assert "FileNotFoundError: Version not found: resnet50:v2" in done.stderr


def test_saving_a_version_is_refused_at_once(sdk: Sdk, mounted: Mounted, tmp_path: Path) -> None:
    """Its lock waits 30 seconds for somebody who holds it; a read-only file system is no such somebody."""
    (tmp_path / "weights").write_bytes(b"new")
    done = sdk.run("-c", PROLOGUE + SAVE, mounted.mountpoint, tmp_path / "weights", timeout_s=20, check=False)
    assert "Read-only file system" in done.stderr.splitlines()[-1]
    assert (mounted.mountpoint / "artifacts/model/resnet50/.lock").exists()


def test_deleting_a_version_is_refused(sdk: Sdk, mounted: Mounted) -> None:
    assert sdk.ask(PROLOGUE + DELETE, mounted.mountpoint) == [False, False]
    assert (mounted.mountpoint / "artifacts/model/resnet50/v3/files/model.pth").exists()


def test_a_run_cannot_begin_in_the_mount(sdk: Sdk, mounted: Mounted) -> None:
    program = "import runicorn, sys; runicorn.init(project='vision', storage=sys.argv[1])"
    done = sdk.run("-c", program, mounted.mountpoint, timeout_s=20, check=False)
    assert "Read-only file system" in done.stderr.splitlines()[-1]


def test_its_database_of_runs_is_not_in_the_mount(sdk: Sdk, mounted: Mounted) -> None:
    """`runicorn.db` belongs to the server: its backend would have to make one, and says that it cannot."""
    program = "import sys; from runicorn.storage.backends import SQLiteStorageBackend as S; S(sys.argv[1])"
    done = sdk.run("-c", program, mounted.mountpoint, timeout_s=20, check=False)
    assert "sqlite3.OperationalError: unable to open database file" in done.stderr

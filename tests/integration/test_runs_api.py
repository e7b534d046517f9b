"""Runs, projects, lineage, local statistics and saved connections over HTTP, against a real mount and a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MountLocal
from tests.integration.test_connection_api import Served, login
from tests.mounts import Mounted

RUN_FIELDS = {
    "id": str,
    "run_dir": str,
    "created_time": float,
    "status": str,
    "pid": int,
    "best_metric_value": (float, type(None)),
    "best_metric_name": (str, type(None)),
    "project": str,
    "name": str,
    "artifacts_created_count": int,
    "artifacts_used_count": int,
    "summary": (dict, type(None)),
}


class Client:
    """A client of one daemon."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def get(self, path: str, **parameters: Any) -> Any:
        return self.http.get(path, params=parameters).raise_for_status().json()

    def refusal(self, path: str, **parameters: Any) -> tuple[int, str]:
        answer = self.http.get(path, params=parameters)
        return answer.status_code, answer.json()["detail"]


@pytest.fixture
def api(mounted: Mounted) -> Iterator[Client]:
    """Of the daemon that has mounted the sample store through SSH."""
    client = Client(mounted.api)
    with client.http:
        yield client


def test_every_run_has_every_field_and_a_folder_in_the_mount(api: Client, mounted: Mounted, sample_store: Path) -> None:
    runs = api.get("/api/runs")
    assert len(runs) == 8
    for run in runs:
        assert run.keys() == RUN_FIELDS.keys()
        for field, type in RUN_FIELDS.items():
            assert isinstance(run[field], type), field  # type: ignore[arg-type]
        folder = Path(run["run_dir"])
        assert folder == mounted.mountpoint / run["project"] / run["name"] / "runs" / run["id"]
        assert json.loads((folder / "meta.json").read_text())["id"] == run["id"]


def test_one_run_tells_where_its_files_are(api: Client, mounted: Mounted) -> None:
    (listed,) = api.get("/api/projects/nlp/names/解析/runs")
    run = api.get(f"/api/runs/{listed['id']}")
    assert run["run_dir"] == listed["run_dir"]
    assert (run["project"], run["name"], run["status"], run["summary"]) == ("nlp", "解析", "finished", {"ok": True})
    assert run["logs"] == f"{run['run_dir']}/logs.txt"
    assert run["metrics"] == run["metrics_step"] == f"{run['run_dir']}/events.jsonl"
    assert Path(run["metrics"]).parent.is_dir()
    assert run["started_at"] < run["ended_at"]
    assert (run["artifacts_created_count"], run["artifacts_used_count"]) == (0, 0)


def test_a_run_that_is_not_there_is_404(api: Client) -> None:
    assert api.refusal("/api/runs/nobody") == (404, "there is no run 'nobody'")
    assert api.refusal("/api/runs/nobody/artifacts")[0] == 404


def test_projects_and_their_experiments(api: Client) -> None:
    assert api.get("/api/projects") == {"projects": ["nlp", "vision"]}
    assert api.get("/api/projects/vision/names") == {"names": ["export", "prep", "train"]}
    assert api.get("/api/projects/nowhere/names") == {"names": []}
    assert api.get("/api/projects/vision/names/nothing/runs") == []


def test_what_a_run_created_and_used(api: Client) -> None:
    (export,) = api.get("/api/projects/vision/names/export/runs")
    found = api.get(f"/api/runs/{export['id']}/artifacts")
    assert [(a["type"], a["name"], a["version"], a["aliases"]) for a in found["used"]] == [
        ("model", "resnet50", 3, ["production"]),
        ("model", "resnet50", 1, ["stable"]),
    ]
    assert {a["name"] for a in found["created"]} == {"resnet50", "train-code", "imagenet-ref"}
    for artifact in (*found["created"], *found["used"]):
        assert artifact.keys() == {"name", "type", "version", "size_bytes", "created_at", "description", "aliases"}


def test_the_lineage_of_a_version(api: Client) -> None:
    graph = api.get("/api/artifacts/resnet50/v3/lineage", type="model")
    assert graph["root_artifact"] == "resnet50:v3"
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    assert {node["node_type"] for node in nodes.values()} == {"artifact", "run"}
    assert nodes["cifar-mini:v2"]["metadata"]["type"] == "dataset"
    for node in nodes.values():
        assert node.keys() == {"node_type", "node_id", "label", "metadata"}
    for edge in graph["edges"]:
        assert edge.keys() == {"source", "target", "edge_type", "created_at"}
        assert nodes[edge["target"] if edge["edge_type"] == "uses" else edge["source"]]["node_type"] == "run"
    shallow = api.get("/api/artifacts/resnet50/v3/lineage", max_depth=1)
    assert {node["label"] for node in shallow["nodes"] if node["node_type"] == "artifact"} == {
        "resnet50 v3", "cifar-mini v2", "resnet50 v1", "train-code v1", "imagenet-ref v1",
    }  # fmt: skip


@pytest.mark.parametrize("depth", ["0", "11", "-1", "many"])
def test_a_depth_out_of_range_is_422(api: Client, depth: str) -> None:
    status, detail = api.refusal("/api/artifacts/resnet50/v3/lineage", max_depth=depth)
    assert (status, "max_depth" in detail) == (422, True)


def test_the_lineage_of_an_unknown_version_is_404_and_of_an_ambiguous_one_409(api: Client) -> None:
    assert api.refusal("/api/artifacts/resnet50/v99/lineage")[0] == 404
    assert api.refusal("/api/artifacts/resnet50/v999999999/lineage")[0] == 404
    assert api.refusal("/api/artifacts/resnet50/v1/lineage")[0] == 409


def test_health(api: Client, mounted: Mounted) -> None:
    health = api.get("/api/health")
    assert (health["status"], health["storage"]) == ("ok", mounted.source)
    assert health["version"]
    assert isinstance(health["cache"], dict)


def test_a_run_that_was_finished_meanwhile_shows_after_a_sync(
    mount_local: MountLocal, store_writer: StoreWriter
) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"1"})
    run = store_writer.add_run("p", "n", status="running", uses=[("model", "net", 1)])
    mounted = mount_local(store_writer.root)
    with (client := Client(mounted.api)).http:
        assert client.get(f"/api/runs/{run}")["status"] == "running"
        folder = store_writer.run_folder(run)
        assert client.get(f"/api/runs/{run}")["run_dir"] == str(folder), "a local store's own folder"
        (folder / "status.json").write_text('{"status": "finished", "started_at": 1.0, "ended_at": 2.0}')
        mounted.run("sync")
        assert client.get(f"/api/runs/{run}")["ended_at"] == 2.0
        store_writer.soft_delete_run(run)
        mounted.run("sync")
        assert client.get("/api/runs") == []
        (_, node) = client.get("/api/artifacts/net/v1/lineage")["nodes"]
        assert node["metadata"]["state"] == "deleted"


def test_a_local_stores_statistics_count_it_and_its_pool(mount_local: MountLocal, store_writer: StoreWriter) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"x" * 1000})
    store_writer.add_version("model", "net", {"a.bin": b"x" * 1000, "b.bin": b"y" * 500})
    store_writer.add_version("config", "net", {"c.yaml": b"z" * 10})
    mounted = mount_local(store_writer.root)
    with (client := Client(mounted.api)).http:
        assert client.get("/api/artifacts/stats") == {
            "total_artifacts": 2,
            "total_versions": 3,
            "total_size_bytes": 2510,
            "total_files": 4,
            "dedup_enabled": True,
            "by_type": {
                "config": {"count": 1, "versions": 1, "size_bytes": 10},
                "model": {"count": 1, "versions": 2, "size_bytes": 2500},
            },
            "dedup_pool_size_bytes": 1510,
            "space_saved_bytes": 1000,
            "dedup_ratio": 1000 / 2510,
            "dedup_complete": True,
        }
        config = client.get("/api/config")
        assert config["storage"] == config["user_root_dir"] == str(store_writer.root)
        assert config["cache_dir"] == str(mounted.cache_dir)
        store_writer.add_version("model", "net", {"a.bin": b"x" * 1000})
        mounted.run("sync")
        assert client.get("/api/artifacts/stats")["space_saved_bytes"] == 2000


def test_a_remote_stores_statistics_are_those_of_the_connection(api: Client) -> None:
    assert api.get("/api/artifacts/stats").keys() == {
        "connected", "last_sync", "total_artifacts", "cached_artifacts", "cache_size_bytes", "remote_size_bytes",
        "sync_count", "error_count",
    }  # fmt: skip


def test_without_a_mount_a_runs_folder_is_that_on_the_server(
    tmp_path: Path, sshd: PrivateSshd, sample_store: Path
) -> None:
    served = Served(tmp_path / "serve")
    try:
        served.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status()
        served.wait_for_sync()
        for run in served.get("/api/runs"):
            assert Path(run["run_dir"]) == sample_store / run["project"] / run["name"] / "runs" / run["id"]
        assert served.get("/api/config")["storage"] == ""
    finally:
        served.close()


def test_connections_are_saved_shown_and_removed_without_secrets(tmp_path: Path) -> None:
    secret = "correct-horse"
    served = Served(tmp_path / "serve")
    try:
        # As `curl -d` sends it: JSON that says it is a form.
        posted = {
            "host": "gpu.lab",
            "username": "alice",
            "remote_root": "/data",
            "auth": "password",
            "password": secret,
        }
        answer = served.http.post(
            "/api/config/ssh_connections",
            content=json.dumps(posted),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert answer.json() == {"ok": True, "message": "gpu.lab:22@alice is saved"}
        expected = {
            "key": "gpu.lab:22@alice",
            "host": "gpu.lab",
            "port": 22,
            "username": "alice",
            "remote_root": "/data",
            "name": "",
            "auth": "password",
            "auto_sync": True,
            "sync_interval_minutes": 10,
            "has_password": False,
            "has_private_key": False,
        }
        assert served.get("/api/config/ssh_connections") == {"connections": [expected]}
        details = "/api/config/ssh_connections/gpu.lab%3A22%40alice/details"
        assert served.get(details) == {"ok": True, "connection": expected}
        file = Path(served.get("/api/config")["config_file"])
        assert file.is_relative_to(tmp_path)
        assert secret not in file.read_text()
        assert secret not in served.log.read_text()
        gone = served.http.delete("/api/config/ssh_connections/gpu.lab:22@alice")
        assert gone.json() == {"ok": True, "message": "gpu.lab:22@alice is removed"}
        assert served.http.delete("/api/config/ssh_connections/gpu.lab:22@alice").status_code == 404
        assert served.http.get(details).status_code == 404
        bad: list[dict[str, object]] = [
            {"host": "gpu", "username": "alice", "port": 70000},
            {"host": "gpu"},
            {"host": "-x", "username": "alice"},
        ]
        for body in bad:
            assert served.post("/api/config/ssh_connections", body).status_code == 422
        assert "username" in served.post("/api/config/ssh_connections", {"host": "gpu"}).json()["detail"]
    finally:
        served.close()

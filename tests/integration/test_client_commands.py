"""The commands that talk to a running mount, and the API behind them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore
from tests.mounts import Mounted
from tests.waiting import wait_until


@pytest.fixture
def api(mounted: Mounted) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mounted.api, trust_env=False) as client:
        yield client


def test_umount_ends_the_daemon(mounted: Mounted) -> None:
    mounted.run("umount", str(mounted.mountpoint))
    assert mounted.process.wait(30) == 0
    assert not mounted.is_mounted()


def test_umount_of_a_mount_in_use_says_so(mounted: Mounted) -> None:
    with open(mounted.mountpoint / "artifacts/model/resnet50/versions.json", "rb"):
        refused = mounted.run("umount", str(mounted.mountpoint), check=False)
    assert refused.returncode == 1
    assert "in use" in refused.stderr


def test_umount_of_no_mount_says_so(mounted: Mounted, tmp_path: Path) -> None:
    refused = mounted.run("umount", str(tmp_path), check=False)
    assert (refused.returncode, "nothing is mounted" in refused.stderr) == (1, True)


def test_umount_of_another_file_system_is_refused(mounted: Mounted) -> None:
    refused = mounted.run("umount", "/proc", check=False)
    assert (refused.returncode, "is not runicornfs" in refused.stderr) == (1, True)


def test_ls_shows_deleted_versions_where_they_are_asked_for(mounted: Mounted) -> None:
    mounted.run("delete", "model/resnet50:v1", "--yes")
    assert "v1" not in mounted.run("ls", "model/resnet50").stdout.split()
    assert "v1" in mounted.run("ls", "model/resnet50", "--deleted").stdout.split()
    mounted.run("restore", "model/resnet50:v1")
    assert "v1" in mounted.run("ls", "model/resnet50").stdout.split()


def test_ls_lists_artifacts(mounted: Mounted) -> None:
    lines = mounted.run("ls").stdout.splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "VERSIONS", "LATEST", "SIZE", "UPDATED", "ALIASES"]
    (model,) = (line for line in lines if line.startswith("resnet50") and " model " in line)
    assert "production -> v3" in model
    assert len(mounted.run("ls", "--type", "model").stdout.splitlines()) == 2


def test_ls_of_a_name_lists_versions(mounted: Mounted) -> None:
    lines = mounted.run("ls", "resnet50", "--type", "model").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["VERSION", "v1", "v3", "v4"]


def test_ls_of_a_version_lists_files_and_what_is_here(mounted: Mounted) -> None:
    (mounted.mountpoint / "artifacts/model/resnet50/v3/files/model.pth").read_bytes()
    for version in ("resnet50:v3", "resnet50:3", "resnet50:production"):
        answer = json.loads(mounted.run("ls", version, "--type", "model", "--json").stdout)
        files = {file["path"]: file for file in answer["files"]}
        assert files["model.pth"]["cached_bytes"] == files["model.pth"]["size"] == 1_500_000
        assert files["config.json"]["cached_bytes"] == 0
        assert files["model.pth"]["mount_path"].endswith("/v3/files/model.pth")
    assert "s3://bucket/imagenet" in mounted.run("ls", "imagenet-ref:latest").stdout


def test_an_ambiguous_name_lists_the_types(mounted: Mounted) -> None:
    refused = mounted.run("ls", "resnet50", check=False)
    assert refused.returncode == 1
    assert "config" in refused.stderr
    assert "model" in refused.stderr
    assert mounted.run("ls", "resnet50:v3").stdout, "only the model has a version 3"


def test_an_unknown_name_is_said(mounted: Mounted) -> None:
    for name in ("nothing", "nothing:v1", "cifar-mini:v9", "cifar-mini:nightly"):
        assert mounted.run("ls", name, check=False).returncode == 1


def test_status_shows_it_at_a_glance(mounted: Mounted) -> None:
    shown = mounted.run("status").stdout
    for word in ("connected", str(mounted.mountpoint), "Last sync", "Cache"):
        assert word in shown
    answer = json.loads(mounted.run("status", "--json").stdout)
    assert answer["connected"] is True
    assert answer["mode"] == "remote"
    assert answer["sync_progress"]["status"] == "completed"
    assert answer["stats"]["total_artifacts"] == 5
    assert answer["mounts"] == [str(mounted.mountpoint)]


def test_cache_status(mounted: Mounted) -> None:
    (mounted.mountpoint / "artifacts/model/resnet50/v3/files/model.pth").read_bytes()
    answer = json.loads(mounted.run("cache", "status", "--json").stdout)
    assert answer["size_bytes"] == answer["bytes_fetched"] == 1_500_000
    assert answer["verified_files"] == 1
    assert "1.4MiB of 10.0GiB" in mounted.run("cache", "status").stdout


def test_sync_says_what_it_did(store_writer: StoreWriter, mount_store: MountStore) -> None:
    store_writer.add_version("model", "net", {"w.bin": b"1"})
    mounted = mount_store(store_writer.root)
    store_writer.add_version("model", "net", {"w.bin": b"2"})
    assert "synced 3 metadata files" in mounted.run("sync").stderr


def test_the_api_answers_as_described(api: httpx.Client) -> None:
    health = api.get("/api/health").json()
    assert (health["status"], health["cache"]["size_bytes"]) == ("ok", 0)
    artifacts = api.get("/api/artifacts", params={"type": "model"}).json()
    assert [(entry["name"], entry["num_versions"], entry["latest_version"]) for entry in artifacts] == [
        ("resnet50", 3, 4)
    ]
    assert artifacts[0]["aliases"] == {"latest": 4, "production": 3, "stable": 1}
    versions = api.get("/api/artifacts/resnet50/versions", params={"type": "model", "include_deleted": "true"}).json()
    assert [(entry["version"], entry["aliases"]) for entry in versions] == [
        (1, ["stable"]), (2, []), (3, ["production"]), (4, ["latest"]),
    ]  # fmt: skip
    metadata = api.get("/api/artifacts/resnet50/v1", params={"type": "model"}).json()
    assert (metadata["metadata"]["note"], metadata["aliases"]) == ("résumé", ["stable"])
    files = api.get("/api/artifacts/resnet50/v1/files", params={"type": "model"}).json()
    assert files["total_files"] == len(files["files"]) == 2
    assert all(file["is_remote"] and file["absolute_path"] is None for file in files["files"])
    assert api.post("/api/remote/sync").json()["ok"] is True


def test_the_api_refuses_with_one_shape(api: httpx.Client) -> None:
    refusals = {
        "/api/artifacts/resnet50/versions": (409, "ambiguous_type"),
        "/api/artifacts/nothing/versions": (404, "not_found"),
        "/api/artifacts/resnet50/v99": (404, "not_found"),
        "/api/nothing": (404, "not_found"),
        "/api/artifacts/cifar-mini/versions?include_deleted=perhaps": (422, "invalid_input"),
    }
    for path, (status, code) in refusals.items():
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (status, code), path
        assert answer.json()["detail"]
    assert api.get("/api/health", headers={"Host": "evil.example"}).status_code == 403
    assert api.post("/api/remote/sync", headers={"Origin": "http://evil.example"}).status_code == 403


def test_a_port_that_was_named_and_is_taken_is_an_error(mounted: Mounted, sample_store: Path, tmp_path: Path) -> None:
    address = mounted.api.removeprefix("http://")
    command = [sys.executable, "-m", "runicornfs", "mount", str(sample_store), str(tmp_path / "second")]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), "--api", address],
        capture_output=True, text=True, check=False, env=mounted.environment, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert address in done.stderr


def test_mode_says_and_changes_which_store_is_in_use(mounted: Mounted) -> None:
    assert mounted.run("mode").stdout == "remote, connected\n"
    assert json.loads(mounted.run("mode", "--json").stdout)["mode"] == "remote"
    assert mounted.run("mode", "remote").stdout.startswith("Switched to remote mode")
    refused = mounted.run("mode", "local", check=False)
    assert (refused.returncode, "--store" in refused.stderr) == (1, True)
    assert mounted.run("mode", "sideways", check=False).returncode == 2


def test_status_shows_everything_at_a_glance(mounted: Mounted) -> None:
    mounted.run("get", "resnet50:v3", "--type", "model")
    shown = mounted.run("status").stdout
    for line in ("Store:", "Connection: connected", "Last sync:", "Cache:", f"Mounted on: {mounted.mountpoint}"):
        assert line in shown
    assert "Downloads:  none running, 1 ended" in shown


def test_the_daemon_leaves_nothing_behind(mounted: Mounted) -> None:
    run = mounted.folder / "run" / "runicornfs"
    assert os.listdir(run) == [f"{mounted.process.pid}.json"]
    mounted.stop()
    assert os.listdir(run) == []
    wait_until(lambda: not mounted.is_mounted(), "the mount to be gone")


def test_a_type_and_a_name_are_taken_as_the_tree_writes_them(mounted: Mounted) -> None:
    assert mounted.run("ls", "model/resnet50:v3").stdout == mounted.run("ls", "resnet50:v3", "--type", "model").stdout
    assert "TYPE/NAME" in mounted.run("ls", "resnet50", check=False).stderr


def test_the_address_of_the_api_is_taken_as_mount_takes_it(mounted: Mounted) -> None:
    assert mounted.run("status", "--api", mounted.api.removeprefix("http://")).stdout

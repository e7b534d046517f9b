"""Downloads over HTTP and by the commands, from a real server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MakeRelay, MountLocal, MountStore
from tests.downloads import DownloadApi
from tests.mounts import Mounted
from tests.terminals import on_terminal
from tests.waiting import wait_until

MIB = 1 << 20
FIELDS = {
    "task_id": str,
    "artifact_name": str,
    "artifact_type": str,
    "artifact_version": int,
    "target_dir": str,
    "total_files": int,
    "downloaded_files": int,
    "total_bytes": int,
    "downloaded_bytes": int,
    "progress_percent": float,
    "status": str,
    "error": type(None),
    "bytes_per_second": float,
    "eta_seconds": type(None),
    "current_file": type(None),
    "from_cache_bytes": int,
}


@pytest.fixture
def store(store_writer: StoreWriter) -> StoreWriter:
    store_writer.add_version(
        "model",
        "net",
        {"model.pth": os.urandom(3 * MIB), "config/config.json": b"{}"},
        references=[{"uri": "s3://bucket/data", "size": 5}],
    )
    return store_writer


@pytest.fixture
def mounted_net(store: StoreWriter, mount_store: MountStore) -> Mounted:
    return mount_store(store.root)


@pytest.fixture
def api(mounted_net: Mounted) -> DownloadApi:
    return DownloadApi(mounted_net)


def source(store: StoreWriter, path: str, name: str = "net") -> bytes:
    return (store.version_folder("model", name, 1) / "files" / path).read_bytes()


def test_a_version_is_downloaded_to_its_default_folder(
    store: StoreWriter, mounted_net: Mounted, api: DownloadApi
) -> None:
    started = api.start("net/v1")
    assert (started["ok"], started["artifact"]) == (True, "net:v1")
    assert "1 references to data elsewhere are not downloaded" in started["message"]
    done = api.ended(started["task_id"])
    (folder,) = mounted_net.cache_dir.glob("*/downloads/net/v1")
    assert (done["status"], done["target_dir"], done["progress_percent"]) == ("completed", str(folder), 100)
    assert (folder / "model.pth").read_bytes() == source(store, "model.pth")
    assert (folder / "config/config.json").read_bytes() == b"{}"
    assert (done["downloaded_files"], done["downloaded_bytes"]) == (2, 3 * MIB + 2)


def test_the_answers_have_every_field(api: DownloadApi) -> None:
    task = api.start("net/v1")["task_id"]
    status = api.ended(task)
    assert {name: type(status[name]) for name in FIELDS} == FIELDS
    listed = api.get("/api/remote/downloads")
    assert (listed["active_count"], listed["total_count"]) == (0, 1)
    (entry,) = listed["downloads"]
    assert {name: entry[name] for name in FIELDS} == {name: status[name] for name in FIELDS}
    assert entry["started_at"] <= entry["completed_at"]


def test_a_body_is_taken_as_curl_sends_it(api: DownloadApi, tmp_path: Path) -> None:
    answer = api.call(
        "POST",
        "/api/remote/download/net/v1",
        content=json.dumps({"target_dir": str(tmp_path / "mine")}),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert api.ended(answer.json()["task_id"])["status"] == "completed"
    assert (tmp_path / "mine/model.pth").stat().st_size == 3 * MIB
    assert api.call("POST", "/api/remote/download/net/v1").status_code == 200


def test_what_cannot_be_is_refused_in_one_shape(api: DownloadApi, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"mine")
    refusals: list[tuple[str, dict[str, object], int, str]] = [
        ("net/v9", {}, 404, "not_found"),
        ("nothing/v1", {}, 404, "not_found"),
        ("net/v1", {"target_dir": "here"}, 422, "invalid_input"),
        ("net/v1", {"target_dir": 5}, 422, "invalid_input"),
        ("net/v1", {"target_dir": str(tmp_path)}, 409, "conflict"),
        ("net/v1", {"target_dir": str(tmp_path / "model.pth")}, 409, "conflict"),
    ]
    for version, body, status, code in refusals:
        assert api.start(version, status, **body)["code"] == code
    assert "model.pth" in api.start("net/v1", 409, target_dir=str(tmp_path))["detail"]
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model.pth"]
    for method, path in [("GET", "nothing/status"), ("DELETE", "nothing"), ("POST", "nothing/open")]:
        assert api.call(method, f"/api/remote/download/{path}").status_code == 404
    assert api.get("/api/remote/downloads")["total_count"] == 0


def test_nothing_is_transferred_twice(mounted_net: Mounted, api: DownloadApi, tmp_path: Path) -> None:
    (mounted_net.mountpoint / "artifacts/model/net/v1/files/model.pth").read_bytes()
    first = api.ended(api.start("net/v1")["task_id"])
    assert first["from_cache_bytes"] == 3 * MIB
    again = api.ended(api.start("net/v1")["task_id"])
    elsewhere = api.ended(api.start("net/v1", target_dir=str(tmp_path / "elsewhere"))["task_id"])
    assert again["from_cache_bytes"] == elsewhere["from_cache_bytes"] == 3 * MIB + 2
    assert api.bytes_fetched() == 3 * MIB + 2


def test_the_mount_reads_what_was_downloaded_from_the_cache(
    store: StoreWriter, mounted_net: Mounted, api: DownloadApi
) -> None:
    api.ended(api.start("net/v1")["task_id"])
    read = (mounted_net.mountpoint / "artifacts/model/net/v1/files/model.pth").read_bytes()
    assert read == source(store, "model.pth")
    assert api.bytes_fetched() == 3 * MIB + 2


@pytest.mark.promise("D4")
def test_a_download_and_its_cached_copy_are_two_files(mounted_net: Mounted, api: DownloadApi) -> None:
    """Whoever edits the download edits nothing else."""
    folder = Path(api.ended(api.start("net/v1")["task_id"])["target_dir"])
    assert (folder / "model.pth").stat().st_nlink == 1
    (folder / "model.pth").write_bytes(b"edited")
    read = (mounted_net.mountpoint / "artifacts/model/net/v1/files/model.pth").read_bytes()
    assert len(read) == 3 * MIB


def test_ten_at_once(store: StoreWriter, mounted_net: Mounted, api: DownloadApi) -> None:
    for number in range(10):
        store.add_version("model", f"net{number}", {"a.bin": os.urandom(MIB)})
    mounted_net.run("sync")
    tasks = [api.start(f"net{number}/v1")["task_id"] for number in range(10)]
    ended = [api.ended(task) for task in tasks]
    assert {entry["status"] for entry in ended} == {"completed"}
    for number, entry in enumerate(ended):
        assert (Path(entry["target_dir"]) / "a.bin").read_bytes() == source(store, "a.bin", f"net{number}")
    assert api.bytes_fetched() == 10 * MIB


@pytest.mark.promise("D5")
def test_cancel_in_the_middle_of_a_large_file(
    store: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    content = os.urandom(24 * MIB)
    store.add_version("model", "large", {"a.bin": content})
    line = relay(sshd, mbit=80)
    api = DownloadApi(mount_store(store.root, port=line.port))
    task = api.start("large/v1")["task_id"]
    assert api.start("large/v1", 409)["detail"].endswith(task)
    wait_until(lambda: api.status(task)["downloaded_bytes"] > 4 * MIB, "some of it")
    now = api.status(task)
    assert now["status"] == "running"
    assert now["current_file"] == "a.bin"
    assert now["bytes_per_second"] > 0
    assert now["eta_seconds"] > 0
    folder = Path(now["target_dir"])
    cancelled = api.call("DELETE", f"/api/remote/download/{task}")
    assert (cancelled.status_code, cancelled.json()["ok"]) == (200, True)
    assert api.status(task)["status"] == "cancelled"
    assert os.listdir(folder) == []
    assert api.call("DELETE", f"/api/remote/download/{task}").status_code == 404
    again = api.ended(api.start("large/v1")["task_id"])
    assert again["status"] == "completed"
    assert again["from_cache_bytes"] > 4 * MIB
    assert (folder / "a.bin").read_bytes() == content
    # What was on its way may come twice, what had come may not.
    assert api.bytes_fetched() < 24 * MIB + 8 * MIB


def test_prefetch_check_and_evict(mounted_net: Mounted, api: DownloadApi) -> None:
    def prefetch(**body: object) -> dict[str, Any]:
        return dict(api.call("POST", "/api/prefetch", json={"artifact": "net:latest", **body}).json())

    def missing() -> list[str]:
        return [file["path"] for file in prefetch(check=True)["files"] if not file["is_here"]]

    assert missing() == ["model.pth", "config/config.json"]
    task = prefetch(paths=["*.pth"])["task_id"]
    done = api.ended(task)
    assert (done["status"], done["target_dir"], done["total_files"]) == ("completed", None, 1)
    assert missing() == ["config/config.json"]
    assert api.call("POST", f"/api/remote/download/{task}/open").status_code == 409
    (mounted_net.mountpoint / "artifacts/model/net/v1/files/model.pth").read_bytes()
    assert api.bytes_fetched() == 3 * MIB
    wait_until(lambda: prefetch(evict=True)["freed_bytes"] or missing() != ["config/config.json"], "the file to go")
    assert missing() == ["model.pth", "config/config.json"]
    refusals: list[tuple[dict[str, object], int]] = [
        ({"paths": ["*.txt"]}, 404),
        ({"check": True, "evict": True}, 422),
        ({"paths": "x"}, 422),
    ]
    for body, status in refusals:
        assert api.call("POST", "/api/prefetch", json={"artifact": "net:v1", **body}).status_code == status
    assert api.call("POST", "/api/prefetch").status_code == 422


def test_without_a_display_open_answers_the_path(api: DownloadApi) -> None:
    done = api.ended(api.start("net/v1")["task_id"])
    answer = api.call("POST", f"/api/remote/download/{done['task_id']}/open").json()
    assert answer["ok"] is True
    assert answer["path"] == done["target_dir"]


def test_names_of_odd_bytes_are_downloaded(store_writer: StoreWriter, mount_store: MountStore) -> None:
    odd = "説明 '\"$x`\n\u202e.bin"
    store_writer.add_version("model", "we ird'name", {f"-d/{odd}": b"odd"})
    api = DownloadApi(mount_store(store_writer.root))
    done = api.ended(api.start("we%20ird%27name/v1")["task_id"])
    assert done["status"] == "completed"
    assert (Path(done["target_dir"]) / "-d" / odd).read_bytes() == b"odd"


def test_a_store_of_this_machine_is_downloaded_from(store: StoreWriter, mount_local: MountLocal) -> None:
    api = DownloadApi(mount_local(store.root))
    done = api.ended(api.start("net/v1")["task_id"])
    assert done["status"] == "completed"
    assert (Path(done["target_dir"]) / "model.pth").read_bytes() == source(store, "model.pth")


def test_a_second_process_downloads_through_the_cache_of_the_first(
    store: StoreWriter, mounted_net: Mounted, mount_store: MountStore, api: DownloadApi, tmp_path: Path
) -> None:
    second = DownloadApi(mount_store(store.root, "--cache-dir", str(mounted_net.cache_dir)))
    done = second.ended(second.start("net/v1")["task_id"])
    assert done["status"] == "completed"
    assert (Path(done["target_dir"]) / "model.pth").read_bytes() == source(store, "model.pth")
    assert api.bytes_fetched() == 3 * MIB + 2
    assert api.ended(api.start("net/v1", target_dir=str(tmp_path / "mine"))["task_id"])["from_cache_bytes"] > 3 * MIB
    assert api.get("/api/remote/downloads")["total_count"] == 1, "each process has its own tasks"
    assert second.call("POST", "/api/prefetch", json={"artifact": "net:v1", "evict": True}).json()["ok"] is True


def test_without_a_connection_only_what_is_here_is_downloaded(
    store: StoreWriter, mounted_net: Mounted, mount_store: MountStore, api: DownloadApi
) -> None:
    store.add_version("model", "other", {"b.bin": b"b"})
    mounted_net.run("sync")
    mounted_net.run("prefetch", "net:v1")
    mounted_net.stop()
    api = DownloadApi(mount_store(store.root, "--cache-dir", str(mounted_net.cache_dir), "--offline"))
    assert "connect first" in api.start("other/v1", 400)["detail"]
    assert api.call("POST", "/api/prefetch", json={"artifact": "other:v1"}).status_code == 400
    assert api.ended(api.start("net/v1")["task_id"])["status"] == "completed"


def test_get_prints_the_folder(store: StoreWriter, mounted_net: Mounted, tmp_path: Path) -> None:
    done = mounted_net.run("get", "net:latest", "--to", str(tmp_path / "mine"))
    assert done.stdout == f"{tmp_path}/mine\n"
    assert "references to data elsewhere" in done.stderr
    assert (tmp_path / "mine/model.pth").read_bytes() == source(store, "model.pth")
    state = json.loads(mounted_net.run("get", "model/net:v1", "--json").stdout)
    assert (state["status"], state["from_cache_bytes"]) == ("completed", 3 * MIB + 2)
    lines = mounted_net.run("downloads").stdout.splitlines()
    assert [line.split()[1:3] for line in lines[1:]] == [["model/net:v1", "completed"]] * 2
    assert json.loads(mounted_net.run("downloads", "--json").stdout)["total_count"] == 2


def test_get_says_why_not(mounted_net: Mounted, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"mine")
    refused = mounted_net.run("get", "net:v1", "--to", str(tmp_path), check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "model.pth" in refused.stderr
    assert mounted_net.run("get", "net:v1", "--to", str(tmp_path), "--overwrite").returncode == 0
    assert mounted_net.run("get", "net:v9", check=False).returncode == 1
    assert mounted_net.run("get", "net", check=False).returncode == 1


def test_get_shows_a_bar_and_ctrl_c_cancels(
    store: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    store.add_version("model", "large", {"a.bin": os.urandom(24 * MIB)})
    line = relay(sshd, mbit=40)
    mounted = mount_store(store.root, port=line.port)
    with on_terminal([sys.executable, "-m", "runicornfs", "get", "large:v1"], mounted.environment) as terminal:
        shown = terminal.read_until(b"0/1 files")
        assert b"downloading" in shown
        assert b"B/s" in shown
        terminal.type(b"\x03")
        terminal.read_until(b"cancelled: what came stays in the cache")
        assert terminal.wait() == 1
    (entry,) = DownloadApi(mounted).get("/api/remote/downloads")["downloads"]
    assert entry["status"] == "cancelled"


def test_cancel_takes_the_beginning_of_a_task(
    store: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    store.add_version("model", "large", {"a.bin": os.urandom(24 * MIB)})
    line = relay(sshd, mbit=40)
    mounted = mount_store(store.root, port=line.port)
    task = DownloadApi(mounted).start("large/v1")["task_id"]
    assert "large:v1 cancelled" in mounted.run("cancel", task[:5]).stdout
    assert mounted.run("cancel", task, check=False).returncode == 1


def test_the_command_prefetch(mounted_net: Mounted) -> None:
    missing = mounted_net.run("prefetch", "net:v1", "--check", check=False)
    assert missing.returncode == 1
    assert [line.split()[-2:] for line in missing.stdout.splitlines()[1:]] == [
        ["no", "model.pth"],
        ["no", "config/config.json"],
    ]
    assert "1 files: 3.0MiB in the cache, 3.0MiB transferred" in mounted_net.run("prefetch", "net:v1", "*.pth").stdout
    assert mounted_net.run("prefetch", "net:v1", "*.pth", "--check").returncode == 0
    mounted_net.run("prefetch", "net:v1")
    assert "freed" in mounted_net.run("prefetch", "net:v1", "--evict").stdout
    nothing = mounted_net.run("prefetch", "net:v1", "*.txt", check=False)
    assert (nothing.returncode, "matches '*.txt'" in nothing.stderr) == (1, True)

"""Connecting, disconnecting and switching through the control API of `runicornfs serve`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MakeRelay
from tests.mounts import environment_in, require_fuse
from tests.waiting import wait_until

MODEL = "artifacts/model/resnet50/v3/files/model.pth"


class Served:
    """A running `runicornfs serve` in a home of its own. environment: what its environment has besides."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.mountpoint = folder / "mount"
        self.log = folder / "log"
        self.cache_dir = str(folder / "cache")
        config = folder / "ssh_config"
        folder.mkdir(exist_ok=True)
        config.touch()
        command = [sys.executable, "-W", "default", "-m", "runicornfs", "serve", "--api", "127.0.0.1:0"]
        command += ["--cache-dir", self.cache_dir, "--known-hosts", str(folder / "known_hosts"), "-F", str(config)]
        command += ["--sync-interval", "0", *options]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                env=environment_in(folder) | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._address() is not None, "serve to listen")
        self.http = httpx.Client(base_url=self._address() or "", trust_env=False, timeout=60)

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def post(self, path: str, body: Mapping[str, object] | None = None) -> httpx.Response:
        return self.http.post(path, json=body)

    def status(self) -> Any:
        return self.get("/api/remote/status")

    def wait_for(self, status: str) -> None:
        wait_until(lambda: self.status()["status"] == status, f"the status {status}")

    def wait_for_sync(self) -> None:
        wait_until(lambda: self.status()["sync_progress"]["status"] in ("completed", "failed"), "the sync to end")
        assert self.status()["sync_progress"]["errors"] == []

    def names(self) -> set[str]:
        return {artifact["name"] for artifact in self.get("/api/artifacts")}

    def close(self) -> None:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()
        assert "Traceback" not in self.log.read_text()
        assert str(self.mountpoint) not in Path("/proc/self/mounts").read_text()

    def _address(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"^listening on (http://\S+)$", self.log.read_text(), re.MULTILINE)
        return None if found is None else found[1]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Served]:
    require_fuse()
    served = Served(tmp_path / "serve", "--mount", str(tmp_path / "serve" / "mount"))
    yield served
    served.close()


def login(sshd: PrivateSshd, root: Path, **more: object) -> dict[str, object]:
    """The body of a request to connect. The host's key is accepted by its fingerprint."""
    return {
        "host": "127.0.0.1",
        "port": sshd.port,
        "username": sshd.user,
        "private_key_path": str(sshd.identity),
        "remote_root": str(root),
        "accept_host_key": sshd.host_key_fingerprint,
        "use_agent": False,
    } | more


def test_before_anything_is_connected_there_is_an_empty_store(serve: Served) -> None:
    now = serve.status()
    assert (now["connected"], now["mounts"]) == (True, [str(serve.mountpoint)])
    assert serve.get("/api/artifacts") == []
    assert list(serve.mountpoint.iterdir()) == []
    assert serve.get("/api/remote/mode") == {"mode": "local", "remote_available": False, "remote_connected": False}


def test_connecting_answers_what_is_there_and_the_first_sync_starts(
    serve: Served, sshd: PrivateSshd, sample_store: Path
) -> None:
    answer = serve.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status().json()
    assert (answer["ok"], answer["status"], answer["host"]) == (True, "connected", "127.0.0.1")
    assert answer["structure_verified"]["artifacts_exists"]
    assert answer["structure_verified"]["has_model"]
    assert Path(answer["cache_dir"]).is_dir()
    serve.wait_for_sync()
    now = serve.status()
    assert (now["mode"], now["status"], now["connected"], now["offline"]) == ("remote", "connected", True, False)
    assert "resnet50" in serve.names()


@pytest.mark.promise("R6")
def test_the_mount_follows_and_open_files_keep_their_bytes(
    serve: Served, sshd: PrivateSshd, own_sshd: PrivateSshd, sample_store: Path, tmp_path: Path
) -> None:
    other = StoreWriter(tmp_path / "other")
    other.add_version("model", "resnet50", {"model.pth": b"another model"})
    serve.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status()
    serve.wait_for_sync()
    expected = (sample_store / MODEL).read_bytes()
    assert (serve.mountpoint / MODEL).read_bytes()[:1000] == expected[:1000]
    with open(serve.mountpoint / MODEL, "rb") as file:
        assert file.read(1000) == expected[:1000]
        serve.post("/api/remote/connect", login(own_sshd, other.root)).raise_for_status()
        serve.wait_for_sync()
        assert serve.names() == {"resnet50"}
        wait_until(lambda: not (serve.mountpoint / MODEL).exists(), "the other store to be shown")
        there = serve.mountpoint / "artifacts/model/resnet50/v1/files/model.pth"
        wait_until(lambda: there.read_bytes() == b"another model", "its bytes")
        assert file.read() == expected[1000:]
    folders = {path.name for path in (tmp_path / "serve" / "cache").iterdir() if path.is_dir()}
    assert len(folders) == 2, "each server has a cache folder of its own"


def test_after_disconnecting_what_was_synced_is_still_there(
    serve: Served, sshd: PrivateSshd, sample_store: Path
) -> None:
    assert serve.post("/api/remote/disconnect").status_code == 400
    serve.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status()
    serve.wait_for_sync()
    (serve.mountpoint / MODEL).read_bytes()
    answer = serve.post("/api/remote/disconnect").raise_for_status().json()
    assert (answer["ok"], answer["status"]) == (True, "disconnected")
    now = serve.status()
    assert (now["mode"], now["connected"], now["offline"], now["status"]) == ("remote", False, True, "disconnected")
    assert "resnet50" in serve.names()
    assert (serve.mountpoint / MODEL).read_bytes() == (sample_store / MODEL).read_bytes()
    assert serve.get("/api/remote/mode")["remote_available"]
    assert serve.post("/api/remote/connect", login(sshd, sample_store)).json()["ok"]
    assert serve.status()["connected"]


def test_an_unknown_host_key_is_a_question_with_its_fingerprint(
    serve: Served, sshd: PrivateSshd, sample_store: Path
) -> None:
    unasked = login(sshd, sample_store)
    del unasked["accept_host_key"]
    question = serve.post("/api/remote/connect", unasked)
    assert (question.status_code, question.json().get("code")) == (409, "host_key_unknown"), question.text
    assert question.json()["host_key"]["fingerprint"] == sshd.host_key_fingerprint
    wrong = serve.post("/api/remote/connect", login(sshd, sample_store, accept_host_key="SHA256:" + "A" * 43))
    assert wrong.status_code == 409
    serve.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status()
    assert serve.post("/api/remote/connect", unasked).json()["ok"], "it is known from now on"


def test_a_refused_connection_leaves_the_one_before(
    serve: Served, sshd: PrivateSshd, sample_store: Path, tmp_path: Path
) -> None:
    serve.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status()
    serve.wait_for_sync()
    missing = serve.post("/api/remote/connect", login(sshd, tmp_path / "nothing"))
    assert missing.status_code == 502
    assert "there is no folder" in missing.json()["detail"].lower()
    refused = serve.post("/api/remote/connect", login(sshd, sample_store, port=1, accept_host_key=None))
    assert refused.status_code == 503
    assert serve.status()["connected"]
    assert "resnet50" in serve.names()


@pytest.mark.parametrize(
    ("field", "value"), [("host", ""), ("port", 0), ("host", "-oProxyCommand=x"), ("remote_root", "relative")]
)
def test_malformed_requests_name_the_field(
    serve: Served, sshd: PrivateSshd, sample_store: Path, field: str, value: object
) -> None:
    refused = serve.post("/api/remote/connect", login(sshd, sample_store, **{field: value}))
    assert refused.status_code == 422, refused.text


def test_a_pasted_key_works_and_is_never_told_to_anybody(
    serve: Served, sshd: PrivateSshd, sample_store: Path, tmp_path: Path
) -> None:
    key = sshd.identity.read_text()
    body = login(sshd, sample_store, private_key=key)
    del body["private_key_path"]
    answer = serve.post("/api/remote/connect", body).raise_for_status()
    secret = key.splitlines()[2]
    assert secret not in answer.text
    serve.wait_for_sync()
    assert secret not in serve.log.read_text()
    for path in (tmp_path / "serve").rglob("*"):
        if path.is_file() and serve.mountpoint not in path.parents:
            assert secret.encode() not in path.read_bytes(), path
    both = login(sshd, sample_store, private_key="nonsense", password="hunter2-secret")
    refused = serve.post("/api/remote/connect", both)
    assert refused.status_code == 422
    assert "hunter2" not in refused.text


def test_a_lost_line_is_reconnected_and_seen_in_the_status(
    serve: Served, sshd: PrivateSshd, relay: MakeRelay, sample_store: Path
) -> None:
    line = relay(sshd)
    serve.post("/api/remote/connect", login(sshd, sample_store, port=line.port)).raise_for_status()
    serve.wait_for_sync()
    line.refuse()
    line.drop()
    serve.wait_for("reconnecting")
    assert serve.status()["offline"]
    line.accept()
    serve.wait_for("connected")


def test_switching_to_local_needs_a_local_store(serve: Served) -> None:
    for mode in ("local", "remote"):
        refused = serve.post("/api/remote/mode/switch", {"mode": mode})
        assert refused.status_code == 400
    assert serve.post("/api/remote/mode/switch", {"mode": "sideways"}).status_code == 422


def test_a_local_and_a_remote_store_are_switched_between(sshd: PrivateSshd, sample_store: Path, tmp_path: Path) -> None:
    require_fuse()
    here = StoreWriter(tmp_path / "here")
    here.add_version("model", "mine", {"weights.bin": b"local"})
    served = Served(tmp_path / "serve", "--store", str(here.root), "--mount", str(tmp_path / "serve/mount"))
    try:
        assert served.names() == {"mine"}
        served.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status()
        served.wait_for_sync()
        assert served.get("/api/remote/mode") == {"mode": "remote", "remote_available": True, "remote_connected": True}
        assert "resnet50" in served.names()
        switched = served.post("/api/remote/mode/switch", {"mode": "local"}).raise_for_status().json()
        assert (switched["ok"], switched["mode"]) == (True, "local")
        assert served.names() == {"mine"}
        wait_until(lambda: os.listdir(served.mountpoint / "artifacts/model") == ["mine"], "the mount to follow")
        served.post("/api/remote/mode/switch", {"mode": "remote"}).raise_for_status()
        assert served.post("/api/remote/disconnect").json()["ok"]
        assert served.get("/api/remote/mode") == {"mode": "local", "remote_available": True, "remote_connected": False}
    finally:
        served.close()


def test_verify_says_what_is_there(serve: Served, sshd: PrivateSshd, sample_store: Path) -> None:
    before = serve.get("/api/remote/verify")
    assert (before["connected"], before["structure"]) == (False, {})
    serve.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status()
    serve.wait_for_sync()
    answer = serve.get("/api/remote/verify")
    assert (answer["connected"], answer["error"], answer["adapter_status"]) == (True, None, "connected")
    assert {"artifacts_exists", "has_model", "has_experiments", "readable", "python3"} <= answer["structure"].keys()


def test_mounts_come_and_go(serve: Served, sshd: PrivateSshd, sample_store: Path, tmp_path: Path) -> None:
    serve.post("/api/remote/connect", login(sshd, sample_store)).raise_for_status()
    serve.wait_for_sync()
    second = tmp_path / "second"
    made = serve.post("/api/mounts", {"mountpoint": str(second)}).raise_for_status().json()
    assert made["mountpoint"] == str(second)
    assert (second / MODEL).read_bytes() == (sample_store / MODEL).read_bytes()
    assert {mount["mountpoint"] for mount in serve.get("/api/mounts")["mounts"]} == {str(second), str(serve.mountpoint)}
    serve.http.delete("/api/mounts", params={"mountpoint": str(second)}).raise_for_status()
    assert list(second.iterdir()) == []
    assert serve.http.delete("/api/mounts", params={"mountpoint": str(second)}).status_code == 404
    assert serve.post("/api/mounts", {"mountpoint": "relative"}).status_code == 422


def test_what_an_earlier_process_synced_is_browsed_without_a_network(
    own_sshd: PrivateSshd, sample_store: Path, tmp_path: Path
) -> None:
    require_fuse()
    first = Served(tmp_path / "serve", "--mount", str(tmp_path / "serve/mount"))
    try:
        first.post("/api/remote/connect", login(own_sshd, sample_store)).raise_for_status()
        first.wait_for_sync()
        (first.mountpoint / MODEL).read_bytes()
    finally:
        first.close()
    own_sshd.stop()
    second = Served(tmp_path / "again", "--mount", str(tmp_path / "again/mount"), "--cache-dir", first.cache_dir)
    try:
        assert second.post("/api/remote/connect", login(own_sshd, sample_store)).status_code == 503
        answer = second.post("/api/remote/mode/switch", {"mode": "remote"}).raise_for_status().json()
        assert (answer["mode"], "offline" in answer["message"]) == ("remote", True)
        assert "resnet50" in second.names()
        shown = second.mountpoint / MODEL
        wait_until(shown.exists, "the mount to follow")
        assert shown.read_bytes() == (sample_store / MODEL).read_bytes()
        own_sshd.start()
        second.post("/api/remote/connect", login(own_sshd, sample_store)).raise_for_status()
        assert second.status()["connected"]
    finally:
        second.close()


def test_metadata_is_synced_by_itself_where_that_is_wished(
    serve: Served, sshd: PrivateSshd, sample_store: Path
) -> None:
    body = login(sshd, sample_store, sync_interval_minutes=0.01)
    answer = serve.post("/api/remote/connect", body).raise_for_status().json()
    assert (answer["auto_sync"], answer["sync_interval_minutes"]) == (True, 0.01)
    serve.wait_for_sync()
    StoreWriter(sample_store).add_version("model", "brand-new", {"w.bin": b"new"})
    wait_until(lambda: "brand-new" in serve.names(), "a sync that nobody asked for")
    serve.post("/api/remote/connect", body | {"auto_sync": False}).raise_for_status()
    serve.wait_for_sync()
    before = serve.status()["stats"]["sync_count"]
    for _ in range(20):
        assert serve.names()  # each takes a while, all together longer than the interval was
    assert serve.status()["stats"]["sync_count"] <= before + 1, "but the one of the connection itself"

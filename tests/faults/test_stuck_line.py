"""A line that is silent, or leads to somebody else: everybody is answered, told why, and Ctrl-C ends it all."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MakeRelay, MountStore
from tests.waiting import wait_until

FILES = "artifacts/model/net/v1/files"
AT_ONCE = 50  # more than the thread pool of the API has threads
ANSWER_S = 8.0  # many times what an answer takes that waits for nothing, and less than the time-outs of the line


def connect(client: httpx.Client, sshd: PrivateSshd, port: int, root: Path) -> None:
    body = {"host": "127.0.0.1", "port": port, "username": sshd.user, "private_key_path": str(sshd.identity)}
    client.post("/api/remote/connect", json=body | {"remote_root": f"{root}/other"})


def edit(client: httpx.Client, sshd: PrivateSshd, port: int, root: Path) -> None:
    client.post("/api/remote/artifacts/net/v1/alias", json={"alias": "best"})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stuck", [connect, edit])
@pytest.mark.promise("A6")
def test_what_is_stuck_on_the_line_keeps_nobody_waiting_who_asks_for_something_else(
    stuck: Callable[[httpx.Client, PrivateSshd, int, Path], None],
    store_writer: StoreWriter,
    mount_store: MountStore,
    sshd: PrivateSshd,
    relay: MakeRelay,
) -> None:
    store_writer.add_version("model", "net", {"cached": b"c", "other": os.urandom(1 << 20)})
    line = relay(sshd)
    mounted = mount_store(store_writer.root, port=line.port)
    mounted.expect_log("was lost|graceful shutdown|CancelledError|Traceback")
    assert (mounted.mountpoint / FILES / "cached").read_bytes() == b"c"
    patient = httpx.Client(base_url=mounted.api, timeout=60, limits=httpx.Limits(max_connections=AT_ONCE))
    line.stall()

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            stuck(patient, sshd, line.port, store_writer.root)

    asking = [threading.Thread(target=ask) for _ in range(AT_ONCE)]
    for thread in asking:
        thread.start()
    reader = subprocess.Popen(
        ["cat", mounted.mountpoint / FILES / "other"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with httpx.Client(base_url=mounted.api, timeout=ANSWER_S) as client:
        if stuck is connect:
            wait_until(lambda: client.get("/api/remote/status").json()["status"] == "connecting", "an attempt")
        for path in ("/api/remote/status", "/api/artifacts", "/api/health", "/api/mounts", "/metrics"):
            assert client.get(path).status_code == 200
    assert os.listdir(mounted.mountpoint / FILES) == ["cached", "other"]
    assert (mounted.mountpoint / FILES / "cached").read_bytes() == b"c"
    mounted.stop()
    for thread in asking:
        thread.join(30)
    reader.wait(30)
    patient.close()
    line.resume()


@pytest.mark.promise("A5")
def test_a_server_that_comes_back_with_another_host_key_is_refused_and_said(
    store_writer: StoreWriter, mount_store: MountStore, own_sshd: PrivateSshd
) -> None:
    store_writer.add_version("model", "net", {"cached": b"c", "other": b"o"})
    mounted = mount_store(store_writer.root, sshd=own_sshd)
    mounted.expect_log("was lost")
    assert (mounted.mountpoint / FILES / "cached").read_bytes() == b"c"
    trusted = own_sshd.known_hosts.read_text()
    own_sshd.stop()
    key = own_sshd.folder / "host_key"
    key.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], input=b"y\n", check=True)
    own_sshd.start()
    own_sshd.known_hosts.write_text(trusted)
    wait_until(lambda: "has CHANGED" in mounted.run("status").stdout, "the status to say it")
    assert (mounted.mountpoint / FILES / "cached").read_bytes() == b"c"
    with pytest.raises(OSError, match="Network is unreachable"):
        (mounted.mountpoint / FILES / "other").read_bytes()

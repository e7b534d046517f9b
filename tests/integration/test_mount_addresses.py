"""Stores behind addresses and roots that are not plain words: IPv6, spaces, quotes, percent signs, odd bytes."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MountStore


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def sshd_on_ipv6() -> Iterator[PrivateSshd]:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with PrivateSshd(config_lines=["ListenAddress ::1"]) as server:
        with open(server.known_hosts, "a") as file:
            file.write(f"[::1]:{server.port} {server.host_key}\n")
        yield server


@pytest.mark.parametrize("transport", ["paramiko", "ssh"])
def test_a_store_is_mounted_over_ipv6(
    sshd_on_ipv6: PrivateSshd, mount_store: MountStore, store_writer: StoreWriter, transport: str
) -> None:
    content = os.urandom(3_000_000)
    store_writer.add_version("model", "net", {"w.bin": content})
    mounted = mount_store(store_writer.root, "--transport", transport, sshd=sshd_on_ipv6, host="[::1]")
    assert (mounted.mountpoint / "artifacts/model/net/latest/files/w.bin").read_bytes() == content
    assert "[::1]" in mounted.run("status").stdout
    (folder,) = mounted.cache_dir.iterdir()
    assert folder.name == f"::1_{sshd_on_ipv6.user}"


@pytest.mark.parametrize("name", ['it\'s "100 %h" \\ $(touch pwned) `id`', "-oProxyCommand=id", "~", "odd\udcff 字"])
def test_a_root_may_have_any_name(mount_store: MountStore, sample_store: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / name / "runicorn"
    shutil.copytree(sample_store, root, symlinks=True)
    mounted = mount_store(root, "--transport", "ssh")
    there = mounted.mountpoint / "artifacts/model/resnet50/latest/files"
    for path in sorted(there.rglob("*")):
        if path.is_file():
            kept = root / "artifacts/model/resnet50" / os.readlink(there.parent) / "files" / path.relative_to(there)
            assert path.read_bytes() == kept.read_bytes()
    assert mounted.run("status", "--json").returncode == 0
    assert not list(tmp_path.rglob("pwned"))

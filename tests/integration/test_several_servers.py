"""Several servers, ports and roots side by side in one cache folder: nothing is mixed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MountStore
from tests.mounts import Mounted

WEIGHTS = "artifacts/model/net/v1/files/weights.bin"


def write_store(root: Path, content: bytes) -> Path:
    """A store whose paths and sizes are those of every other one."""
    StoreWriter(root).add_version("model", "net", {"weights.bin": content})
    return root


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def folders(mounted: Mounted) -> list[Path]:
    return sorted(path for path in mounted.cache_dir.iterdir() if path.is_dir())


def test_two_ports_and_two_roots_of_one_host_are_three_stores(
    own_sshd: PrivateSshd, mount_store: MountStore, tmp_path: Path
) -> None:
    contents = [bytes([number]) * 300_000 for number in range(3)]
    roots = [write_store(tmp_path / f"store{number}", content) for number, content in enumerate(contents)]
    first = mount_store(roots[0])
    cache = ["--cache-dir", str(first.cache_dir)]
    mounts = [first, mount_store(roots[1], *cache), mount_store(roots[2], *cache, sshd=own_sshd)]
    for _ in ("fetched", "cached"):
        for mounted, content in zip(mounts, contents, strict=True):
            assert (mounted.mountpoint / WEIGHTS).read_bytes() == content
    assert len(folders(first)) == 3
    assert len({folder.name.partition("-")[0] for folder in folders(first)}) == 1


def test_the_same_root_behind_another_port_is_another_store(
    own_sshd: PrivateSshd, mount_store: MountStore, tmp_path: Path
) -> None:
    root = write_store(tmp_path / "store", b"x" * 1000)
    first = mount_store(root)
    second = mount_store(root, "--cache-dir", str(first.cache_dir), sshd=own_sshd)
    assert (second.mountpoint / WEIGHTS).read_bytes() == (first.mountpoint / WEIGHTS).read_bytes()
    assert len(folders(first)) == 2


def test_each_command_talks_to_the_daemon_that_is_named(mount_store: MountStore, tmp_path: Path) -> None:
    mounts = [mount_store(write_store(tmp_path / f"store{number}", b"x" * number)) for number in (1, 2)]
    for mounted in mounts:
        assert mounted.source in mounted.run("status", "--api", mounted.api).stdout


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_a_server_at_an_ipv6_address(mount_store: MountStore, tmp_path: Path) -> None:
    with PrivateSshd(config_lines=["ListenAddress ::1"]) as server:
        with open(server.known_hosts, "a") as file:
            file.write(f"[::1]:{server.port} {server.host_key}\n")
        root = write_store(tmp_path / "store", b"six")
        mounted = mount_store(root, sshd=server, host="[::1]")
        assert (mounted.mountpoint / WEIGHTS).read_bytes() == b"six"
        assert [folder.name for folder in folders(mounted)] == [f"::1_{server.user}"]
        mounted.stop()

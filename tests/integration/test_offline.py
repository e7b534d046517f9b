"""`mount --offline`: what was synced and cached earlier, without any connection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MountStore
from tests.mounts import Mounted

MODEL = "artifacts/model/resnet50/v3/files/model.pth"
CONFIG = "artifacts/model/resnet50/v3/files/config.json"


@pytest.fixture
def offline(mount_store: MountStore, sample_store: Path, own_sshd: PrivateSshd) -> Mounted:
    """A mount without a server, after one in which only the model was read."""
    before = mount_store(sample_store, sshd=own_sshd)
    (before.mountpoint / MODEL).read_bytes()
    before.stop()
    own_sshd.stop()
    return mount_store(sample_store, "--offline", "--cache-dir", str(before.cache_dir), sshd=own_sshd)


@pytest.mark.promise("A8")
def test_everything_is_listed(offline: Mounted, sample_store: Path) -> None:
    folder = offline.mountpoint / "artifacts/model/resnet50"
    assert (folder / "production").readlink() == Path("v3")
    assert (offline.mountpoint / CONFIG).stat().st_size == (sample_store / CONFIG).stat().st_size
    assert "resnet50" in offline.run("ls").stdout


@pytest.mark.promise("A8")
def test_what_is_cached_is_read(offline: Mounted, sample_store: Path) -> None:
    assert (offline.mountpoint / MODEL).read_bytes() == (sample_store / MODEL).read_bytes()


def test_what_is_not_cached_says_that_there_is_no_network(offline: Mounted) -> None:
    with pytest.raises(OSError, match="Network is unreachable"):
        (offline.mountpoint / CONFIG).read_bytes()


def test_it_says_that_it_is_offline(offline: Mounted) -> None:
    status = json.loads(offline.run("status", "--json").stdout)
    assert (status["offline"], status["connected"], status["status"]) == (True, False, "disconnected")
    refused = offline.run("sync", check=False)
    assert refused.returncode == 1
    assert "not connected" in refused.stderr


def test_a_store_that_was_never_synced_cannot_be_shown(mounted: Mounted, sample_store: Path) -> None:
    source, mountpoint = f"nobody@127.0.0.1:{sample_store}", str(mounted.folder / "other")
    refused = mounted.run("mount", "--offline", source, mountpoint, check=False)
    assert refused.returncode == 1
    assert "never synced" in refused.stderr


def test_without_it_a_server_that_is_away_is_an_error_that_names_it(
    mount_store: MountStore, sample_store: Path, own_sshd: PrivateSshd, tmp_path: Path
) -> None:
    before = mount_store(sample_store, sshd=own_sshd)
    before.stop()
    own_sshd.stop()
    arguments = [before.source, str(before.mountpoint), "--cache-dir", str(before.cache_dir)]
    refused = before.run("mount", *arguments, check=False)
    assert refused.returncode == 1
    assert "--offline" in refused.stderr

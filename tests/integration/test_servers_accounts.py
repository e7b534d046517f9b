"""Accounts that may not read everything: another account's store, with or without Python. What they cannot read costs
itself and a warning; nothing of it is taken for deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import StoreUnusable
from runicornfs.remote.server import Server
from tests.accounts import public_folder, sshd_for, throwaway_account
from tests.conftest import MountStore
from tests.remotes import server_at
from tests.scans import Scans, SyncedCatalog, synced_catalog

NET = "artifacts/model/net"


@pytest.fixture(scope="module")
def account() -> Iterator[str]:
    with throwaway_account() as name:
        yield name


@pytest.fixture(scope="module", params=["helper", "sftp"])
def their_sshd(request: pytest.FixtureRequest, account: str) -> Iterator[PrivateSshd]:
    """A server that lets in an account which owns nothing."""
    lines = ["ForceCommand internal-sftp"] if request.param == "sftp" else []
    with sshd_for(account, *lines) as sshd:
        yield sshd


@pytest.fixture
def writer() -> Iterator[StoreWriter]:
    """A store that others may read, as the SDK leaves it: with three files in it that only its owner may."""
    with public_folder() as folder:
        writer = StoreWriter(folder / "store")
        writer.add_version("model", "net", {"w.bin": b"one"})
        writer.add_version("model", "net", {"w.bin": b"two"})
        writer.set_alias("model", "net", "best", 1)
        run = writer.add_run("vision", "train", summary={"loss": 0.5})
        writer.use(run, "model", "net", 1)
        for place, _, files in os.walk(folder):
            os.chmod(place, 0o755)
            for name in files:
                os.chmod(os.path.join(place, name), 0o644)
        for path in (*folder.rglob("versions.json"), *folder.rglob("artifacts_*.json")):
            path.chmod(0o600)
        yield writer


@pytest.fixture
def server(their_sshd: PrivateSshd, writer: StoreWriter) -> Iterator[Server]:
    with server_at(their_sshd, writer.root) as server:
        yield server


@pytest.fixture
def synced(server: Server, tmp_path: Path) -> Iterator[SyncedCatalog]:
    with synced_catalog(server, tmp_path) as synced:
        yield synced


def test_nothing_has_to_be_writable(server: Server, writer: StoreWriter) -> None:
    for place, _, files in os.walk(writer.root):
        os.chmod(place, 0o555)
        for name in files:
            os.chmod(os.path.join(place, name), 0o444)
    scans = Scans(server)
    scans.scan()
    assert scans.notices == []
    assert scans.content(f"{NET}/versions.json") == (writer.folder("model", "net") / "versions.json").read_bytes()


def test_what_only_the_owner_may_read_costs_itself(server: Server) -> None:
    scans = Scans(server)
    scans.scan()
    assert [notice.rpartition("/")[2] for notice in scans.notices] == [
        "artifacts_used.json: cannot be read: Permission denied"
    ]
    assert f"{NET}/v2/manifest.json" in scans.seen
    assert any(path.endswith("/summary.json") for path in scans.seen)
    assert scans.content(f"{NET}/versions.json") is None


def test_an_index_is_rebuilt_from_the_versions_and_that_is_said(synced: SyncedCatalog) -> None:
    said = [problem for problem in synced.sync() if problem.startswith(f"{NET}: ")]
    assert said == [
        f"{NET}: versions.json cannot be used (it cannot be read): "
        "its versions are those that have a metadata.json, `latest` is the newest"
    ]
    names = synced.names(NET)
    assert {"v1", "v2", "latest"} < set(names)
    assert "best" not in names


def test_an_index_that_is_denied_from_now_on_does_not_hide_what_is_new(
    synced: SyncedCatalog, writer: StoreWriter
) -> None:
    """The SDK replaces a readable index by one of mode 0600: what was read in the old one is not true any more."""
    (writer.folder("model", "net") / "versions.json").chmod(0o644)
    assert not [problem for problem in synced.sync() if problem.startswith(NET)]
    writer.add_version("model", "net", {"w.bin": b"three"})
    for path in writer.version_folder("model", "net", 3).rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    writer.version_folder("model", "net", 3).chmod(0o755)
    (writer.folder("model", "net") / "versions.json").chmod(0o600)
    assert [problem for problem in synced.sync() if problem.startswith(f"{NET}: ")]
    assert synced.target(f"{NET}/latest") == "v3"
    (writer.folder("model", "net") / "versions.json").chmod(0o644)
    assert not [problem for problem in synced.sync() if problem.startswith(NET)]
    assert synced.target(f"{NET}/best") == "v1"


def test_a_version_that_only_its_owner_may_enter_costs_itself(server: Server, writer: StoreWriter) -> None:
    scans = Scans(server)
    scans.scan()
    seen = set(scans.seen)
    writer.version_folder("model", "net", 1).chmod(0o700)
    scans.scan()
    assert set(scans.seen) == seen
    assert f"{NET}/v1: cannot be listed: Permission denied" in scans.notices


def test_a_root_that_may_not_be_entered(server: Server, writer: StoreWriter) -> None:
    writer.root.chmod(0o700)
    with pytest.raises(StoreUnusable, match="not readable for this account"):
        server.verify_store()
    with pytest.raises(StoreUnusable, match="cannot be read: Permission denied"):
        Scans(server).scan()


def test_artifacts_that_may_not_be_entered(server: Server, writer: StoreWriter) -> None:
    scans = Scans(server)
    scans.scan()
    seen = set(scans.seen)
    (writer.root / "artifacts").chmod(0o700)
    with pytest.raises(StoreUnusable, match="folder artifacts in .* is not readable for this account"):
        server.verify_store()
    scans.scan()
    assert set(scans.seen) == seen
    assert "artifacts: cannot be listed: Permission denied" in scans.notices


@pytest.mark.parametrize("shell", ["bash", "rbash", "csh", "fish"])
def test_accounts_with_shells_of_their_own(shell: str, writer: StoreWriter, mount_store: MountStore) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    with throwaway_account(program) as account, sshd_for(account) as sshd:
        with server_at(sshd, writer.root) as server:
            Scans(server).scan()
            assert server.runs_helper
        mounted = mount_store(writer.root, sshd=sshd)
        mounted.expect_log("^warning: ")
        assert (mounted.mountpoint / NET / "latest/files/w.bin").read_bytes() == b"two"
        mounted.close()


def test_an_account_without_a_shell_can_use_internal_sftp(writer: StoreWriter) -> None:
    with (
        throwaway_account("/usr/sbin/nologin") as account,
        sshd_for(account) as sshd,
        server_at(sshd, writer.root) as server,
    ):
        server.verify_store()
        scans = Scans(server)
        scans.scan()
        assert server.runs_helper is False
        assert f"{NET}/v2/manifest.json" in scans.seen

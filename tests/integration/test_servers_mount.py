"""From the user's side: stores on every kind of server and account, mounted, read byte for byte, and synced again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.accounts import public_folder, sshd_for, throwaway_account
from tests.conftest import MountStore
from tests.mounts import Mounted, login_options, source_of
from tests.waiting import wait_until

NET = "artifacts/model/net"
WEIGHTS = os.urandom(300_000)
SFTP_ONLY = "ForceCommand internal-sftp"


@pytest.fixture
def writer() -> Iterator[StoreWriter]:
    """A store that every account can reach."""
    with public_folder() as folder:
        writer = StoreWriter(folder / "store")
        writer.add_version("model", "net", {"w.bin": b"one", "sub/read me": b"first"})
        writer.add_version("model", "net", {"w.bin": WEIGHTS})
        make_public(writer)
        yield writer


def make_public(writer: StoreWriter) -> None:
    for path in writer.root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def read_change_and_read_again(mounted: Mounted, writer: StoreWriter) -> None:
    latest = mounted.mountpoint / NET / "latest/files/w.bin"
    assert latest.read_bytes() == WEIGHTS
    assert (mounted.mountpoint / NET / "v1/files/sub/read me").read_bytes() == b"first"
    writer.add_version("model", "net", {"w.bin": WEIGHTS[::-1]})
    make_public(writer)
    mounted.run("sync")
    assert latest.read_bytes() == WEIGHTS[::-1]
    index = json.loads((mounted.mountpoint / NET / "versions.json").read_text())
    assert [version["version"] for version in index["versions"]] == [1, 2, 3]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can chroot")
def test_an_account_with_sftp_alone_in_a_chroot(mount_store: MountStore) -> None:
    jail = Path("/run") / f"runicornfs-jail-{os.getpid()}"
    jail.mkdir(mode=0o755)
    try:
        writer = StoreWriter(jail / "data" / "store")
        writer.add_version("model", "net", {"w.bin": b"one", "sub/read me": b"first"})
        writer.add_version("model", "net", {"w.bin": WEIGHTS})
        with PrivateSshd(config_lines=[SFTP_ONLY, f"ChrootDirectory {jail}"]) as sshd:
            mounted = mount_store(Path("/data/store"), sshd=sshd)
            read_change_and_read_again(mounted, writer)
            mounted.close()
    finally:
        shutil.rmtree(jail)


def test_a_server_without_python(writer: StoreWriter, mount_store: MountStore, tmp_path: Path) -> None:
    with PrivateSshd(config_lines=[f'SetEnv HOME="{tmp_path}" PATH="{tmp_path}"']) as sshd:
        mounted = mount_store(writer.root, sshd=sshd)
        read_change_and_read_again(mounted, writer)
        mounted.close()


def test_a_login_script_that_prints_a_banner(writer: StoreWriter, mount_store: MountStore, tmp_path: Path) -> None:
    home = tmp_path / "their home"
    home.mkdir()
    (home / ".bashrc").write_text("echo Welcome to the cluster; echo 'maintenance on Monday' >&2\n")
    with PrivateSshd(config_lines=[f'SetEnv HOME="{home}"']) as sshd:
        mounted = mount_store(writer.root, sshd=sshd)
        read_change_and_read_again(mounted, writer)
        mounted.close()


@pytest.mark.parametrize("lines", [[], [SFTP_ONLY]], ids=["with the helper", "over SFTP"])
def test_another_accounts_store(lines: list[str], writer: StoreWriter, mount_store: MountStore) -> None:
    with throwaway_account() as account, sshd_for(account, *lines) as sshd:
        mounted = mount_store(writer.root, sshd=sshd)
        read_change_and_read_again(mounted, writer)
        mounted.close()


@pytest.mark.parametrize("lines", [[], [SFTP_ONLY]], ids=["with the helper", "over SFTP"])
def test_another_accounts_store_with_an_index_that_is_denied(
    lines: list[str], writer: StoreWriter, mount_store: MountStore
) -> None:
    (writer.folder("model", "net") / "versions.json").chmod(0o600)
    with throwaway_account() as account, sshd_for(account, *lines) as sshd:
        mounted = mount_store(writer.root, sshd=sshd)
        mounted.expect_log("^warning: ")
        assert (mounted.mountpoint / NET / "latest/files/w.bin").read_bytes() == WEIGHTS
        assert "`latest` is the newest" in mounted.log()
        with pytest.raises(PermissionError):
            (mounted.mountpoint / NET / "versions.json").read_bytes()
        mounted.close()


@pytest.mark.promise("X2")
def test_a_file_that_the_account_may_not_read(writer: StoreWriter, mount_store: MountStore) -> None:
    (writer.version_folder("model", "net", 2) / "files/w.bin").chmod(0o600)
    with throwaway_account() as account, sshd_for(account) as sshd:
        mounted = mount_store(writer.root, sshd=sshd)
        with pytest.raises(PermissionError):
            (mounted.mountpoint / NET / "v2/files/w.bin").read_bytes()
        assert (mounted.mountpoint / NET / "v1/files/w.bin").read_bytes() == b"one"
        mounted.close()


def test_a_root_that_is_a_link(writer: StoreWriter, mount_store: MountStore) -> None:
    link = writer.root.parent / "link"
    link.symlink_to(writer.root)
    read_change_and_read_again(mount_store(link), writer)


@pytest.mark.parametrize("lines", [[], [SFTP_ONLY]], ids=["with the helper", "over SFTP"])
def test_names_in_odd_encodings_are_shown_and_read(
    lines: list[str], writer: StoreWriter, mount_store: MountStore
) -> None:
    run = writer.run_folder(writer.add_run("p", "e"))
    names = [
        b"latin-\xe9\xff",
        "e\u0301".encode(),
        "\u00e9".encode(),
        b"new\nline",
        b"\x01\x7f",
        b"x" * 255,
        b"$(id)'\"",
    ]
    folder = os.path.join(os.fsencode(run), b"media")
    os.makedirs(folder, exist_ok=True)
    for name in names:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"content of " + name)
    with PrivateSshd(config_lines=lines) as sshd:
        mounted = mount_store(writer.root, sshd=sshd)
        shown = os.path.join(os.fsencode(mounted.mountpoint), os.fsencode(run.relative_to(writer.root)), b"media")
        assert set(names) <= set(os.listdir(shown))
        for name in names:
            with open(os.path.join(shown, name), "rb") as file:
                assert file.read() == b"content of " + name
        mounted.close()


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        ("nowhere", "there is no folder {root} on 127.0.0.1"),
        ("file", "{root} on 127.0.0.1 is not a folder"),
        ("empty", "{root} on 127.0.0.1 is no Runicorn store: it has neither a folder artifacts nor any runs"),
    ],
)
@pytest.mark.parametrize("lines", [[], [SFTP_ONLY]], ids=["with the helper", "over SFTP"])
def test_what_is_no_store_is_said_in_a_sentence(root: str, sentence: str, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with PrivateSshd(config_lines=lines) as sshd:
        folder = tmp_path / "client"
        folder.mkdir()
        mounted = Mounted(folder, source_of(sshd, tmp_path / root), *login_options(sshd))
        try:
            wait_until(lambda: mounted.process.poll() is not None, "the refusal")
            assert mounted.process.returncode != 0
            assert sentence.format(root=tmp_path / root) in mounted.log()
            assert "Traceback" not in mounted.log()
        finally:
            mounted.close()

"""A whole session with secrets that can be recognised, and then a look at everything that it has left or started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.integration.test_connection_api import MODEL, Served
from tests.integration.test_remote_login_proxy import NETCAT
from tests.mounts import require_fuse
from tests.passwords import Account, account_with_password
from tests.waiting import wait_until

TOKEN = "token-of-the-environment-3141"
PASSPHRASE = "passphrase-of-the-key-2718"
WRONG_PASSWORD = "wrong-password-1618"
WRONG_PASSPHRASE = "wrong-passphrase-1414"
WRONG_TOKEN = "wrong-token-1732"
NOTING = 'import os, sys\nwith open("{notes}", "a") as notes:\n    print(sys.argv, dict(os.environ), file=notes)\n'


class Session:
    """A `runicornfs serve -v` with a token, which reaches its server through a program of the user's."""

    def __init__(self, folder: Path, sshd: PrivateSshd) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        (folder / "proxy.py").write_text(NOTING.format(notes=self.notes) + NETCAT)
        (folder / "ssh_config").write_text(f"Host *\n  ProxyCommand {sys.executable} {folder / 'proxy.py'} %h %p\n")
        self.mountpoint = folder / "mount"
        options = ["-v", "--mount", str(self.mountpoint)]
        self.served = Served(folder, *options, environment={"RUNICORNFS_TOKEN": TOKEN})
        self.told: list[str] = []
        self.sshd = sshd

    def connect(self, user: str, root: Path, expected: int, **more: object) -> None:
        body = {"host": "127.0.0.1", "port": self.sshd.port, "username": user, "remote_root": str(root)}
        body |= {"accept_host_key": self.sshd.host_key_fingerprint, "use_agent": False}
        answer = self.served.post("/api/remote/connect", body | more)
        self.told.append(answer.text)
        assert answer.status_code == expected, answer.text

    def use(self) -> None:
        """What people do with a store."""
        self.served.wait_for_sync()
        assert (self.mountpoint / MODEL).read_bytes()
        target = {"target_dir": str(self.folder / "target")}
        started = self.served.http.post("/api/remote/download/resnet50/v3", params={"type": "model"}, json=target)
        task = started.raise_for_status().json()["task_id"]
        path = f"/api/remote/download/{task}/status"
        wait_until(lambda: self.served.get(path)["status"] == "completed", "the download")

    def places(self) -> dict[str, bytes]:
        """All files of the user's, by their paths, and what was answered."""
        found = {"an answer": json.dumps(self.told).encode()}
        for path in self.folder.rglob("*"):
            if self.mountpoint not in path.parents and path.is_file():
                with contextlib.suppress(FileNotFoundError):  # something that lasts for a moment
                    found[str(path)] = path.read_bytes()
        return found


def children_of(pid: int) -> dict[str, bytes]:
    """Command lines and environments of all processes below one."""
    found: dict[str, bytes] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                found |= children_of(int(child))
                for name in ("cmdline", "environ"):
                    found[f"{name} of {child}"] = Path(f"/proc/{child}/{name}").read_bytes()
    return found


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with account_with_password() as made:
        yield made


@contextmanager
def key_for(account: Account, folder: Path) -> Iterator[tuple[str, PrivateSshd]]:
    """The text of an encrypted key, and a server that takes it and the account's password."""
    key = folder / "the-users-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", PASSPHRASE, "-f", key], check=True)
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        allowed = Path(public, "authorized_keys")
        allowed.write_text(key.with_name(f"{key.name}.pub").read_text())
        lines = [f"AllowUsers {account.name}", "PasswordAuthentication yes", f"AuthorizedKeysFile {allowed}"]
        with PrivateSshd(config_lines=lines) as sshd:
            text = key.read_text()
            key.unlink()
            yield text, sshd


@pytest.mark.promise("K2")
def test_no_secret_is_left_anywhere_or_given_to_a_program(tmp_path: Path, account: Account, sample_store: Path) -> None:
    """By password, by a pasted key with a passphrase, with wrong ones, with -v: what remembers them is memory alone."""
    require_fuse()
    with key_for(account, tmp_path) as (key, sshd), tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        store = Path(shutil.copytree(sample_store, Path(public, "store"), symlinks=True))
        subprocess.run(["chmod", "-R", "a+rX", public], check=True)
        (tmp_path / "user").mkdir()
        session = Session(tmp_path / "user", sshd)
        children: dict[str, bytes] = {}
        try:
            session.connect(account.name, store, 502, password=WRONG_PASSWORD)
            session.connect(account.name, store, 200, password=account.password)
            session.use()
            children |= children_of(session.served.process.pid)
            session.served.post("/api/remote/disconnect").raise_for_status()
            session.connect(account.name, store, 502, private_key=key, passphrase=WRONG_PASSPHRASE)
            session.connect(account.name, store, 200, private_key=key, passphrase=PASSPHRASE)
            session.use()
            children |= children_of(session.served.process.pid)
            for path in ("/api/health", "/api/nothing", "/api/remote/status"):
                session.told.append(session.served.http.get(f"{path}?token={WRONG_TOKEN}").text)
                wrong = {"Authorization": f"Bearer {WRONG_TOKEN}"}
                session.told.append(session.served.http.get(path, headers=wrong).text)
            sshd.drop_sessions()
            wait_until(lambda: "is back" in session.served.log.read_text(), "another connection")
            places = session.places()
        finally:
            session.served.close()
        places |= {f"afterwards {place}": said for place, said in session.places().items()} | children
    assert children, "the proxy runs as long as its connection"
    assert b"proxy.py" in places[str(session.notes)]
    body = key.splitlines()[2]
    for secret in (TOKEN, account.password, WRONG_PASSWORD, PASSPHRASE, WRONG_PASSPHRASE, WRONG_TOKEN, body):
        assert [place for place, said in places.items() if secret.encode() in said] == [], secret


@pytest.mark.promise("C9")
@pytest.mark.promise("C10")
def test_all_that_a_session_leaves_is_for_the_user_alone_whatever_the_umask(
    tmp_path: Path, sshd: PrivateSshd, sample_store: Path
) -> None:
    require_fuse()
    (tmp_path / "user").mkdir()
    before = os.umask(0)
    try:
        session = Session(tmp_path / "user", sshd)
    finally:
        os.umask(before)
    try:
        session.connect(sshd.user, sample_store, 200, private_key=sshd.identity.read_text())
        session.use()
        session.served.http.post("/api/remote/download/resnet50/v3", params={"type": "model"}).raise_for_status()
        session.served.post("/api/config/ssh_connections", {"host": "gpu", "username": "ann"}).raise_for_status()
        wait_until(lambda: session.served.get("/api/remote/downloads")["active_count"] == 0, "the download")
        below = [session.folder / name for name in ("home", "run", "tmp", "cache")]
        made = [session.folder / "known_hosts", *below, *(path for folder in below for path in folder.rglob("*"))]
        names = {path.name for path in made}
        assert {"index.db", "records.db", "owner.sock", "lock", "store.json", "connections.json"} <= names
        assert {"downloads", "metadata", "content", "model.pth"} <= names
        assert {path.relative_to(session.folder).as_posix() for path in below[0].rglob("*")} == {
            "home/.config",
            "home/.config/runicornfs",
            "home/.config/runicornfs/connections.json",
            "home/.config/runicornfs/connections.json.lock",
        }
        assert [path.name for path in below[1].iterdir()] == ["runicornfs"]
        given = {
            "home",
            "run",
            "tmp",
            "cache",
            "mount",
            "target",
            "proxy.py",
            "ssh_config",
            "notes",
            "known_hosts",
            "log",
        }
        assert {path.name for path in session.folder.iterdir()} - given == set()
        assert [path for path in made if stat.S_IMODE(path.lstat().st_mode) & 0o077] == []
    finally:
        session.served.close()


def test_a_crash_leaves_no_core_on_the_disk(tmp_path: Path) -> None:
    require_fuse()
    folder = tmp_path / "user"
    folder.mkdir()
    served = Served(folder)
    try:
        limits = Path(f"/proc/{served.process.pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
        assert line.split()[4] == "0"
        served.process.send_signal(signal.SIGABRT)
        assert served.process.wait(30) == -signal.SIGABRT
    finally:
        served.http.close()
        served.process.kill()

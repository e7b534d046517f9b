"""Getting in: host keys, identities, aliases of the SSH configuration, and the sentence for what goes wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MountStore
from tests.mounts import PATIENCE_S, Mounted, source_of
from tests.terminals import on_terminal

CTRL_C = b"\x03"
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


class Attempt:
    """Runs `runicornfs mount` for as long as it takes to fail, with a home of its own."""

    def __init__(self, folder: Path, sshd: PrivateSshd, store: Path) -> None:
        self.folder = folder
        self.sshd = sshd
        self.store = store
        (folder / "ssh_config").touch()

    def command(self, source: str, *options: str) -> list[str]:
        usual = ["--cache-dir", str(self.folder / "cache"), "--no-api", "-F", str(self.folder / "ssh_config")]
        return [sys.executable, "-m", "runicornfs", "mount", source, str(self.folder / "mount"), *usual, *options]

    def environment(self) -> dict[str, str]:
        own = {"HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder)}
        return {name: value for name, value in os.environ.items() if not name.startswith("SSH_")} | own

    def fails(self, source: str, *options: str) -> str:
        """The one line that it says."""
        done = subprocess.run(
            self.command(source, *options),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
        assert not os.path.ismount(self.folder / "mount")
        return line

    def with_key(self) -> list[str]:
        return ["-i", str(self.sshd.identity)]

    def with_known_hosts(self) -> list[str]:
        return ["--known-hosts", str(self.sshd.known_hosts)]

    def source(self) -> str:
        return source_of(self.sshd, self.store)


@pytest.fixture
def attempt(tmp_path: Path, sshd: PrivateSshd, sample_store: Path) -> Attempt:
    return Attempt(tmp_path, sshd, sample_store)


def test_an_unknown_host_key_is_refused_with_its_fingerprint(attempt: Attempt) -> None:
    said = attempt.fails(attempt.source(), *attempt.with_key())
    assert FINGERPRINT.search(said)
    assert f"--accept-host-key {attempt.sshd.host_key_fingerprint}" in said


def test_another_fingerprint_than_the_one_named_is_refused(attempt: Attempt) -> None:
    other = "SHA256:" + "A" * 43
    assert FINGERPRINT.search(attempt.fails(attempt.source(), *attempt.with_key(), "--accept-host-key", other))


def test_exactly_the_fingerprint_named_is_accepted(
    mount_store: MountStore, sample_store: Path, sshd: PrivateSshd, tmp_path: Path
) -> None:
    known_hosts = tmp_path / "known_hosts"
    options = ("--known-hosts", str(known_hosts), "--accept-host-key", sshd.host_key_fingerprint)
    mounted = mount_store(sample_store, *options)
    assert (mounted.mountpoint / "artifacts").is_dir()
    assert sshd.host_key.split()[1] in known_hosts.read_text()
    mounted.stop()
    assert mount_store(sample_store, "--known-hosts", str(known_hosts)).is_mounted()


@pytest.mark.promise("K1")
def test_a_changed_host_key_is_refused_whatever_was_accepted(attempt: Attempt, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    kind, key, *_ = (tmp_path / "other.pub").read_text().split()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{attempt.sshd.port} {kind} {key}\n")
    before = known_hosts.read_text()
    for accept in ([], ["--accept-host-key", attempt.sshd.host_key_fingerprint]):
        said = attempt.fails(attempt.source(), *attempt.with_key(), "--known-hosts", str(known_hosts), *accept)
        assert "CHANGED" in said
    assert known_hosts.read_text() == before


@pytest.mark.parametrize(("answer", "accepted"), [(b"y\n", True), (b"n\n", False)])
def test_on_a_terminal_an_unknown_key_is_asked_about(attempt: Attempt, answer: bytes, accepted: bool) -> None:
    known_hosts = attempt.folder / "asked"
    command = attempt.command(attempt.source(), *attempt.with_key(), "--known-hosts", str(known_hosts))
    with on_terminal(command, attempt.environment()) as terminal:
        assert attempt.sshd.host_key_fingerprint.encode() in terminal.read_until(b"[y/N]")
        terminal.type(answer)
        if accepted:
            terminal.read_until(b"mounted ")
            terminal.type(CTRL_C)
        assert terminal.wait() == (0 if accepted else 1)
    assert known_hosts.exists() == accepted


def test_the_wrong_key_says_which_ways_were_tried(attempt: Attempt, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "wrong"], check=True)
    said = attempt.fails(attempt.source(), "-i", str(tmp_path / "wrong"), *attempt.with_known_hosts())
    assert str(tmp_path / "wrong") in said


def test_a_key_file_that_is_not_there(attempt: Attempt) -> None:
    assert "/nowhere/key" in attempt.fails(attempt.source(), "-i", "/nowhere/key", *attempt.with_known_hosts())


def test_a_server_that_does_not_listen(attempt: Attempt, own_sshd: PrivateSshd) -> None:
    own_sshd.stop()
    said = attempt.fails(source_of(own_sshd, attempt.store), *attempt.with_key())
    assert "refuses connections" in said


def test_a_host_that_does_not_exist(attempt: Attempt) -> None:
    assert "no-such-host.invalid" in attempt.fails("ann@no-such-host.invalid:/data", *attempt.with_key())


def test_a_root_that_is_not_there(attempt: Attempt) -> None:
    said = attempt.fails(
        source_of(attempt.sshd, Path("/no/such/root")), *attempt.with_key(), *attempt.with_known_hosts()
    )
    assert "/no/such/root" in said
    assert not (attempt.folder / "cache").exists(), "a mistake leaves no cache folder"


def test_an_alias_of_the_ssh_configuration(attempt: Attempt, sshd: PrivateSshd, sample_store: Path) -> None:
    config = attempt.folder / "ssh_config"
    config.write_text(
        f"Host lab\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n"
        f"  IdentityFile {sshd.identity}\n  UserKnownHostsFile {sshd.known_hosts}\n"
    )
    folder = attempt.folder / "own"
    folder.mkdir()
    mounted = Mounted(folder, f"lab:{sample_store}", "--ssh-config", str(config))
    try:
        mounted.wait()
        assert (mounted.mountpoint / "artifacts/model").is_dir()
    finally:
        mounted.close()


def test_the_agent_lets_in(attempt: Attempt, sshd: PrivateSshd, sample_store: Path) -> None:
    socket = attempt.folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as agent:
        try:
            environment = attempt.environment() | {"SSH_AUTH_SOCK": str(socket)}
            deadline = time.monotonic() + PATIENCE_S
            while not socket.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            subprocess.run(["ssh-add", "-q", sshd.identity], env=environment, check=True)
            with subprocess.Popen(
                attempt.command(attempt.source(), *attempt.with_known_hosts()),
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("mounted ")
                process.terminate()
                assert process.wait(PATIENCE_S) == 0
        finally:
            agent.terminate()


def test_a_mount_point_with_something_in_it_is_refused(attempt: Attempt) -> None:
    (attempt.folder / "mount").mkdir()
    (attempt.folder / "mount" / "mine").touch()
    said = attempt.fails(attempt.source(), *attempt.with_key(), *attempt.with_known_hosts())
    assert "not empty" in said

"""The private SSH server: it lets its user in, nobody else, and its connections really drop."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo import sshd as sshd_module
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import Refused
from tests.waiting import wait_until


def ssh(server: PrivateSshd, command: str, *options: str) -> list[str]:
    fixed = [
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        f"UserKnownHostsFile={server.known_hosts}",
        "-p",
        str(server.port),
    ]
    return ["ssh", *fixed, "-i", str(server.identity), *options, f"{server.user}@127.0.0.1", command]


@pytest.fixture
def session(own_sshd: PrivateSshd) -> Iterator[subprocess.Popen[str]]:
    """A connection that runs a program on the server and would do so for long."""
    command = ssh(own_sshd, "echo ready; exec sleep 1000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_its_user_gets_in_and_its_key_is_known(sshd: PrivateSshd) -> None:
    done = subprocess.run(ssh(sshd, "echo hello"), capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n"


def test_sftp_works(sshd: PrivateSshd, tmp_path: Path) -> None:
    (tmp_path / "seen").touch()
    command = ssh(sshd, f"ls {tmp_path}")
    sftp = ["sftp", "-b", "-", *command[1:-2], command[-2]]
    sftp[sftp.index("-p")] = "-P"
    done = subprocess.run(sftp, input=command[-1], capture_output=True, text=True, check=True)
    assert str(tmp_path / "seen") in done.stdout


def test_another_key_is_refused(sshd: PrivateSshd, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    command = ssh(sshd, "true", "-o", "IdentitiesOnly=yes")
    command[command.index(str(sshd.identity))] = str(key)
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 255


def test_the_fingerprint_is_the_one_that_ssh_shows(sshd: PrivateSshd) -> None:
    done = subprocess.run(["ssh-keygen", "-lf", str(sshd.known_hosts)], capture_output=True, text=True, check=True)
    assert sshd.host_key_fingerprint in done.stdout


def test_its_folder_is_private_and_goes_at_the_end() -> None:
    with PrivateSshd() as server:
        folder = server.folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


@pytest.mark.parametrize("how", ["stop", "kill", "drop_sessions"])
def test_a_connection_ends_with_its_server(own_sshd: PrivateSshd, session: subprocess.Popen[str], how: str) -> None:
    getattr(own_sshd, how)()
    assert session.wait() == 255


def test_a_program_that_outlived_its_connection_ends_too(own_sshd: PrivateSshd, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    subprocess.run(ssh(own_sshd, f"sleep 1000 >/dev/null 2>&1 & echo $! > {file}"), check=True)
    pid = int(file.read_text())
    os.kill(pid, 0)
    own_sshd.stop()
    wait_until(lambda: not is_running(pid), "the end of the program")


def is_running(pid: int) -> bool:
    """A zombie does not run."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_sessions_can_be_dropped_while_it_goes_on(own_sshd: PrivateSshd, session: subprocess.Popen[str]) -> None:
    own_sshd.drop_sessions()
    assert own_sshd.running
    subprocess.run(ssh(own_sshd, "true"), check=True)


def test_it_comes_back_on_the_same_port_with_the_same_key(own_sshd: PrivateSshd) -> None:
    before = own_sshd.port, own_sshd.host_key_fingerprint
    own_sshd.stop()
    assert subprocess.run(ssh(own_sshd, "true"), stderr=subprocess.DEVNULL, check=False).returncode == 255
    own_sshd.start()
    assert (own_sshd.port, own_sshd.host_key_fingerprint) == before
    subprocess.run(ssh(own_sshd, "true"), check=True)


def test_lines_of_ones_own_win() -> None:
    with PrivateSshd(config_lines=["ForceCommand echo forced"]) as server:
        done = subprocess.run(ssh(server, "echo hello"), capture_output=True, text=True, check=True)
    assert done.stdout == "forced\n"


def test_a_line_that_sshd_does_not_know_is_one_sentence() -> None:
    with pytest.raises(Refused, match="NoSuchOption"), PrivateSshd(config_lines=["NoSuchOption yes"]):
        pass


def test_a_machine_without_sshd_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(sshd_module, "SBIN", ())
    with pytest.raises(Refused, match="openssh-server"), PrivateSshd():
        pass

"""`mount --daemon`: back at the prompt once the mount answers, and what goes wrong is said before."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.mounts import environment_in, login_options, require_fuse, source_of
from tests.waiting import wait_until

RESNET = "artifacts/model/resnet50/v3/files/model.pth"


class Machine:
    """A user's home in which daemons are started; what they leave is ended and taken away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = environment_in(folder)
        self.mountpoint = folder / "mount"

    def run(self, *arguments: str, cwd: Path | None = None, closed: str = "") -> subprocess.CompletedProcess[str]:
        """Runs the command to its end. Its output is no pipe: a daemon would keep that open. closed: what it does not
        get, as a shell says it (`<&-`)."""
        with open(self.folder / "out", "w+") as out, open(self.folder / "err", "w+") as err:
            command = [sys.executable, "-m", "runicornfs", *arguments]
            if closed:
                command = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
            status = subprocess.run(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, timeout=60
            ).returncode
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, status, out.read(), err.read())

    @property
    def daemons(self) -> list[int]:
        records = (self.folder / "run" / "runicornfs").glob("*.json")
        return [int(json.loads(record.read_text())["pid"]) for record in records]

    def close(self) -> None:
        for pid in self.daemons:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the daemon to end")  # type: ignore[misc]
        assert str(self.mountpoint) not in Path("/proc/self/mounts").read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    require_fuse()
    machine = Machine(tmp_path / "machine")
    yield machine
    machine.close()


@pytest.fixture
def mount(machine: Machine, sshd: PrivateSshd, sample_store: Path) -> tuple[str, ...]:
    """The arguments that mount the sample store."""
    config = machine.folder / "ssh_config"
    config.touch()
    options = ["--api", "127.0.0.1:0", "--ssh-config", str(config), *login_options(sshd)]
    return (source_of(sshd, sample_store), str(machine.mountpoint), *options)


def test_it_returns_when_the_mount_answers(machine: Machine, mount: tuple[str, ...], sample_store: Path) -> None:
    started = machine.run("mount", "--daemon", *mount)
    assert (started.returncode, started.stderr.count("warning")) == (0, 0), started.stderr
    assert f"mounted {mount[0]} on {mount[1]}" in started.stdout.splitlines()
    assert (machine.mountpoint / RESNET).read_bytes() == (sample_store / RESNET).read_bytes()


def test_it_leaves_the_terminal_and_its_folder(machine: Machine, mount: tuple[str, ...]) -> None:
    machine.run("mount", "--daemon", *mount, cwd=machine.folder)
    (pid,) = machine.daemons
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert os.readlink(f"/proc/{pid}/fd/2").endswith("/daemon.log")


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed_are_no_files_of_ours(
    machine: Machine, mount: tuple[str, ...], sample_store: Path, closed: str
) -> None:
    """The lock, a database or the kernel's device once got the numbers 0 to 2, which `--daemon` then took from them."""
    started = machine.run("mount", "--daemon", *mount, closed=closed)
    assert started.returncode == 0, started.stderr
    (pid,) = machine.daemons
    opened = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
    assert opened[0] == os.devnull
    assert all(path.endswith("/daemon.log") for path in opened[1:])
    assert (machine.mountpoint / RESNET).read_bytes() == (sample_store / RESNET).read_bytes()


def test_umount_ends_it(machine: Machine, mount: tuple[str, ...]) -> None:
    machine.run("mount", "--daemon", *mount)
    (pid,) = machine.daemons
    assert machine.run("umount", str(machine.mountpoint)).returncode == 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon to end")
    assert machine.daemons == []


def test_what_goes_wrong_comes_back_to_the_terminal(machine: Machine, mount: tuple[str, ...]) -> None:
    source, *rest = mount
    refused = machine.run("mount", "--daemon", f"{source}-that-is-not-there", *rest)
    assert refused.returncode == 1
    assert "there is no folder" in refused.stderr.lower()
    assert machine.daemons == []


def test_relative_paths_hold_after_it_has_left_their_folder(
    machine: Machine, sshd: PrivateSshd, mount: tuple[str, ...]
) -> None:
    for name, file in (("key", sshd.identity), ("hosts", sshd.known_hosts)):
        (machine.folder / name).symlink_to(file)
    source, *_ = mount
    options = ["--api", "127.0.0.1:0", "--cache-dir", "cache"]
    options += ["-F", "ssh_config", "-i", "key", "--known-hosts", "hosts"]
    started = machine.run("mount", "--daemon", source, "mount", *options, cwd=machine.folder)
    assert started.returncode == 0, started.stderr
    assert (machine.folder / "cache").is_dir()
    sshd.drop_sessions()
    wait_until(lambda: json.loads(machine.run("status", "--json").stdout)["connected"], "the daemon to connect again")


def test_serving_begins_in_a_home_where_nothing_is_yet(machine: Machine) -> None:
    started = machine.run("serve", "--daemon", "--api", "127.0.0.1:0")
    assert started.returncode == 0, started.stderr
    (log,) = machine.folder.glob("home/.runicorn_remote_cache/daemon.log")
    assert (stat.S_IMODE(log.stat().st_mode), stat.S_IMODE(log.parent.stat().st_mode)) == (0o600, 0o700)


@pytest.mark.parametrize("planted", ["link", "fifo"])
def test_the_log_goes_into_no_file_that_somebody_has_put_there(machine: Machine, planted: str) -> None:
    """In a folder like /tmp anybody can."""
    shared = machine.folder / "shared"
    shared.mkdir()
    log, elsewhere = shared / "daemon.log", machine.folder / "elsewhere"
    if planted == "link":
        log.symlink_to(elsewhere)
    else:
        os.mkfifo(log)
    refused = machine.run("serve", "--daemon", "--api", "127.0.0.1:0", "--cache-dir", str(shared))
    assert refused.returncode == 1
    assert f"Error: the log {log} cannot be written" in refused.stderr
    assert not elsewhere.exists()
    assert machine.daemons == []


def test_what_mount_calls_is_a_daemon(machine: Machine, mount: tuple[str, ...]) -> None:
    """mount(8) runs `runicornfs SOURCE MOUNTPOINT -o …`."""
    started = machine.run(*mount, "-o", "ro,nosuid,_netdev,x-systemd.automount")
    assert started.returncode == 0, started.stderr
    assert (machine.mountpoint / "artifacts").is_dir()
    assert len(machine.daemons) == 1

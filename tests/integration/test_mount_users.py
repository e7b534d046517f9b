"""Who may mount, and who may read what is mounted: ordinary accounts, and the options that let others in."""

from __future__ import annotations

import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.mounters import OTHER, OWNER, Accounts, accounts
from tests.mounts import PATIENCE_S, source_of

VERSIONS = "artifacts/model/resnet50/versions.json"
MODEL = "artifacts/model/resnet50/v3/files/model.pth"


@pytest.fixture
def machine() -> Iterator[Accounts]:
    with accounts() as machine:
        yield machine


class Daemon:
    """A mount by some account."""

    def __init__(self, machine: Accounts, account: str, process: subprocess.Popen[str], mountpoint: Path) -> None:
        self.machine = machine
        self.account = account
        self.process = process
        self.mountpoint = mountpoint

    def reads(self, account: str, path: str) -> str:
        """Size of the content that an account gets, or the reason why it gets none."""
        done = self.machine.run(account, "wc", "-c", self.mountpoint / path)
        return done.stdout.split()[0] if done.returncode == 0 else done.stderr.strip().rpartition(": ")[2]

    def refusal(self) -> str:
        """Why it did not mount."""
        _, said = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 1
        assert "Traceback" not in said
        return said

    def ends(self) -> None:
        """It ends by itself, in order, and leaves nothing mounted."""
        _, said = self.process.communicate(timeout=PATIENCE_S)
        assert (self.process.returncode, "WARNING" in said, "Traceback" in said) == (0, False, False), said
        mounts = self.machine.run("root", "cat", "/proc/mounts").stdout
        assert f" {self.mountpoint} " not in mounts


Mounting = Callable[..., Daemon]


@pytest.fixture
def start(machine: Accounts, sshd: PrivateSshd, sample_store: Path) -> Iterator[Mounting]:
    """Starts a mount of the sample store as an account, on a folder of its own or another."""
    with ExitStack() as stack:

        def start(account: str, *options: str, mountpoint: Path | None = None, path: str | None = None) -> Daemon:
            home = machine.home(account)
            for file in (sshd.identity, sshd.known_hosts):
                machine.give(Path(shutil.copy(file, home)), account)
            home.joinpath("ssh_config").touch()
            where = mountpoint or home / "mount"
            process = machine.start(
                account, "mount", source_of(sshd, sample_store), where, "--no-api", "--cache-dir", home / "cache",
                "--identity", home / sshd.identity.name, "--known-hosts", home / sshd.known_hosts.name,
                "--ssh-config", home / "ssh_config", *options, path=path,
            )  # fmt: skip
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return Daemon(machine, account, process, where)

        yield start


@pytest.fixture
def mount(start: Mounting) -> Mounting:
    """The same, and waits until it is there."""

    def mount(account: str, *options: str) -> Daemon:
        daemon = start(account, *options)
        assert daemon.process.stdout is not None
        if not daemon.process.stdout.readline().startswith("mounted "):
            pytest.fail(f"it did not mount: {daemon.refusal()}")
        return daemon

    return mount


# An ordinary account


def by_umount(daemon: Daemon) -> None:
    done = daemon.machine.start(daemon.account, "umount", daemon.mountpoint)
    assert done.communicate(timeout=PATIENCE_S) == ("", "")


ENDINGS: dict[str, Callable[[Daemon], object]] = {
    "runicornfs umount": by_umount,
    "fusermount3 -u": lambda daemon: daemon.machine.run(daemon.account, "fusermount3", "-u", daemon.mountpoint),
    "SIGTERM": lambda daemon: daemon.process.send_signal(signal.SIGTERM),
    "Ctrl-C": lambda daemon: daemon.process.send_signal(signal.SIGINT),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
def test_an_ordinary_account_mounts_reads_and_unmounts(mount: Mounting, end: Callable[[Daemon], object]) -> None:
    daemon = mount(OWNER)
    assert daemon.reads(OWNER, MODEL) == "1500000"
    assert daemon.reads("root", MODEL) == "Permission denied"
    assert daemon.reads(OTHER, MODEL) == "Permission denied"
    owner = daemon.machine.run(OWNER, "stat", "-c", "%U %a", daemon.mountpoint / MODEL).stdout
    assert owner == f"{OWNER} 444\n"
    end(daemon)
    daemon.ends()


def test_allow_other_needs_a_line_in_fuse_conf(start: Mounting, mount: Mounting, machine: Accounts) -> None:
    assert "needs a line user_allow_other in /etc/fuse.conf" in start(OWNER, "-o", "allow_other").refusal()
    machine.allow_other()
    daemon = mount(OWNER, "-o", "allow_other")
    assert daemon.reads(OTHER, MODEL) == "1500000"
    assert daemon.reads("root", MODEL) == "1500000"


def test_a_folder_of_somebody_else_is_refused(start: Mounting, machine: Accounts) -> None:
    daemon = start(OWNER, mountpoint=machine.home(OTHER))
    assert f"may not write to {machine.home(OTHER)}" in daemon.refusal()
    daemon = start(OWNER, mountpoint=machine.home(OTHER) / "new")
    assert "may not use the folder" in daemon.refusal()


def test_without_fusermount3_it_says_which_package_to_install(start: Mounting, machine: Accounts) -> None:
    tools = machine.shared / "bin"
    tools.mkdir()
    tools.joinpath("ssh").symlink_to(shutil.which("ssh") or "ssh")
    assert "install the package fuse3" in start(OWNER, path=str(tools)).refusal()


# Who may read


def test_what_root_mounts_is_roots_unless_others_are_let_in(mount: Mounting) -> None:
    daemon = mount("root")
    assert daemon.reads("root", MODEL) == "1500000"
    assert daemon.reads(OTHER, MODEL) == "Permission denied"


@pytest.mark.parametrize(
    ("options", "owner", "other"),
    [
        ("", "1500000", "1500000"),
        ("umask=077", "1500000", "Permission denied"),
        ("umask=022", "1500000", "1500000"),
        ("umask=027,gid=OTHER", "1500000", "1500000"),
        ("umask=0777", "Permission denied", "Permission denied"),
    ],
)
def test_the_kernel_keeps_to_owner_and_mask(mount: Mounting, options: str, owner: str, other: str) -> None:
    """Root mounts for OWNER."""
    options = options.replace("OTHER", str(pwd.getpwnam(OTHER).pw_gid))
    daemon = mount("root", "-o", f"allow_other,uid={pwd.getpwnam(OWNER).pw_uid},{options}")
    assert daemon.reads(OWNER, VERSIONS).isdigit() == owner.isdigit()
    assert daemon.reads(OWNER, MODEL) == owner
    assert daemon.reads(OTHER, MODEL) == other


def options_of(daemon: Daemon) -> set[str]:
    """What the kernel says of the mount."""
    (line,) = (
        line
        for line in daemon.machine.run("root", "cat", "/proc/mounts").stdout.splitlines()
        if f" {daemon.mountpoint} " in line
    )
    return set(line.split()[3].split(","))


def test_options_of_fstab_are_accepted_and_those_of_the_kernel_kept(mount: Mounting) -> None:
    daemon = mount("root", "-o", "ro,nosuid,nodev,noexec,_netdev,nofail,x-systemd.automount,noauto,user")
    assert {"ro", "nosuid", "nodev", "noexec"} <= options_of(daemon)


def test_no_server_brings_set_uid_programs_or_devices_whatever_root_asks_for(mount: Mounting) -> None:
    assert {"ro", "nosuid", "nodev"} <= options_of(mount("root", "-o", "suid,dev,exec"))


@pytest.mark.parametrize("option", ["rw", "big_writes", "uid=me"])
def test_other_options_are_refused_by_name(start: Mounting, option: str) -> None:
    daemon = start("root", "-o", option)
    _, said = daemon.process.communicate(timeout=PATIENCE_S)
    assert daemon.process.returncode in (1, 2)
    assert option in said

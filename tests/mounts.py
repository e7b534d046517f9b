"""Mounts as a user makes them: `python -m runicornfs mount …` in a process of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.waiting import wait_until

# A mount is there within a second, an unmount too; this is for a machine that is very busy.
PATIENCE_S = 30.0
# What a daemon that has been aborted gets to write its log.
ABORT_S = 5.0
# What must not stand in a daemon's log unless the test says that it expects it.
TROUBLE = re.compile(
    r"Traceback \(most recent call last\)| (WARNING|ERROR|CRITICAL) |^warning: |\w+Warning: |Fatal Python"
)


def require_fuse() -> None:
    """Fails the test where this machine has no FUSE for us; skips it where RUNICORNFS_WITHOUT_FUSE=1 asks for that."""
    if os.environ.get("RUNICORNFS_WITHOUT_FUSE") == "1":
        pytest.skip("needs a mount, and RUNICORNFS_WITHOUT_FUSE=1 is set")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount3") is None:
        reason = "FUSE cannot be used here (/dev/fuse, the package fuse3); RUNICORNFS_WITHOUT_FUSE=1 skips such tests"
        pytest.fail(reason, pytrace=False)


class Mounted:
    """A running `runicornfs mount` with everything of its own below `folder`: home, cache, runtime folder, logs.

    source: what to mount. options: further options of `mount`.
    """

    program = "runicornfs"  # the module that is run

    def __init__(self, folder: Path, source: str, *options: str, mountpoint: Path | None = None) -> None:
        self.folder = folder
        self.source = source
        self.mountpoint = mountpoint or folder / "mount"
        self.cache_dir = folder / "cache"
        self.environment = environment_in(folder)
        self._expected: list[re.Pattern[str]] = []
        self._killed = False
        self._started = False  # it has said that it is mounted; one that refuses to may end as it likes
        self._log = folder / "stderr"
        self._output = folder / "stdout"
        (folder / "ssh_config").touch()
        self.process = self._start(*options)

    def wait(self, within_s: float = PATIENCE_S) -> None:
        """Returns once the store is mounted; fails the test if the daemon ends or takes too long."""
        line = f"mounted {self.source} on {self.mountpoint}"

        def is_ready() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"runicornfs ended with status {self.process.returncode}:\n{self.log()}", pytrace=False)
            return line in self._output.read_text().splitlines()

        wait_until(is_ready, f"a mount of {self.source}", within_s)
        self._started = True

    @property
    def api(self) -> str:
        """The URL of the control API."""
        (record,) = (self.folder / "run" / "runicornfs").glob("*.json")
        return str(json.loads(record.read_text())["api"])

    def log(self) -> str:
        """What the daemon has written to standard error."""
        return self._log.read_text(errors="replace")

    def expect_log(self, pattern: str) -> None:
        """Lines of the log that match this regular expression are no trouble."""
        self._expected.append(re.compile(pattern))

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a client command as the daemon's user would: `run("status")`. With `check` it has to succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "runicornfs", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"runicornfs {' '.join(command)}: {done.stderr}"
        return done

    def stop(self) -> None:
        """Ends the daemon as Ctrl-C or a service manager does, and expects it to succeed and to leave no mount."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.give_up()
            self.process.wait(PATIENCE_S)
            pytest.fail(f"the daemon did not end after SIGTERM:\n{self.log()}")
        if not self._killed and self._started:
            assert status == 0, f"the daemon ended with status {status}:\n{self.log()}"
            assert not self.is_mounted(), f"the daemon has ended and left its mount:\n{self.log()}"

    def kill(self) -> None:
        """Ends the daemon at once; its mount stays, without anybody to serve it."""
        self._killed = True
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def give_up(self) -> None:
        """Ends a daemon that has let a program wait for too long; the log then says what each of its threads did.

        A program that waits for an answer of the mount gets no signal until its daemon has ended, and a test is one.
        """
        self._killed = True
        self.process.send_signal(signal.SIGABRT)  # faulthandler writes the log
        try:
            self.process.wait(ABORT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def is_mounted(self) -> bool:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return any(line.split()[1] == str(self.mountpoint) for line in mounts)

    def close(self) -> None:
        """Ends the daemon whatever state it is in, takes the mount away, and fails the test on trouble in the log."""
        try:
            self.stop()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(PATIENCE_S)
            if self.is_mounted():
                subprocess.run(["fusermount3", "-u", "-z", str(self.mountpoint)], check=True, timeout=PATIENCE_S)
        trouble = [line for line in self.log().splitlines() if TROUBLE.search(line)]
        unexpected = [line for line in trouble if not any(pattern.search(line) for pattern in self._expected)]
        assert not unexpected, f"the daemon's log has trouble in it:\n{self.log()}"

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        # -W default shows ResourceWarnings, which Python hides otherwise.
        command = [sys.executable, "-X", "faulthandler", "-W", "default", "-m", self.program, "mount"]
        usual = ["--cache-dir", str(self.cache_dir), "--api", "127.0.0.1:0", "--sync-interval", "0"]
        usual += ["--ssh-config", str(self.folder / "ssh_config")]
        with open(self._output, "wb") as output, open(self._log, "ab") as log:
            return subprocess.Popen(
                [*command, self.source, str(self.mountpoint), *usual, *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )


def environment_in(folder: Path) -> dict[str, str]:
    """The environment of a user who has home, runtime folder and temporary folder below `folder`."""
    own = {"HOME": folder / "home", "XDG_RUNTIME_DIR": folder / "run", "TMPDIR": folder / "tmp"}
    for path in own.values():
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    foreign = ("RUNICORNFS_", "SSH_", "XDG_", "PYTHON")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return inherited | {name: str(path) for name, path in own.items()}


def source_of(sshd: PrivateSshd, root: Path, port: int | None = None, host: str = "127.0.0.1") -> str:
    """The SOURCE that names a store on a private server; port: that of a relay before it."""
    return f"sftp://{sshd.user}@{host}:{port or sshd.port}{quote(os.fsencode(root))}"


def login_options(sshd: PrivateSshd) -> list[str]:
    """The options of `mount` that let it into a private server."""
    return ["--identity", str(sshd.identity), "--known-hosts", str(sshd.known_hosts)]

"""Ordinary accounts that mount, in a mount namespace of their own: the machine and its /dev/fuse stay as they are.

All that such an account needs and might not be allowed to reach (Python, this project, /dev/fuse) is bound to places
below one folder that it can. Needs root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import runicornfs
from tests.mounts import PATIENCE_S, require_fuse

# Every system has these two accounts, and neither owns anything.
OWNER = "nobody"
OTHER = "daemon"
# Given the folder, Python, its packages, this project. Our mounts that are there already go from this namespace: they
# would live as long as these copies of them.
SET_UP = """
set -e
umount -a -i -l -t fuse.runicornfs || true
mount -t tmpfs -o mode=0755 none "$1"
cd "$1"
mkdir python site project
mount --bind "$2" python
mount --bind "$3" site
mount --bind "$4" project
mknod fuse c "0x$(stat -c %t /dev/fuse)" "0x$(stat -c %T /dev/fuse)"
chmod 0666 fuse
mount --bind fuse /dev/fuse
touch fuse.conf
[ ! -e /etc/fuse.conf ] || mount --bind fuse.conf /etc/fuse.conf
"""


class Accounts:
    """The namespace. `shared` is a folder that every account can reach."""

    def __init__(self, shared: Path, holder: int) -> None:
        self.shared = shared
        self._machine = shared / "machine"
        self._holder = holder

    def allow_other(self) -> None:
        """Lets ordinary accounts mount for all. Skips the test where the machine's libfuse has no configuration."""
        if not Path("/etc/fuse.conf").exists():
            pytest.skip("there is no /etc/fuse.conf that could be covered")
        Path(f"/proc/{self._holder}/root{self._machine}/fuse.conf").write_text("user_allow_other\n")

    def home(self, account: str) -> Path:
        """A folder of the account's own, made the first time."""
        home = self.shared / account
        if not home.exists():
            home.mkdir(mode=0o755)
            self.give(home, account)
        return home

    def give(self, path: Path, account: str) -> None:
        entry = pwd.getpwnam(account)
        os.chown(path, entry.pw_uid, entry.pw_gid)

    def command(self, account: str, *command: str | Path) -> list[str]:
        """Runs a command in the namespace, as an account."""
        entry = pwd.getpwnam(account)
        ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        return ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", "setpriv", *ids, "--", *map(str, command)]

    def start(self, account: str, *arguments: str | Path, path: str | None = None) -> subprocess.Popen[str]:
        """Starts runicornfs as an account; standard output and errors are pipes. path: another PATH."""
        python = self._machine / "python/bin" / Path(os.path.realpath(sys.executable)).name
        home = str(self.home(account))
        own = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "TMPDIR"), home)
        own["LD_LIBRARY_PATH"] = f"{self._machine}/python/lib"  # where this Python has a libpython of its own
        own |= {"PYTHONPATH": f"{self._machine}/project:{self._machine}/site", "LANG": "C.UTF-8"}
        usual = os.environ["PATH"]
        command = self.command(account, shutil.which("env") or "env", f"PATH={path or usual}", python, "-m")
        return subprocess.Popen(
            [*command, "runicornfs", *map(str, arguments)], env={"PATH": usual} | own, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, account: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            self.command(account, *command), cwd="/", capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )


@contextmanager
def accounts() -> Iterator[Accounts]:
    """Skips the test where this account or this machine cannot make such a namespace."""
    require_fuse()
    if os.geteuid() != 0 or shutil.which("nsenter") is None:
        pytest.skip("only root can make a namespace in which other accounts mount")
    shared = Path(tempfile.mkdtemp(prefix="mounters-", dir="/tmp"))
    shared.chmod(0o755)
    (shared / "machine").mkdir()
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            pytest.skip("this machine makes no mount namespaces")
        project = Path(runicornfs.__file__).parent.parent
        binds: list[str | Path] = [shared / "machine", sys.base_prefix, sysconfig.get_path("purelib"), project]
        enter = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt"]
        subprocess.run([*enter, "sh", "-c", SET_UP, "sh", *binds], check=True, timeout=PATIENCE_S)
        yield Accounts(shared, holder.pid)
    finally:
        holder.communicate(timeout=PATIENCE_S)  # the end of its input ends it, and with it the namespace
        shutil.rmtree(shared)

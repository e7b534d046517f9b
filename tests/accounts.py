"""Accounts of this machine that last as long as a test session, and servers that let them in: root may read everything,
so what permissions do is seen only by another account."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd

# useradd and userdel take a moment; they wait for a lock that others may hold.
PATIENCE_S = 30.0


@contextmanager
def throwaway_account(shell: str = "/bin/sh") -> Iterator[str]:
    """The name of a new system account without a home; removed at the end. Skips the test where we may not make one."""
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("only root can make an account to try permissions with")
    name = f"rfs-test-{secrets.token_hex(4)}"
    # `*` instead of the locked `!`: sshd without PAM turns locked accounts away, also those with a key.
    options = ["--system", "--no-create-home", "--home-dir", "/", "--shell", shell, "--password", "*"]
    subprocess.run(["useradd", *options, name], check=True, timeout=PATIENCE_S, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["userdel", name], check=True, timeout=PATIENCE_S, capture_output=True)


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that other accounts can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="runicornfs-public-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def sshd_for(account: str, *config_lines: str) -> Iterator[PrivateSshd]:
    """A private server that lets this account in, with the same key as ever."""
    with public_folder() as public:
        keys = public / "authorized_keys"  # read as the account, who cannot reach the server's own folder
        sshd = PrivateSshd(config_lines=[*config_lines, f"AuthorizedKeysFile {keys}"])
        sshd.user = account
        with sshd:
            shutil.copyfile(sshd.folder / "authorized_keys", keys)
            yield sshd

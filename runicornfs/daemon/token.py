"""The token of the control API: a secret that stands for this account where the kernel cannot tell who calls."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from pathlib import Path

from runicornfs.errors import Refused
from runicornfs.workspace.folders import private_folder

VARIABLE = "RUNICORNFS_TOKEN"


def take_token() -> str | None:
    """The token of the environment, taken out of it: ssh, proxies and file managers that we start do not inherit it."""
    return os.environ.pop(VARIABLE, "").strip() or None


def find_token(given: str | None, needed: bool) -> str | None:
    """`given`, else the token of the file; where one is needed and there is none it is made, written to the file and
    printed once. Raises Refused where the file is open to others or cannot be used."""
    if given is not None:
        return given
    file = token_file()
    try:
        with open(file, encoding="utf-8") as opened:
            status = os.fstat(opened.fileno())
            if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise Refused(f"the token in {file} can be read by others: run chmod 600 on it, or delete it")
            token = opened.read().strip()
    except FileNotFoundError:
        token = ""
    except (OSError, ValueError) as error:
        raise Refused(f"the token in {file} cannot be read: {error}") from None
    if not token and needed:
        token = _make(file)
    return token or None


def token_file() -> Path:
    """Where the token is kept (0600)."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base, "runicornfs", "token")


def _make(file: Path) -> str:
    token = secrets.token_urlsafe(32)
    try:
        private_folder(file.parent)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
            opened.write(token + "\n")
    except OSError as error:
        raise Refused(f"the token of the control API cannot be written to {file}: {error.strerror}") from None
    print(f"the token of the control API is {token}\nit is kept in {file}", file=sys.stderr)
    return token

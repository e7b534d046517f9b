"""An account with a password: the only way to see a real sshd ask for a real one."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.accounts import PATIENCE_S, throwaway_account


@dataclass(frozen=True)
class Account:
    """Its name and password."""

    name: str
    password: str = field(repr=False)


@contextmanager
def account_with_password() -> Iterator[Account]:
    """A throw-away account whose password is known; the password goes to no command line."""
    if shutil.which("chpasswd") is None:
        pytest.skip("gives an account a password, which needs chpasswd")
    with throwaway_account() as name:
        account = Account(name, secrets.token_urlsafe(16))
        given = f"{account.name}:{account.password}"
        subprocess.run(["chpasswd"], input=given, text=True, check=True, timeout=PATIENCE_S)
        yield account

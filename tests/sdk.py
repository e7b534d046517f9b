"""The Runicorn SDK itself, in an environment of its own: the programs that people point at the mount."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import pytest

RUNICORN = "runicorn==0.4.1"
# filelock is all that its reading code imports; the rest of its dependencies serve its viewer.
PACKAGES = [RUNICORN, "filelock"]
INSTALL_TIMEOUT_S = 300.0


def sdk_python() -> Path:
    """The interpreter that has the SDK; installed beside our own packages where it is not there yet.

    Skips the test where it cannot be installed.
    """
    home = Path(sys.prefix) / f"sdk-{RUNICORN.replace('==', '-')}"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix, prefix="sdk-") as made:
            venv.create(made, symlinks=True)
            pip = [sys.executable, "-m", "pip", "--python", f"{made}/bin/python", "install", "--quiet"]
            command = [*pip, "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", *PACKAGES]
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
            if done.returncode:
                pytest.skip(f"{RUNICORN} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
            os.rename(made, home)
            os.mkdir(made)  # for the end of the context
    return home / "bin/python"


class Sdk:
    """Runs programs that use the SDK, each in a process of its own."""

    def __init__(self, home: Path) -> None:
        self._python = sdk_python()
        foreign = ("RUNICORN", "XDG_", "PYTHON")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self._environment = inherited | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(
        self, *arguments: str | Path, timeout_s: float = 30, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs its interpreter. A program that takes longer than it may fails the test."""
        command = [self._python, *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def ask(self, program: str, *arguments: str | Path) -> Any:
        """What a program prints, as JSON."""
        return json.loads(self.run("-c", program, *arguments).stdout)

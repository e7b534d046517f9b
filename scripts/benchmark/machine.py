"""This machine: what it is, what is installed, and how to make it forget what it has read."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import runicornfs

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# Which packages of Python are named in the report.
PACKAGES = ("mfusepy", "paramiko", "cryptography", "numpy", "torch", "safetensors", "pyarrow", "h5py")
PIECE = 1 << 20  # bytes that are read at a time
ASKED_FOR_S = 20.0  # a program answers what its version is in milliseconds


def can_drop_caches() -> bool:
    return os.access(DROP_CACHES, os.W_OK)


def is_installed(program: str) -> bool:
    return shutil.which(program) is not None


def settle() -> None:
    """What was written goes to the disk now, and not while the next one is measured."""
    os.sync()


def drop_caches() -> None:
    """Pages, names and attributes of all file systems are forgotten. Needs root."""
    settle()
    DROP_CACHES.write_text("3")


def read_all(folder: Path) -> None:
    """Reads every file below a folder, so that a server that has it needs no disk for it."""
    buffer = bytearray(PIECE)
    for here, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(here, name), "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def resident_bytes(pid: int) -> int:
    """VmRSS of a process."""
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None, "a process without memory"
    return int(match[1]) * 1024


def description() -> dict[str, str]:
    """What the report says about the machine and about the versions of everything."""
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _system(),
        "runicornfs": f"{runicornfs.__version__}{_commit()}",
        "Python": platform.python_version(),
        "libfuse": _first(["fusermount3", "--version"], r"([\d.]+)\s*$"),
        "OpenSSH": _first(["ssh", "-V"], r"OpenSSH_(\S+?),?\s"),
        "sshfs": _first(["sshfs", "--version"], r"SSHFS version (\S+)"),
        "rclone": _first(["rclone", "version"], r"rclone v(\S+)"),
        "fio": _first(["fio", "--version"], r"fio-(\S+)"),
        "bindfs": _first(["bindfs", "--version"], r"bindfs (\S+)"),
        **{name: _package(name) for name in PACKAGES},
    }


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return sys.platform


def _commit() -> str:
    found = _first(["git", "rev-parse", "--short", "HEAD"], r"(\w+)")
    return "" if found == "not installed" else f" ({found})"


def _first(command: Sequence[str], pattern: str) -> str:
    """What the pattern finds in what a program says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASKED_FOR_S, check=False)
    except OSError:
        return "not installed"
    match = re.search(pattern, f"{done.stdout}{done.stderr}", re.MULTILINE)
    return match[1] if match else "not installed"

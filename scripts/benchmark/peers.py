"""The contestants: runicornfs, and what else brings a file of a server to a program.

Each is used as its own manual says, with its defaults, and started anew for a cold read: nothing of it is cached then.
All of them show the root of the store; the mounts end with their context, whatever happened in it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeAlias

from scripts.benchmark.bench import Bench, Line
from tests.mounts import Mounted, login_options, source_of

# A mount is there within a second or two; over a slow line some need several round trips.
PATIENCE_S = 60.0
SYNC_PATIENCE_S = 1200.0  # our own mount comes after the first sync, which may be one of a gigabyte of records
POLL_S = 0.002

# Mounts the root of a store over a line: `with mount(bench, line, root) as folder`.
MountPeer: TypeAlias = Callable[[Bench, Line, Path], AbstractContextManager[Path]]


@contextmanager
def mounted(bench: Bench, line: Line, root: Path, *options: str) -> Iterator[Mounted]:
    """runicornfs, synced and mounted by a process of its own that has an empty cache."""
    with bench.scratch() as folder:
        source = source_of(bench.sshd, root, line.port)
        running = Mounted(folder, source, *login_options(bench.sshd), *options)
        try:
            running.wait(SYNC_PATIENCE_S)
            yield running
        finally:
            running.close()


@contextmanager
def runicornfs(bench: Bench, line: Line, root: Path) -> Iterator[Path]:
    with mounted(bench, line, root) as running:
        yield running.mountpoint


@contextmanager
def sshfs(bench: Bench, line: Line, root: Path) -> Iterator[Path]:
    with bench.scratch() as folder:
        where = folder / "mount"
        command = ["sshfs", "-f", "-F", "/dev/null", "-p", str(line.port), "-o", "ro"]
        command += ["-o", f"IdentityFile={bench.sshd.identity}", "-o", f"UserKnownHostsFile={bench.sshd.known_hosts}"]
        with _serving([*command, f"{bench.sshd.user}@127.0.0.1:{root}", str(where)], where, folder / "log"):
            yield where


@contextmanager
def rclone(bench: Bench, line: Line, root: Path) -> Iterator[Path]:
    with bench.scratch() as folder:
        where = folder / "mount"
        command = ["rclone", "mount", f":sftp:{root}", str(where), "--vfs-cache-mode", "full", "--read-only"]
        command += ["--config", "/dev/null", "--cache-dir", str(folder / "cache")]
        command += ["--sftp-host", "127.0.0.1", "--sftp-port", str(line.port), "--sftp-user", bench.sshd.user]
        command += ["--sftp-key-file", str(bench.sshd.identity)]
        command += ["--sftp-known-hosts-file", str(bench.sshd.known_hosts)]
        with _serving(command, where, folder / "log"):
            yield where


@contextmanager
def bare_mfusepy(bench: Bench, root: Path) -> Iterator[Path]:
    """A folder of this machine through mfusepy, libfuse for Python, with a `pread` and nothing else."""
    with bench.scratch() as folder:
        where = folder / "mount"
        command = [sys.executable, "-m", "scripts.benchmark.passthrough", str(root), str(where)]
        with _serving(command, where, folder / "log"):
            yield where


@contextmanager
def bindfs(bench: Bench, root: Path) -> Iterator[Path]:
    """A folder of this machine through bindfs: libfuse in C, without Python."""
    with bench.scratch() as folder:
        where = folder / "mount"
        with _serving(["bindfs", "-f", "-r", str(root), str(where)], where, folder / "log"):
            yield where


# Those that mount what lies on a server.
MOUNTS: dict[str, MountPeer] = {"runicornfs": runicornfs, "sshfs": sshfs, "rclone": rclone}


def ssh_command(bench: Bench, line: Line) -> list[str]:
    """`ssh HOST`, without anything of the machine's own configuration."""
    options = [f"IdentityFile={bench.sshd.identity}", f"UserKnownHostsFile={bench.sshd.known_hosts}", "BatchMode=yes"]
    command = ["ssh", "-F", "none", "-p", str(line.port)]
    for option in options:
        command += ["-o", option]
    return [*command, f"{bench.sshd.user}@127.0.0.1"]


def ssh_cat(bench: Bench, line: Line, path: Path) -> float:
    """The seconds that `ssh HOST cat PATH` takes, its connection included."""
    return seconds_of([*ssh_command(bench, line), f"cat '{path}'"])


def read_seconds(path: Path, size: int | None = None) -> float:
    """The seconds that `dd` takes to read a file, or its first `size` bytes (whole MiB)."""
    count = [] if size is None else [f"count={size >> 20}"]
    return seconds_of(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none", *count])


def seconds_of(command: Sequence[str]) -> float:
    """How long a program runs, which has to succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    taken = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return taken


@contextmanager
def _serving(command: Sequence[str], where: Path, log: Path) -> Iterator[None]:
    """Runs a program in the foreground that mounts on `where`, from when the mount is there."""
    where.mkdir(exist_ok=True)
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not where.is_mount():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not mount: {log.read_text(errors='replace').strip()}")
            time.sleep(POLL_S)
        yield
    finally:
        if subprocess.run(["fusermount3", "-u", str(where)], stderr=subprocess.DEVNULL).returncode:
            subprocess.run(["fusermount3", "-u", "-z", str(where)], stderr=subprocess.DEVNULL)
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()

"""`runicornfs demo`: a small store, a private SSH server on loopback and a mount, all of it removed at the end."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from runicornfs.cli import display
from runicornfs.cli.parameters import ApiAddress, LaunchOptions, Source
from runicornfs.daemon.compose import Daemon, running
from runicornfs.daemon.stop import Stop
from runicornfs.demo.samplestore import write_sample_store
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.mount.mountpoint import check_fuse
from runicornfs.mount.options import MountOptions

CACHE_SIZE = 1024**3  # bytes; the demo store has less
TREE_DEPTH = 4  # folders below the mount that the listing shows
PEEK = 100_000  # bytes that are read of a large file, to show that only they travel


def run_demo(mountpoint: Path | None, once: bool) -> None:
    """Shows the whole way; stays mounted until Ctrl-C unless `once`."""
    check_fuse()
    stop = Stop()
    with stop.watching(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runicornfs-demo-")))
        root = folder / "server" / "runicorn"
        say("Writing a small store …")
        write_sample_store(root)
        say("Starting a private SSH server on loopback …")
        sshd = stack.enter_context(PrivateSshd(folder / "sshd"))
        options = LaunchOptions(
            source=Source.parse(f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{root}"),
            mountpoint=mountpoint or folder / "mount",
            port=None,
            identities=(sshd.identity,),
            ssh_config=None,
            known_hosts=sshd.known_hosts,
            accept_host_key=None,
            cache_dir=folder / "cache",
            cache_size=CACHE_SIZE,
            min_free=None,
            sync_interval=60,
            api=ApiAddress(),
            mount_options=MountOptions(),
        )
        daemon = stack.enter_context(running(options, stop))
        show(daemon)
        if not once:
            program = Path(sys.argv[0]).with_name("runicornfs")
            say(f"\nIn another terminal: {program} status, {program} ls")
            say(f"Look around in {daemon.workspace.mounts[0].mountpoint}; end it with Ctrl-C.")
            daemon.wait()


def show(daemon: Daemon) -> None:
    """A listing, a lazy read, and what was fetched for it."""
    mountpoint = daemon.workspace.mounts[0].mountpoint
    say("\nThe store as a folder (nothing of its contents has been fetched):")
    say(tree(mountpoint))
    say(fetched(daemon))
    large = max((path for path in mountpoint.glob("artifacts/*/*/v*/files/**/*") if path.is_file()), key=size_of)
    say(f"\nReading {PEEK:,} bytes in the middle of {large.relative_to(mountpoint)} ({display.size(size_of(large))}):")
    peek(large)
    say(fetched(daemon))
    say("The same bytes again:")
    peek(large)
    say(fetched(daemon))


def peek(path: Path) -> None:
    with open(path, "rb") as file:
        file.seek(size_of(path) // 2)
        file.read(PEEK)


def tree(top: Path) -> str:
    """Folders and files down to a few levels, as people draw them."""
    lines = []
    for here, folders, files in os.walk(top):
        folders.sort()
        depth = len(Path(here).relative_to(top).parts)
        if depth:
            lines.append("  " * depth + Path(here).name + "/")
        if depth >= TREE_DEPTH:
            folders.clear()
            continue
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        folders[:] = [name for name in folders if name not in links]
        lines += ["  " * (depth + 1) + f"{name} -> {os.readlink(os.path.join(here, name))}" for name in links]
        lines += ["  " * (depth + 1) + name for name in sorted(files) if not name.startswith(".")]
    return "\n".join(lines)


def fetched(daemon: Daemon) -> str:
    cache = daemon.workspace.cache.status()
    total = daemon.workspace.statistics().remote_size_bytes
    return f"Fetched so far: {display.size(cache.bytes_fetched)} of {display.size(total)}"


def size_of(path: Path) -> int:
    return path.stat().st_size


def say(text: str) -> None:
    print(text, flush=True)

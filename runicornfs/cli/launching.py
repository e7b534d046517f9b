"""The options of `mount` and `serve`, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

import runicornfs
from runicornfs.cli.parameters import API, CACHE_SIZE, INTERVAL, MOUNT_OPTIONS, PATH, SIZE, LaunchOptions
from runicornfs.mount.options import MountOptions
from runicornfs.remote.bulk import Transport
from runicornfs.workspace.folders import DEFAULT_CACHE_DIR

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("-p", "--port", type=click.IntRange(1, 65535), help="The server's SSH port."),
    click.option("-i", "--identity", "identities", multiple=True, type=PATH, help="A private key file."),
    click.option("-F", "--ssh-config", type=PATH, help="Instead of ~/.ssh/config."),
    click.option("--known-hosts", type=PATH, help="Instead of ~/.ssh/known_hosts."),
    click.option("--password-stdin", is_flag=True, help="Read the account's password from standard input, one line."),
    click.option("--passphrase-stdin", is_flag=True, help="Read the key's passphrase from the line after that."),
    click.option("--accept-host-key", metavar="FINGERPRINT", help="Accept exactly this unknown host key (SHA256:…)."),
    click.option(
        "--transport",
        type=click.Choice(get_args(Transport)),
        default="auto",
        show_default=True,
        help="What carries large transfers: ssh is a process of OpenSSH's, which is faster on short lines.",
    ),
    click.option("--store", type=PATH, help="The store of this machine, for local mode."),
    click.option("--cache-dir", type=PATH, default=str(DEFAULT_CACHE_DIR), show_default=True, help="Cache folder."),
    click.option(
        "--cache-size", type=CACHE_SIZE, default="10GiB", show_default=True, help="Most that contents may take."
    ),
    click.option("--min-free", type=SIZE, help="Leave this much of the disk free [default: 1GiB or 5 %, the smaller]."),
    click.option(
        "--sync-interval",
        type=INTERVAL,
        default="600",
        show_default=True,
        help="Seconds between syncs; 0: never.",
    ),
    click.option("--daemon", is_flag=True, help="Return once it answers, and go on in the background."),
    click.option("--api", type=API, help="Address of the control API [default: 127.0.0.1:23300, or a free port]."),
    click.option("-o", "mount_options", type=MOUNT_OPTIONS, multiple=True, help="FUSE mount options."),
    click.option("-v", "--verbose", is_flag=True, help="Say more about what happens."),
)


def launch_options(command: Command) -> Command:
    """Gives a command the options that `mount` and `serve` share."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def launched(*, mount_options: tuple[MountOptions, ...], verbose: bool, **options: Any) -> LaunchOptions:
    """What the options say. Raises UsageError."""
    if len(mount_options) > 1:
        raise click.UsageError("write all mount options behind one -o, with commas")
    runicornfs.log_to_stderr(verbose)
    return LaunchOptions(mount_options=mount_options[0] if mount_options else MountOptions(), **options)

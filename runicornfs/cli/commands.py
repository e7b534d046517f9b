"""Every command of `runicornfs`. Commands that start something get it from `Launchers`, which the top of the program
fills in: the faces know the workspace, not who composes it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

import runicornfs
from runicornfs.cli import display
from runicornfs.cli.client import ApiClient
from runicornfs.cli.parameters import API, CACHE_SIZE, MOUNT_OPTIONS, SIZE, SOURCE, ApiAddress, LaunchOptions
from runicornfs.errors import AmbiguousName, InvalidInput, NotFound, RunicornFSError
from runicornfs.mount import mountpoint as mountpoints
from runicornfs.mount.options import MountOptions
from runicornfs.workspace.folders import DEFAULT_CACHE_DIR

# Not looked at by click: what stands there may be a mount whose daemon is gone.
MOUNTPOINT = click.Path(path_type=Path, readable=False)
POLL_S = 0.1  # how often a waiting command asks how far the daemon is


@dataclass(frozen=True)
class Launchers:
    """What `mount` and `demo` start; both return when it has ended."""

    mount: Callable[[LaunchOptions], None]
    demo: Callable[[Path | None, bool], None]


@dataclass(frozen=True)
class SyncState:
    """The progress of a sync as the API tells it."""

    status: str
    total_files: int
    synced_files: int
    total_bytes: int
    synced_bytes: int
    current_file: str | None
    errors: list[str]

    @classmethod
    def of(cls, answer: dict[str, Any]) -> SyncState:
        return cls(**{field.name: answer[field.name] for field in fields(cls)})


class Group(click.Group):
    """Turns our errors into one line and status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AmbiguousName as error:
            raise click.ClickException(f"{error}, with --type or as TYPE/NAME") from None
        except RunicornFSError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(runicornfs.__version__, prog_name="runicornfs")
def cli() -> None:
    """A remote Runicorn store as a folder: look at all of it, fetch what you read."""


api_option = click.option("--api", "api", metavar="URL", help="The control API of the daemon to talk to.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


@cli.command()
@click.argument("source", type=SOURCE)
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="The server's SSH port.")
@click.option(
    "-i", "--identity", "identities", multiple=True, type=click.Path(path_type=Path), help="A private key file."
)
@click.option("-F", "--ssh-config", type=click.Path(path_type=Path), help="Instead of ~/.ssh/config.")
@click.option("--known-hosts", type=click.Path(path_type=Path), help="Instead of ~/.ssh/known_hosts.")
@click.option("--accept-host-key", metavar="FINGERPRINT", help="Accept exactly this unknown host key (SHA256:…).")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), default=DEFAULT_CACHE_DIR, show_default=True, help="Cache folder."
)
@click.option("--cache-size", type=CACHE_SIZE, default="10GiB", show_default=True, help="Most that contents may take.")
@click.option("--min-free", type=SIZE, help="Leave this much of the disk free [default: 1GiB or 5 %, the smaller].")
@click.option(
    "--sync-interval", type=click.FloatRange(0), default=600, show_default=True, help="Seconds between syncs; 0: never."
)
@click.option("--api", "api", type=API, help="Address of the control API [default: 127.0.0.1:23300, or a free port].")
@click.option("--no-api", is_flag=True, help="Serve no control API.")
@click.option("-o", "mount_options", type=MOUNT_OPTIONS, multiple=True, help="FUSE mount options.")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
@click.pass_obj
def mount(
    launchers: Launchers,
    /,
    api: ApiAddress | None,
    no_api: bool,
    mount_options: tuple[MountOptions, ...],
    verbose: bool,
    **options: Any,
) -> None:
    """Mount a store.

    Connects to SOURCE, syncs its metadata and mounts it on MOUNTPOINT, until Ctrl-C or umount.

    SOURCE is [user@]host:/absolute/root, sftp://user@host:port/root, or a folder of this machine.
    """
    if no_api and api is not None:
        raise click.UsageError("--api and --no-api exclude each other")
    if len(mount_options) > 1:
        raise click.UsageError("write all mount options behind one -o, with commas")
    runicornfs.log_to_stderr(verbose)
    launchers.mount(
        LaunchOptions(
            api=None if no_api else api or ApiAddress(),
            mount_options=mount_options[0] if mount_options else MountOptions(),
            **options,
        )
    )


@cli.command()
@click.argument("mountpoint", type=MOUNTPOINT)
def umount(mountpoint: Path) -> None:
    """Unmount MOUNTPOINT; its daemon ends."""
    mountpoints.unmount(Path(mountpoint).absolute())


@cli.command()
@click.option("--full", is_flag=True, help="Read everything again.")
@api_option
def sync(full: bool, api: str | None) -> None:
    """Bring the metadata up to date now."""
    client = ApiClient(api)
    shown = display.SyncDisplay()
    client.post("/api/remote/sync", full="true" if full else None)
    while (state := SyncState.of(client.get("/api/remote/status")["sync_progress"])).status == "running":
        shown.show(state)
        time.sleep(POLL_S)
    if state.status == "failed":
        raise RunicornFSError(f"Sync failed: {state.errors[-1] if state.errors else 'no reason given'}")
    shown.finish(state)
    for problem in state.errors:
        click.echo(f"warning: {problem}", err=True)


@cli.command()
@json_option
@api_option
def status(as_json: bool, api: str | None) -> None:
    """What is connected, synced, cached and mounted."""
    client = ApiClient(api)
    answer = client.get("/api/remote/status")
    answer["cache"] = client.get("/api/remote/cache")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    stats, cache = answer["stats"], answer["cache"]
    rows = [
        ("Store", f"{answer['source']} ({answer['mode']})"),
        ("Connection", answer["status"]),
        ("Last sync", display.moment(stats["last_sync"])),
        ("Artifacts", f"{stats['total_artifacts']}, {display.size(stats['remote_size_bytes'])}"),
        *([] if answer["mode"] == "local" else [("Cache", _used(cache))]),
        *(("Mounted on", mount) for mount in answer["mounts"]),
        *([("Error", answer["error"])] if answer["error"] else []),
        *(("Warning", problem) for problem in answer["problems"]),
    ]
    click.echo("\n".join(f"{name + ':':<12}{value}" for name, value in rows))


@cli.command()
@click.argument("name", required=False)
@click.option("--type", "kind", help="The type, where a name stands under several.")
@json_option
@api_option
def ls(name: str | None, kind: str | None, as_json: bool, api: str | None) -> None:
    """List artifacts, versions or files.

    Without NAME all artifacts, with NAME its versions, with NAME:VERSION (v3, 3 or an alias) its files. TYPE/NAME
    settles a name that stands under several types.
    """
    client = ApiClient(api)
    if name is not None and "/" in name:
        kind, _, name = name.partition("/")
    if name is None:
        answer: Any = client.get("/api/artifacts", type=kind)
        show: Callable[[Any], str] = _artifact_table
    else:
        artifact, colon, version = name.partition(":")
        path = f"/api/artifacts/{_quoted(artifact)}"
        if colon:
            number = _version_number(client, path, version, kind)
            answer = client.get(f"{path}/v{number}/files", type=kind)
            show = _file_table
        else:
            answer = client.get(f"{path}/versions", type=kind)
            show = _version_table
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False) if as_json else show(answer))


@cli.group()
def cache() -> None:
    """The contents that are kept on this machine."""


@cache.command("status")
@json_option
@api_option
def cache_status(as_json: bool, api: str | None) -> None:
    """How large the cache is and how well it serves."""
    answer = ApiClient(api).get("/api/remote/cache")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"Size:      {_used(answer)}")
    click.echo(f"Files:     {answer['files']} ({answer['verified_files']} verified, {answer['partial_files']} partial)")
    click.echo(f"Reads:     {answer['hits']} hits, {answer['misses']} misses ({answer['hit_ratio']:.0%} hits)")
    click.echo(f"Fetched:   {display.size(answer['bytes_fetched'])}, served {display.size(answer['bytes_served'])}")
    click.echo(f"Evicted:   {answer['evictions']} files; {answer['mismatches']} failed their sha256")


@cli.command()
@click.argument("mountpoint", required=False, type=MOUNTPOINT)
@click.option("--once", is_flag=True, help="Show it and end, instead of staying until Ctrl-C.")
@click.pass_obj
def demo(launchers: Launchers, mountpoint: Path | None, once: bool) -> None:
    """Try it on this machine.

    Writes a small store, starts a private SSH server on loopback, and mounts the one through the other.
    """
    runicornfs.log_to_stderr(verbose=False)
    launchers.demo(mountpoint, once)


def _used(cache: dict[str, Any]) -> str:
    return f"{display.size(cache['size_bytes'])} of {display.size(cache['limit_bytes'])}"


def _version_number(client: ApiClient, path: str, version: str, kind: str | None) -> int:
    """`v3`, `3` or an alias. Raises NotFound."""
    digits = version.removeprefix("v")
    if digits.isdecimal():
        return int(digits)
    for entry in client.get(f"{path}/versions", type=kind):
        if version in entry["aliases"]:
            return int(entry["version"])
    raise NotFound(f"there is no version or alias {version!r}: `runicornfs ls` with the name alone lists them")


def _quoted(name: str) -> str:
    if not name or "/" in name:
        raise InvalidInput(f"{name!r} is no artifact's name")
    return quote(name, safe="")


def _artifact_table(artifacts: list[dict[str, Any]]) -> str:
    return display.table(
        ["NAME", "TYPE", "VERSIONS", "LATEST", "SIZE", "UPDATED", "ALIASES"],
        [
            [
                entry["name"],
                entry["type"],
                str(entry["num_versions"]),
                f"v{entry['latest_version']}" if entry["latest_version"] else "-",
                display.size(entry["size_bytes"]),
                display.moment(entry["updated_at"]),
                ", ".join(f"{alias} -> v{version}" for alias, version in sorted(entry["aliases"].items())),
            ]
            for entry in artifacts
        ],
    )


def _version_table(versions: list[dict[str, Any]]) -> str:
    return display.table(
        ["VERSION", "FILES", "SIZE", "CREATED", "STATUS", "ALIASES"],
        [
            [
                f"v{entry['version']}",
                str(entry["num_files"]),
                display.size(entry["size_bytes"]),
                display.moment(entry["created_at"]),
                entry["status"],
                ", ".join(entry["aliases"]),
            ]
            for entry in versions
        ],
    )


def _file_table(answer: dict[str, Any]) -> str:
    files = [
        [display.size(entry["size"]), display.size(entry["cached_bytes"]), entry["path"]] for entry in answer["files"]
    ]
    references = [
        ["-" if entry["size"] is None else display.size(entry["size"]), "-", entry["uri"]]
        for entry in answer["references"]
    ]
    return display.table(["SIZE", "CACHED", "FILE"], [*files, *references])

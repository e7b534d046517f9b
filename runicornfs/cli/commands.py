"""Every command of `runicornfs`. Commands that start something get it from `Launchers`, which the top of the program
fills in: the faces know the workspace, not who composes it."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

import runicornfs
from runicornfs.cli import answers, cache, display, downloads, managing
from runicornfs.cli.client import ApiClient
from runicornfs.cli.launching import launch_options, launched
from runicornfs.cli.names import ArtifactName
from runicornfs.cli.options import api_option, json_option, type_option
from runicornfs.cli.parameters import MOUNTPOINT, SOURCE, ApiAddress, LaunchOptions
from runicornfs.errors import AmbiguousName, RunicornFSError
from runicornfs.mount import mountpoint as mountpoints

POLL_S = 0.1  # how often a waiting command asks how far the daemon is


@dataclass(frozen=True)
class Launchers:
    """What `mount`, `serve` and `demo` start; they return when it has ended."""

    launch: Callable[[LaunchOptions], None]
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
    def of(cls, answer: answers.Progress) -> SyncState:
        return cls(**{field.name: answer[field.name] for field in fields(cls)})  # type: ignore[literal-required]


class Group(click.Group):
    """Turns our errors into one line and status 1, and what mount(8) calls into a command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A source always has a slash, and no command has."""
        if "/" in args[0]:
            args = ["mount", "--daemon", *args]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AmbiguousName as error:
            sentence = f"{error}, with --type or as TYPE/NAME"
        except RunicornFSError as error:
            sentence = str(error)
        except OSError as error:  # standard output is full, the runtime folder cannot be used, …
            if error.errno == errno.EPIPE:
                raise  # whoever reads what we say has gone: click ends with status 1
            sentence = ": ".join(filter(None, [error.filename and str(error.filename), error.strerror or str(error)]))
        raise click.ClickException(display.one_line(sentence))


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(runicornfs.__version__, prog_name="runicornfs")
def cli() -> None:
    """A remote Runicorn store as a folder: look at all of it, fetch what you read."""


@cli.command()
@click.argument("source", type=SOURCE)
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option("--offline", is_flag=True, help="Show what was synced earlier; do not connect.")
@launch_options
@click.option("--no-api", is_flag=True, help="Serve no control API.")
@click.pass_obj
def mount(launchers: Launchers, /, no_api: bool, api: ApiAddress | None, **options: Any) -> None:
    """Mount a store.

    Connects to SOURCE, syncs its metadata and mounts it on MOUNTPOINT, until Ctrl-C or umount. As mount(8) calls it,
    `runicornfs SOURCE MOUNTPOINT` without the word mount is the same with --daemon.

    SOURCE is [user@]host:/absolute/root, sftp://user@host:port/root, or a folder of this machine.
    """
    if no_api and api is not None:
        raise click.UsageError("--api and --no-api exclude each other")
    launchers.launch(launched(api=None if no_api else api or ApiAddress(), **options))


@cli.command()
@click.option("--mount", "mountpoint", type=MOUNTPOINT, help="Mount whatever store is in use on this folder, too.")
@launch_options
@click.pass_obj
def serve(launchers: Launchers, /, api: ApiAddress | None, **options: Any) -> None:
    """Serve the control API.

    Without a server: connect to one from there. Stays until Ctrl-C.
    """
    launchers.launch(launched(source=None, api=api or ApiAddress(), **options))


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
    client.post("/api/remote/sync", answers.Done, full="true" if full else None)
    while (
        state := SyncState.of(client.get("/api/remote/status", answers.Status)["sync_progress"])
    ).status == "running":
        shown.show(state)
        time.sleep(POLL_S)
    if state.status == "failed":
        raise RunicornFSError(f"Sync failed: {state.errors[-1] if state.errors else 'no reason given'}")
    shown.finish(state)
    for problem in state.errors:
        display.say(f"warning: {problem}", err=True)


@cli.command()
@json_option
@api_option
def status(as_json: bool, api: str | None) -> None:
    """What is connected, synced, cached, mounted and downloaded."""
    client = ApiClient(api)
    answer = client.get("/api/remote/status", answers.Status)
    here = client.get("/api/remote/cache", answers.Cache)
    tasks = client.get("/api/remote/downloads", answers.Tasks)
    if as_json:
        display.say(display.as_json({**answer, "cache": here, "downloads": tasks}))
        return
    stats = answer["stats"]
    rows = [
        ("Store", f"{answer['source'] or 'none yet'} ({answer['mode']})"),
        ("Connection", _connection(answer)),
        ("Last sync", display.moment(stats["last_sync"])),
        ("Artifacts", f"{stats['total_artifacts']}, {display.size(stats['remote_size_bytes'])}"),
        *([] if answer["mode"] == "local" else [("Cache", cache.used(here))]),
        *(("Mounted on", mount) for mount in answer["mounts"]),
        ("Downloads", _downloads(tasks)),
        *([("Error", answer["error"])] if answer["error"] else []),
        *(("Warning", problem) for problem in answer["problems"]),
    ]
    display.say("\n".join(f"{name + ':':<12}{value}" for name, value in rows))


@cli.command()
@click.argument("wanted", metavar="[local|remote]", required=False, type=click.Choice(["local", "remote"]))
@json_option
@api_option
def mode(wanted: str | None, as_json: bool, api: str | None) -> None:
    """Say or change which store is in use: the one of this machine, or the server's."""
    client = ApiClient(api)
    if wanted is not None:
        switched = client.post("/api/remote/mode/switch", answers.Done, {"mode": wanted})
        display.say(display.as_json(switched) if as_json else switched["message"])
        return
    answer = client.get("/api/remote/mode", answers.Mode)
    if as_json:
        display.say(display.as_json(answer))
    elif answer["mode"] == "local":
        display.say("local")
    else:
        display.say(f"remote, {'connected' if answer['remote_connected'] else 'offline'}")


@cli.command()
@click.argument("name", required=False)
@type_option
@click.option("--deleted", is_flag=True, help="Of a name also the versions that were deleted.")
@json_option
@api_option
def ls(name: str | None, kind: str | None, deleted: bool, as_json: bool, api: str | None) -> None:
    """List artifacts, versions or files.

    Without NAME all artifacts, with NAME its versions, with NAME:VERSION (v3, 3 or an alias) its files. TYPE/NAME
    settles a name that stands under several types.
    """
    client = ApiClient(api)
    wanted = None if name is None else ArtifactName.parse(name, kind)
    if wanted is None:
        artifacts = client.get("/api/artifacts", list[answers.Artifact], type=kind)
        display.say(display.as_json(artifacts) if as_json else _artifact_table(artifacts))
    elif wanted.version is not None:
        files = client.get(f"{wanted.path}/v{wanted.number(client)}/files", answers.Files, type=wanted.kind)
        display.say(display.as_json(files) if as_json else _file_table(files))
    else:
        versions = client.get(
            f"{wanted.path}/versions",
            list[answers.Version],
            type=wanted.kind,
            include_deleted="true" if deleted else None,
        )
        display.say(display.as_json(versions) if as_json else _version_table(versions))


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


for command in (cache.cache, cache.pin, cache.unpin, *downloads.COMMANDS, *managing.COMMANDS):
    cli.add_command(command)


def _sync_state(client: ApiClient) -> SyncState:
    return SyncState.of(client.get("/api/remote/status", answers.Status)["sync_progress"])


def _connection(answer: answers.Status) -> str:
    if not answer["source"]:
        return "none yet: connect through the API"
    return f"{answer['status']}{', offline' if answer['offline'] else ''}"


def _downloads(answer: answers.Tasks) -> str:
    running, ended = answer["active_count"], answer["total_count"] - answer["active_count"]
    return f"{running or 'none'} running, {ended} ended" if answer["total_count"] else "none"


def _artifact_table(artifacts: list[answers.Artifact]) -> str:
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


def _version_table(versions: list[answers.Version]) -> str:
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


def _file_table(answer: answers.Files) -> str:
    files = [
        [display.size(entry["size"]), display.size(entry["cached_bytes"]), entry["path"]] for entry in answer["files"]
    ]
    references = [
        ["-" if entry["size"] is None else display.size(entry["size"]), "-", entry["uri"]]
        for entry in answer["references"]
    ]
    return display.table(["SIZE", "CACHED", "FILE"], [*files, *references])

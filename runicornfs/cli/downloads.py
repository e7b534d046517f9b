"""The commands that bring versions to this machine: `get`, `downloads`, `cancel` and `prefetch`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from urllib.parse import quote

import click

from runicornfs.cli import answers, display
from runicornfs.cli.client import ApiClient
from runicornfs.cli.names import ArtifactName
from runicornfs.cli.options import api_option, json_option, type_option
from runicornfs.cli.parameters import PATH
from runicornfs.errors import NotFound, RunicornFSError

POLL_S = 0.1  # how often a waiting command asks how far the daemon is
LINE_EVERY_S = 5.0  # how often it says so where standard error is no terminal
ACTIVE = ("queued", "running")


@click.command()
@click.argument("version", metavar="NAME:VERSION")
@click.option("--to", "target", type=PATH, metavar="DIR", help="The folder to put the files into; it is made.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there with another content.")
@type_option
@json_option
@api_option
def get(version: str, target: Path | None, overwrite: bool, kind: str | None, as_json: bool, api: str | None) -> None:
    """Download a version, and print the folder.

    Every file is checked against its sha256. What is in the cache is not transferred again. Ctrl-C cancels.
    """
    client = ApiClient(api)
    name = ArtifactName.parse(version, kind)
    wanted: dict[str, object] = {"target_dir": None if target is None else str(target), "overwrite": overwrite}
    path = name.path.replace("/api/artifacts/", "/api/remote/download/", 1)
    started = client.post(f"{path}/v{name.number(client)}", answers.Started, wanted, type=name.kind)
    if "references" in started["message"]:
        display.say(started["message"], err=True)
    state = _follow(client, started["task_id"], "downloading")
    folder = state["target_dir"] or ""
    if as_json:
        display.say(display.as_json(state))
    elif sys.stdout.isatty():
        display.say(folder)
    else:
        click.echo(os.fsencode(folder))  # for a script: the very bytes of the folder's name


@click.command()
@json_option
@api_option
def downloads(as_json: bool, api: str | None) -> None:
    """List the downloads and prefetches of this store."""
    answer = ApiClient(api).get("/api/remote/downloads", answers.Tasks)
    if as_json:
        display.say(display.as_json(answer))
        return
    display.say(_table(answer["downloads"]))


@click.command()
@click.argument("task")
@api_option
def cancel(task: str, api: str | None) -> None:
    """Cancel a download.

    The beginning of TASK will do. Files that are complete stay; what came of the others stays in the cache.
    """
    client = ApiClient(api)
    known = client.get("/api/remote/downloads", answers.Tasks)["downloads"]
    tasks = [entry["task_id"] for entry in known if entry["status"] in ACTIVE]
    found = [active for active in tasks if active.startswith(task)]
    if not found:
        raise NotFound(f"no download that is under way has a name beginning with {task!r}: see `runicornfs downloads`")
    if len(found) > 1:
        raise RunicornFSError(f"several downloads begin with {task!r}: {', '.join(found)}")
    display.say(client.delete(f"/api/remote/download/{found[0]}", answers.Done)["message"])


@click.command()
@click.argument("version", metavar="NAME:VERSION")
@click.argument("globs", nargs=-1, metavar="[GLOB]...")
@click.option("--check", is_flag=True, help="Only say what is here; exit status 1 if something is missing.")
@click.option("--evict", is_flag=True, help="Remove these files from the cache instead.")
@type_option
@json_option
@api_option
def prefetch(
    version: str, globs: tuple[str, ...], check: bool, evict: bool, kind: str | None, as_json: bool, api: str | None
) -> None:
    """Bring a version, or some files of it, into the cache.

    A GLOB without a slash is about names in any folder (*.safetensors), one with a slash about whole paths
    (shards/**/*.bin). Quote it, or the shell takes it.
    """
    if check and evict:
        raise click.UsageError("--check and --evict exclude each other")
    client = ApiClient(api)
    wanted: dict[str, object] = {"artifact": version, "type": kind, "paths": globs, "check": check, "evict": evict}
    if check:
        checked = client.post("/api/prefetch", answers.Checked, wanted)
        display.say(display.as_json(checked) if as_json else _here_table(checked["files"]))
        if checked["missing_files"]:
            sys.exit(1)
    elif evict:
        evicted = client.post("/api/prefetch", answers.Done, wanted)
        display.say(display.as_json(evicted) if as_json else evicted["message"])
    else:
        task = client.post("/api/prefetch", answers.Started, wanted)["task_id"]
        state = _follow(client, task, "prefetching")
        came = state["total_bytes"] - state["from_cache_bytes"]
        sizes = f"{display.size(state['total_bytes'])} in the cache, {display.size(came)} transferred"
        display.say(display.as_json(state) if as_json else f"{state['total_files']} files: {sizes}")


COMMANDS = (get, downloads, cancel, prefetch)


def _follow(client: ApiClient, task: str, what: str) -> answers.Task:
    """Shows how far a task is until it has ended; Ctrl-C cancels it. Raises what it failed with."""
    bar = display.Bar(what)
    said = time.monotonic()
    path = f"/api/remote/download/{quote(task, safe='')}"
    try:
        while (state := client.get(f"{path}/status", answers.Task))["status"] in ACTIVE:
            bar.show(state["downloaded_bytes"], state["total_bytes"], _note(state))
            if not sys.stderr.isatty() and time.monotonic() - said >= LINE_EVERY_S:
                said = time.monotonic()
                display.say(_line(what, state), err=True)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        bar.close()
        client.delete(path, answers.Done)
        raise RunicornFSError("cancelled: what came stays in the cache for the next time") from None
    bar.close()
    if state["status"] != "completed":
        raise RunicornFSError(state["error"] or "Download cancelled")
    return state


def _note(state: answers.Task) -> str:
    files = f"{state['downloaded_files']}/{state['total_files']} files"
    return f"{files}  {state['waiting'] or (state['current_file'] or state['status'])[-50:]}"


def _line(what: str, state: answers.Task) -> str:
    done, total = display.size(state["downloaded_bytes"]), display.size(state["total_bytes"])
    return f"{what}: {state['progress_percent']:.0f} % ({done} of {total}), {_note(state)}"


def _table(entries: list[answers.Task]) -> str:
    return display.table(
        ["TASK", "ARTIFACT", "STATUS", "DONE", "SIZE", "RATE", "STARTED", "FOLDER"],
        [
            [
                entry["task_id"],
                f"{entry['artifact_type']}/{entry['artifact_name']}:v{entry['artifact_version']}",
                entry["error"] or entry["waiting"] or entry["status"],
                f"{entry['progress_percent']:.0f} %",
                display.size(entry["total_bytes"]),
                f"{display.size(int(entry['bytes_per_second']))}/s" if entry["bytes_per_second"] else "-",
                display.moment(entry["started_at"]),
                entry["target_dir"] or "(cache)",
            ]
            for entry in entries
        ],
    )


def _here_table(files: list[answers.FileHere]) -> str:
    return display.table(
        ["SIZE", "CACHED", "HERE", "FILE"],
        [
            [
                display.size(file["size"]),
                display.size(file["cached_bytes"]),
                "yes" if file["is_here"] else "no",
                file["path"],
            ]
            for file in files
        ],
    )

"""The commands about what is kept on this machine: `cache`, `pin` and `unpin`."""

from __future__ import annotations

import sys
import time

import click

from runicornfs.cli import answers, display
from runicornfs.cli.client import ApiClient
from runicornfs.cli.options import api_option, json_option, type_option
from runicornfs.errors import Refused, RunicornFSError

POLL_S = 0.1  # how often a waiting command asks how far the daemon is


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """The contents that are kept on this machine."""
    if context.invoked_subcommand is None:
        context.invoke(status)


@cache.command()
@json_option
@api_option
def status(as_json: bool = False, api: str | None = None) -> None:
    """How large the cache is and how well it serves."""
    answer = ApiClient(api).get("/api/remote/cache", answers.Cache)
    if as_json:
        display.say(display.as_json(answer))
        return
    display.say(f"Size:      {used(answer)}")
    kinds = f"{answer['verified_files']} verified, {answer['partial_files']} partial"
    display.say(f"Files:     {answer['files']} ({kinds})")
    display.say(f"Reads:     {answer['hits']} hits, {answer['misses']} misses ({answer['hit_ratio']:.0%} hits)")
    display.say(f"Fetched:   {display.size(answer['bytes_fetched'])}, served {display.size(answer['bytes_served'])}")
    display.say(f"Evicted:   {answer['evictions']} files; {answer['mismatches']} failed their sha256")


@cache.command("list")
@click.option(
    "--sort",
    type=click.Choice(["last_used", "oldest", "size"]),
    default="last_used",
    show_default=True,
    help="What was used last first; what goes first; what takes most.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Files at most.")
@json_option
@api_option
def list_files(sort: str, limit: int, as_json: bool, api: str | None) -> None:
    """What is cached, and what is pinned."""
    client = ApiClient(api)
    files = client.get("/api/remote/cache/files", answers.CachedFiles, sort=sort, limit=str(limit))["files"]
    pins = client.get("/api/remote/cache/pins", answers.Pins)["pins"]
    if as_json:
        display.say(display.as_json({"files": files, "pins": pins}))
        return
    display.say(_file_table(files))
    if pins:
        display.say(f"\n{_pin_table(pins)}")


@cache.command()
@api_option
def cleanup(api: str | None) -> None:
    """Bring the cache down to its limit now.

    What was not used for the longest goes first.
    """
    display.say(ApiClient(api).post("/api/remote/cache/cleanup", answers.Done)["message"])


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also while the server cannot be reached: the mount is empty then.")
@api_option
def clear(yes: bool, force: bool, api: str | None) -> None:
    """Remove everything that is cached, also what is pinned.

    Contents, exported records and finished downloads go; what programs have open stays readable. The store's records
    are read again at once. Pins stay: what is fetched again for them is kept again.
    """
    client = ApiClient(api)
    if not yes:
        if not sys.stdin.isatty():
            raise Refused("nothing was removed, since nobody can be asked here: say --yes")
        size = display.size(client.get("/api/remote/cache", answers.Cache)["size_bytes"])
        click.confirm(f"Remove {size} of cached contents, the exported records and finished downloads?", abort=True)
    display.say(client.post("/api/remote/cache/clear", answers.Done, {"force": force})["message"])


@cache.command()
@api_option
def verify(api: str | None) -> None:
    """Check what is cached against its sha256.

    What does not match is removed, and fetched again when it is read. Exit status 1 if there was any.
    """
    client = ApiClient(api)
    bar = display.Bar("checking")
    state = client.post("/api/remote/cache/verify", answers.Verifying)["verify"]
    while state["status"] == "running":
        bar.show(state["checked_bytes"], state["total_bytes"], f"{state['checked_files']}/{state['total_files']} files")
        time.sleep(POLL_S)
        state = client.get("/api/remote/cache", answers.Cache)["verify"]
    bar.close()
    if state["status"] != "completed":
        raise RunicornFSError(f"The check was given up: {state['error']}")
    sentence = f"{state['checked_files']} files checked ({display.size(state['checked_bytes'])})"
    if state["skipped_files"]:
        sentence += f", {state['skipped_files']} without a sha256 skipped"
    if state["corrupt_files"]:
        raise RunicornFSError(f"{sentence}: {state['corrupt_files']} did not match and were removed")
    display.say(f"{sentence}: all match")


@click.command()
@click.argument("version", metavar="NAME:VERSION")
@type_option
@api_option
def pin(version: str, kind: str | None, api: str | None) -> None:
    """Keep a version in the cache.

    Its files are never evicted, from now on and once they are fetched; this fetches nothing. An alias is pinned as the
    version that it means now.
    """
    answer = ApiClient(api).post("/api/remote/cache/pins", answers.Pin, {"artifact": version, "type": kind})
    here, size = display.size(answer["cached_bytes"]), display.size(answer["size_bytes"])
    display.say(f"pinned {answer['artifact']}: {answer['files']} files, {here} of {size} are here")
    if answer["cached_bytes"] < answer["size_bytes"]:
        display.say(f"`runicornfs prefetch {answer['artifact']}` fetches the rest")


@click.command()
@click.argument("version", metavar="NAME:VERSION")
@type_option
@api_option
def unpin(version: str, kind: str | None, api: str | None) -> None:
    """Let a pinned version go again, when room is needed."""
    display.say(ApiClient(api).delete("/api/remote/cache/pins", answers.Done, artifact=version, type=kind)["message"])


def used(cache: answers.Cache) -> str:
    """`1.4MiB of 10.0GiB`."""
    return f"{display.size(cache['size_bytes'])} of {display.size(cache['limit_bytes'])}"


def _file_table(files: list[answers.CachedFile]) -> str:
    return display.table(
        ["SIZE", "CACHED", "STATE", "PINNED", "USED", "WHERE"],
        [
            [
                display.size(file["size_bytes"]),
                display.size(file["cached_bytes"]),
                file["state"],
                "yes" if file["pinned"] else "-",
                display.moment(file["last_used"] or None),
                _where(file),
            ]
            for file in files
        ],
    )


def _where(file: answers.CachedFile) -> str:
    first, *others = file["where"] or [f"no longer in the store, was {file['path']}"]
    name = file["path"].rpartition("/")[2]
    label = first if first == file["path"] or not file["where"] else f"{first} {name}"
    return f"{label} (and {len(others)} more)" if others else label


def _pin_table(pins: list[answers.Pin]) -> str:
    return display.table(
        ["PIN", "FILES", "SIZE", "CACHED"],
        [
            [
                pin["artifact"] if pin["in_store"] else f"{pin['artifact']} (no longer in the store)",
                str(pin["files"]),
                display.size(pin["size_bytes"]),
                display.size(pin["cached_bytes"]),
            ]
            for pin in pins
        ],
    )

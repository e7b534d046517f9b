"""The commands that change the store: `delete`, `restore`, `alias`, `unalias` and `tag`."""

from __future__ import annotations

import sys

import click

from runicornfs.cli import answers, display
from runicornfs.cli.client import ApiClient
from runicornfs.cli.names import ArtifactName, as_part
from runicornfs.cli.options import api_option, type_option
from runicornfs.errors import InvalidInput, Refused


@click.command()
@click.argument("version", metavar="NAME:VERSION")
@click.option("--permanent", is_flag=True, help="Remove its files, too. This cannot be taken back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@type_option
@api_option
def delete(version: str, permanent: bool, yes: bool, kind: str | None, api: str | None) -> None:
    """Delete a version where the store lies: on the server, or locally in local mode.

    It goes from every list and mount; its files stay, and `runicornfs restore` brings it back. With --permanent the
    files are removed.
    """
    client = ApiClient(api)
    name = ArtifactName.parse(version, kind)
    number = name.number(client)
    if not yes:
        if not sys.stdin.isatty():
            raise Refused("nothing was deleted, since nobody can be asked here: say --yes")
        where = "locally" if client.get("/api/remote/mode", answers.Mode)["mode"] == "local" else "on the server"
        how = " for good, with its files," if permanent else ""
        kind = name.kind or client.get(f"{name.path}/v{number}", answers.VersionType)["type"]
        click.confirm(f"Delete {kind}/{name.name}:v{number}{how} {where}?", abort=True)
    answer = client.delete(
        f"{name.path}/v{number}", answers.Done, type=name.kind, permanent="true" if permanent else None
    )
    display.say(answer["message"])


@click.command()
@click.argument("version", metavar="NAME:VERSION")
@type_option
@api_option
def restore(version: str, kind: str | None, api: str | None) -> None:
    """Bring a deleted version back.

    By its number: a deleted version has no aliases. What was deleted with --permanent is gone.
    """
    client = ApiClient(api)
    name = ArtifactName.parse(version, kind)
    display.say(client.post(f"{name.path}/v{name.number(client)}/restore", answers.Done, type=name.kind)["message"])


@click.command()
@click.argument("version", metavar="NAME:VERSION")
@click.argument("alias")
@type_option
@api_option
def alias(version: str, alias: str, kind: str | None, api: str | None) -> None:
    """Give a version an alias.

    One that another version of the artifact has moves here.
    """
    client = ApiClient(api)
    name = ArtifactName.parse(version, kind)
    path = f"{_path(name)}/v{name.number(client)}/alias"
    display.say(client.post(path, answers.Done, {"alias": alias}, type=name.kind)["message"])


@click.command()
@click.argument("name")
@click.argument("alias")
@type_option
@api_option
def unalias(name: str, alias: str, kind: str | None, api: str | None) -> None:
    """Remove an alias of NAME."""
    artifact = ArtifactName.parse(name, kind)
    if artifact.version is not None:
        raise InvalidInput(f"an alias belongs to the artifact: write {artifact.name} without a version")
    answer = ApiClient(api).delete(f"{_path(artifact)}/alias/{as_part(alias)}", answers.Done, type=artifact.kind)
    display.say(answer["message"])


@click.command()
@click.argument("version", metavar="NAME:VERSION")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Remove the tags instead.")
@type_option
@api_option
def tag(version: str, tags: tuple[str, ...], remove: bool, kind: str | None, api: str | None) -> None:
    """Add tags to a version, or remove them."""
    client = ApiClient(api)
    name = ArtifactName.parse(version, kind)
    path = f"{_path(name)}/v{name.number(client)}/tags"
    if not remove:
        display.say(client.post(path, answers.Done, {"tags": list(tags)}, type=name.kind)["message"])
        return
    for one in tags:
        display.say(client.delete(f"{path}/{as_part(one)}", answers.Done, type=name.kind)["message"])


def _path(name: ArtifactName) -> str:
    """Of an artifact in the part of the API that manages versions."""
    return name.path.replace("/api/artifacts/", "/api/remote/artifacts/", 1)


COMMANDS = (delete, restore, alias, unalias, tag)

"""Versions are deleted, restored, aliased and tagged: where the store lies."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from runicornfs.api.calls import NAMED, SERVER, Asked, Call, Done, call
from runicornfs.api.requests import OfArtifact, OfVersion


class DeleteParameters(OfVersion):
    """`permanent` deletes for good; otherwise the version can be restored."""

    permanent: bool = False


class AliasParameters(OfArtifact):
    alias: str


class TagParameters(OfVersion):
    tag: str


class AliasRequest(BaseModel):
    alias: str


class TagsRequest(BaseModel):
    tags: list[str]


@dataclass(frozen=True, kw_only=True)
class DeletedAnswer:
    """`message` says whether softly or for good, and where."""

    success: bool = True
    message: str


def calls() -> list[Call]:
    refusals = (400, *NAMED, *SERVER, 507)
    version = "/api/artifacts/{name}/v{version:digits}"
    artifact = "/api/remote/artifacts/{name}"
    of_version = f"{artifact}/v{{version:digits}}"
    return [
        call(
            "DELETE", version, delete, parameters=DeleteParameters, answers=DeletedAnswer, refusals=refusals, waits=True
        ),
        call(
            "POST",
            f"{version}/restore",
            restore,
            parameters=OfVersion,
            answers=DeletedAnswer,
            refusals=refusals,
            waits=True,
        ),
        call(
            "POST",
            f"{of_version}/alias",
            set_alias,
            parameters=OfVersion,
            body=AliasRequest,
            answers=Done,
            refusals=refusals,
            waits=True,
        ),
        call(
            "DELETE",
            f"{artifact}/alias/{{alias}}",
            remove_alias,
            parameters=AliasParameters,
            answers=Done,
            refusals=refusals,
            waits=True,
        ),
        call(
            "POST",
            f"{of_version}/tags",
            add_tags,
            parameters=OfVersion,
            body=TagsRequest,
            answers=Done,
            refusals=refusals,
            waits=True,
        ),
        call(
            "DELETE",
            f"{of_version}/tags/{{tag:path}}",
            remove_tag,
            parameters=TagParameters,
            answers=Done,
            refusals=refusals,
            waits=True,
        ),
    ]


def delete(asked: Asked[DeleteParameters, None]) -> DeletedAnswer:
    """Deletes a version, softly or for good, where the store lies."""
    wanted, managing = asked.parameters, asked.workspace.managing
    return DeletedAnswer(message=managing.delete(wanted.name, wanted.version, wanted.type, wanted.permanent))


def restore(asked: Asked[OfVersion, None]) -> DeletedAnswer:
    """Takes back a soft delete."""
    wanted, managing = asked.parameters, asked.workspace.managing
    return DeletedAnswer(message=managing.restore(wanted.name, wanted.version, wanted.type))


def set_alias(asked: Asked[OfVersion, AliasRequest]) -> Done:
    """Gives a version an alias; one that stands elsewhere moves."""
    wanted, managing = asked.parameters, asked.workspace.managing
    return Done(message=managing.set_alias(wanted.name, wanted.version, asked.body.alias, wanted.type))


def remove_alias(asked: Asked[AliasParameters, None]) -> Done:
    """Takes an alias away; `latest` stays."""
    wanted, managing = asked.parameters, asked.workspace.managing
    return Done(message=managing.remove_alias(wanted.name, wanted.alias, wanted.type))


def add_tags(asked: Asked[OfVersion, TagsRequest]) -> Done:
    """Adds tags to a version."""
    wanted, managing = asked.parameters, asked.workspace.managing
    return Done(message=managing.add_tags(wanted.name, wanted.version, asked.body.tags, wanted.type))


def remove_tag(asked: Asked[TagParameters, None]) -> Done:
    """Takes a tag of a version away."""
    wanted, managing = asked.parameters, asked.workspace.managing
    return Done(message=managing.remove_tags(wanted.name, wanted.version, [wanted.tag], wanted.type))

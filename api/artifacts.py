"""Artifacts, their versions and their files, from the catalog alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, RootModel, SkipValidation, ValidationError, WrapValidator

from runicornfs.api.calls import CONTENTS, NAMED, RECORD, Asked, Call, call
from runicornfs.api.requests import OfArtifact, OfType, OfVersion
from runicornfs.catalog.artifacts import ArtifactSummary, VersionSummary
from runicornfs.store.records import Reference
from runicornfs.workspace.artifacts import FileEntry
from runicornfs.workspace.localstatistics import LocalStatistics
from runicornfs.workspace.workspace import Statistics


class VersionsParameters(OfArtifact):
    """`include_deleted` also lists those that are deleted softly."""

    include_deleted: bool = False


class StatisticsAnswer(RootModel[Statistics | LocalStatistics]):
    """Of the server's store and its cache in remote mode, of the store of this machine in local mode."""


def _or_null(value: Any, validate: Callable[[Any], Any]) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


# A field of a record that the server keeps: whatever stands there, it is answered with this type or as null.
Text = Annotated[str | None, WrapValidator(_or_null)]
Number = Annotated[int | None, WrapValidator(_or_null)]
Time = Annotated[float | None, WrapValidator(_or_null)]
Texts = Annotated[list[str] | None, WrapValidator(_or_null)]


class VersionAnswer(BaseModel):
    """The fields of metadata.json, also those that are not listed here; `aliases` are the true ones. Size in bytes,
    times in Unix seconds."""

    model_config = ConfigDict(extra="allow")

    name: Text = None
    type: Text = None
    version: Number = None
    status: Text = None
    created_at: Time = None
    updated_at: Time = None
    created_by_run: Text = None
    created_by_user: Text = None
    size_bytes: Number = None
    num_files: Number = None
    num_references: Number = None
    description: Text = None
    tags: Texts = None
    metadata: Annotated[dict[str, Any] | None, WrapValidator(_or_null)] = None
    parent_artifacts: Annotated[list[Any] | None, WrapValidator(_or_null)] = None
    aliases: SkipValidation[list[str]]


@dataclass(frozen=True, kw_only=True)
class FilesAnswer:
    """What a version consists of. Sizes in bytes; references are data that lies elsewhere."""

    artifact: str
    files: list[FileEntry]
    references: list[Reference]
    total_size: int
    total_files: int
    total_references: int
    is_remote: bool


def calls() -> list[Call]:
    artifact = "/api/artifacts/{name}"
    of_version = f"{artifact}/v{{version:digits}}"
    return [
        call("GET", "/api/artifacts", artifacts, parameters=OfType, answers=list[ArtifactSummary]),
        call("GET", "/api/artifacts/stats", statistics, answers=StatisticsAnswer, refusals=CONTENTS),
        call(
            "GET",
            f"{artifact}/versions",
            versions,
            parameters=VersionsParameters,
            answers=list[VersionSummary],
            refusals=NAMED,
        ),
        call("GET", of_version, version, parameters=OfVersion, answers=VersionAnswer, refusals=(*NAMED, *RECORD)),
        call(
            "GET",
            f"{of_version}/files",
            files,
            parameters=OfVersion,
            answers=FilesAnswer,
            refusals=(*NAMED, *RECORD, *CONTENTS),
        ),
    ]


def artifacts(asked: Asked[OfType, None]) -> list[ArtifactSummary]:
    """Lists every artifact, newest update first."""
    return asked.workspace.artifacts.all(asked.parameters.type)


def statistics(asked: Asked[None, None]) -> StatisticsAnswer:
    """Says how much the store in use holds."""
    workspace = asked.workspace
    return StatisticsAnswer(workspace.local.statistics() or workspace.statistics())


def versions(asked: Asked[VersionsParameters, None]) -> list[VersionSummary]:
    """Lists the versions of an artifact."""
    wanted, artifacts = asked.parameters, asked.workspace.artifacts
    return artifacts.versions(artifacts.find(wanted.name, wanted.type), wanted.include_deleted)


def version(asked: Asked[OfVersion, None]) -> VersionAnswer:
    """Tells what is known of a version."""
    wanted, artifacts = asked.parameters, asked.workspace.artifacts
    artifact = artifacts.find(wanted.name, wanted.type, wanted.version)
    return VersionAnswer.model_validate(artifacts.metadata(artifact, wanted.version))


def files(asked: Asked[OfVersion, None]) -> FilesAnswer:
    """Lists the files of a version, and what of them is on this machine."""
    wanted, artifacts = asked.parameters, asked.workspace.artifacts
    found = artifacts.files(artifacts.find(wanted.name, wanted.type, wanted.version), wanted.version)
    return FilesAnswer(
        artifact=found.artifact,
        files=found.files,
        references=found.manifest.references,
        total_size=found.manifest.total_size,
        total_files=found.manifest.total_files,
        total_references=found.manifest.total_references,
        is_remote=found.is_remote,
    )

"""Artifacts, their versions and their files, from the catalog alone."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runicornfs.api.models import (
    ArtifactAnswer,
    FileAnswer,
    FilesAnswer,
    ReferenceAnswer,
    StatisticsAnswer,
    VersionAnswer,
)
from runicornfs.api.requests import answer, answer_list, answer_value, flag, workspace_of


def routes() -> list[Route]:
    return [
        Route("/api/artifacts", artifacts),
        Route("/api/artifacts/stats", statistics),
        Route("/api/artifacts/{name}/versions", versions),
        Route("/api/artifacts/{name}/v{version:int}", version),
        Route("/api/artifacts/{name}/v{version:int}/files", files),
    ]


def artifacts(request: Request) -> Response:
    found = workspace_of(request).artifacts(request.query_params.get("type"))
    return answer_list([ArtifactAnswer.model_validate(artifact) for artifact in found])


def statistics(request: Request) -> Response:
    return answer(StatisticsAnswer.model_validate(workspace_of(request).statistics()))


def versions(request: Request) -> Response:
    workspace = workspace_of(request)
    artifact = workspace.find(request.path_params["name"], request.query_params.get("type"))
    found = workspace.versions(artifact, include_deleted=flag(request, "include_deleted"))
    return answer_list([VersionAnswer.model_validate(version) for version in found])


def version(request: Request) -> Response:
    workspace = workspace_of(request)
    name, number = request.path_params["name"], request.path_params["version"]
    artifact = workspace.find(name, request.query_params.get("type"), number)
    return answer_value(workspace.metadata(artifact, number))


def files(request: Request) -> Response:
    workspace = workspace_of(request)
    name, number = request.path_params["name"], request.path_params["version"]
    found = workspace.files(workspace.find(name, request.query_params.get("type"), number), number)
    return answer(
        FilesAnswer(
            artifact=found.artifact,
            files=[FileAnswer.model_validate(file) for file in found.files],
            references=[ReferenceAnswer.model_validate(reference) for reference in found.manifest.references],
            total_size=found.manifest.total_size,
            total_files=found.manifest.total_files,
            total_references=found.manifest.total_references,
            is_remote=found.is_remote,
        )
    )

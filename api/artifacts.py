"""Artifacts, their versions and their files, from the catalog alone."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runicornfs.api.models import FilesAnswer
from runicornfs.api.requests import answer, flag, workspace_of


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
    return answer(found)


def statistics(request: Request) -> Response:
    return answer(workspace_of(request).statistics())


def versions(request: Request) -> Response:
    workspace = workspace_of(request)
    artifact = workspace.find(request.path_params["name"], request.query_params.get("type"))
    found = workspace.versions(artifact, include_deleted=flag(request, "include_deleted"))
    return answer(found)


def version(request: Request) -> Response:
    workspace = workspace_of(request)
    name, number = request.path_params["name"], request.path_params["version"]
    artifact = workspace.find(name, request.query_params.get("type"), number)
    return answer(workspace.metadata(artifact, number))


def files(request: Request) -> Response:
    workspace = workspace_of(request)
    name, number = request.path_params["name"], request.path_params["version"]
    found = workspace.files(workspace.find(name, request.query_params.get("type"), number), number)
    return answer(
        FilesAnswer(
            artifact=found.artifact,
            files=found.files,
            references=found.manifest.references,
            total_size=found.manifest.total_size,
            total_files=found.manifest.total_files,
            total_references=found.manifest.total_references,
            is_remote=found.is_remote,
        )
    )

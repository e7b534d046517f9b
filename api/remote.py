"""Health, the state of the connection, sync and cache."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import runicornfs
from runicornfs.api.models import HealthAnswer, ProgressAnswer, StatusAnswer, SyncAnswer
from runicornfs.api.requests import answer, flag, workspace_of


def routes() -> list[Route]:
    return [
        Route("/api/health", health),
        Route("/api/remote/status", status),
        Route("/api/remote/sync", sync, methods=["POST"]),
        Route("/api/remote/cache", cache),
    ]


def health(request: Request) -> Response:
    workspace = workspace_of(request)
    return answer(
        HealthAnswer(
            status="ok",
            storage=workspace.source,
            version=runicornfs.__version__,
            cache=workspace.cache(),
        )
    )


def status(request: Request) -> Response:
    workspace = workspace_of(request)
    now = workspace.status()
    return answer(
        StatusAnswer(
            mode=now.mode,
            source=now.source,
            connected=now.connected,
            status=now.status,
            sync_progress=ProgressAnswer.model_validate(now.sync_progress),
            stats=now.stats,
            error=now.error,
            mounts=now.mounts,
            offline=now.offline,
            problems=workspace.problems(),
        )
    )


def sync(request: Request) -> Response:
    run = workspace_of(request).sync(full=flag(request, "full"))
    return answer(SyncAnswer(ok=True, message="Metadata sync started", info={"full": run.full}))


def cache(request: Request) -> Response:
    return answer(workspace_of(request).cache())

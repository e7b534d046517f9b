"""Health, the state of the connection, sync and cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import BaseModel

import runicornfs
from runicornfs.api.calls import CONTENTS, Asked, Call, Done, call
from runicornfs.content.contents import CacheStatus
from runicornfs.sync.progress import SyncProgress
from runicornfs.workspace.workspace import Statistics, Workspace

INFO = "Poll /api/remote/status to track progress"


class SyncParameters(BaseModel):
    """`full` rereads everything."""

    full: bool = False


@dataclass(frozen=True, kw_only=True)
class HealthAnswer:
    """`storage` is the store in use, "" where there is none."""

    status: str
    storage: str
    version: str
    cache: CacheStatus


@dataclass(frozen=True, kw_only=True)
class ProgressAnswer:
    """A sync's progress: `status` is idle, running, completed or failed. Times in Unix seconds."""

    status: str
    started_at: float | None
    completed_at: float | None
    total_files: int
    synced_files: int
    total_bytes: int
    synced_bytes: int
    current_file: str | None
    errors: list[str]
    progress_percent: float

    @classmethod
    def of(cls, progress: SyncProgress) -> ProgressAnswer:
        return cls(**asdict(progress), progress_percent=progress.progress_percent)


@dataclass(frozen=True, kw_only=True)
class StatusAnswer:
    """What is going on, at a glance. `status` is disconnected, connecting, connected, syncing, reconnecting or error;
    `problems` say what of the store cannot be used."""

    mode: str
    source: str
    connected: bool
    status: str
    sync_progress: ProgressAnswer | None
    stats: Statistics | None
    error: str | None
    mounts: list[str]
    offline: bool
    problems: list[str]


@dataclass(frozen=True, kw_only=True)
class SyncAnswer(Done):
    info: str


def calls() -> list[Call]:
    return [
        call("GET", "/api/health", health, answers=HealthAnswer, refusals=CONTENTS),
        call("GET", "/api/remote/status", status, answers=StatusAnswer, refusals=CONTENTS),
        call(
            "POST",
            "/api/remote/sync",
            sync,
            parameters=SyncParameters,
            answers=SyncAnswer,
            refusals=(400, *CONTENTS),
        ),
    ]


def health(asked: Asked[None, None]) -> HealthAnswer:
    """Says that this runicornfs runs, of which version it is, and which store it serves."""
    workspace = asked.workspace
    return HealthAnswer(
        status="ok",
        storage=workspace.store.source,
        version=runicornfs.__version__,
        cache=workspace.cache.status(),
    )


def status(asked: Asked[None, None]) -> StatusAnswer:
    """Says what is going on: connection, sync, store, mounts."""
    return status_of(asked.workspace)


def status_of(workspace: Workspace) -> StatusAnswer:
    now = workspace.status()
    return StatusAnswer(
        mode=now.mode,
        source=now.source,
        connected=now.connected,
        status=now.status,
        sync_progress=ProgressAnswer.of(now.sync_progress),
        stats=now.stats,
        error=now.error,
        mounts=now.mounts,
        offline=now.offline,
        problems=workspace.problems(),
    )


def sync(asked: Asked[SyncParameters, None]) -> SyncAnswer:
    """Starts a sync, or joins the one that runs.

    Returns at once; `/api/remote/status` tells how far it is.
    """
    asked.workspace.sync(full=asked.parameters.full)
    return SyncAnswer(message="Metadata sync started", info=INFO)

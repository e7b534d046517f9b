"""Runs and projects of the store in use, from its catalog, with the places where their files lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runicornfs.catalog.runs import Run, RunArtifacts

if TYPE_CHECKING:
    from runicornfs.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run in a list. `run_dir`: see `Runs`. Times in seconds since 1970. `summary` is None also where it is large."""

    id: str
    run_dir: str
    created_time: float
    status: str
    pid: int | None
    best_metric_value: float | None
    best_metric_name: str | None
    project: str
    name: str
    artifacts_created_count: int
    artifacts_used_count: int
    summary: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """One run, with the paths of its files, which may not be there yet. Times in seconds since 1970."""

    id: str
    status: str
    pid: int | None
    run_dir: str
    project: str
    name: str
    logs: str
    metrics: str
    metrics_step: str
    artifacts_created_count: int
    artifacts_used_count: int
    summary: dict[str, Any] | None
    created_time: float
    started_at: float | None
    ended_at: float | None


class Runs:
    """Thread-safe. Run folders are paths of this machine where that can be: in a local store, else in a mount of the
    store; otherwise they are paths on the server."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def select(self, project: str | None = None, name: str | None = None) -> list[RunEntry]:
        """Every run, or those of a project, or of one experiment in it; newest first."""
        root = self._root()
        return [
            RunEntry(
                id=run.id,
                run_dir=f"{root}/{run.path}",
                created_time=run.created_at,
                status=run.status,
                pid=run.pid,
                best_metric_value=run.best_metric_value,
                best_metric_name=run.best_metric_name,
                project=run.project,
                name=run.name,
                artifacts_created_count=run.artifacts_created_count,
                artifacts_used_count=run.artifacts_used_count,
                summary=run.summary,
            )
            for run in self._workspace.store.catalog.runs.select(project, name)
        ]

    def detail(self, id: str) -> RunDetail:
        """The newest run of that id. Raises NotFound."""
        run = self._find(id)
        folder = f"{self._root()}/{run.path}"
        return RunDetail(
            id=run.id,
            status=run.status,
            pid=run.pid,
            run_dir=folder,
            project=run.project,
            name=run.name,
            logs=f"{folder}/logs.txt",
            metrics=f"{folder}/events.jsonl",
            metrics_step=f"{folder}/events.jsonl",
            artifacts_created_count=run.artifacts_created_count,
            artifacts_used_count=run.artifacts_used_count,
            summary=run.summary,
            created_time=run.created_at,
            started_at=run.started_at,
            ended_at=run.ended_at,
        )

    def artifacts(self, id: str) -> RunArtifacts:
        """What the newest run of that id created and used. Raises NotFound."""
        return self._workspace.store.catalog.runs.artifacts(self._find(id))

    def projects(self) -> list[str]:
        """Sorted."""
        return self._workspace.store.catalog.runs.projects()

    def names(self, project: str) -> list[str]:
        """The experiments of a project, sorted; none for an unknown one."""
        return self._workspace.store.catalog.runs.names(project)

    def _find(self, id: str) -> Run:
        return self._workspace.store.catalog.runs.find(id)

    def _root(self) -> str:
        store = self._workspace.store
        if store.local_root is not None:
            return str(store.local_root).rstrip("/")
        mountpoint = self._workspace.mount_path("")
        if mountpoint is not None or store.server is None:
            return mountpoint or ""
        return store.server.address.root.rstrip("/")

"""The answers of the control API that are not a record of the workspace as it is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from runicornfs.content.contents import CacheStatus
from runicornfs.store.records import Reference
from runicornfs.workspace.workspace import FileEntry, Statistics


class Answer(BaseModel):
    """Made from records by their attributes."""

    model_config = ConfigDict(from_attributes=True)


class HealthAnswer(Answer):
    status: str
    storage: str
    version: str
    cache: CacheStatus


class ProgressAnswer(Answer):
    """A sync's progress with what is computed from it. Times in Unix seconds."""

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


class StatusAnswer(Answer):
    mode: str
    source: str
    connected: bool
    status: str
    sync_progress: ProgressAnswer
    stats: Statistics
    error: str | None
    mounts: list[str]
    offline: bool
    problems: list[str]


class SyncAnswer(Answer):
    ok: bool
    message: str
    info: dict[str, bool]


class FilesAnswer(Answer):
    artifact: str
    files: list[FileEntry]
    references: list[Reference]
    total_size: int
    total_files: int
    total_references: int
    is_remote: bool

"""The answers of the control API, as its clients have known them; every field is named in docs/api.md."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """Made from the workspace's records by their attributes."""

    model_config = ConfigDict(from_attributes=True)


class CacheAnswer(Answer):
    size_bytes: int
    limit_bytes: int
    files: int
    partial_files: int
    verified_files: int
    hits: int
    misses: int
    hit_ratio: float
    bytes_fetched: int
    bytes_served: int
    evictions: int
    mismatches: int


class HealthAnswer(Answer):
    status: str
    storage: str
    version: str
    cache: CacheAnswer


class ProgressAnswer(Answer):
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


class StatisticsAnswer(Answer):
    connected: bool
    last_sync: float | None
    total_artifacts: int
    cached_artifacts: int
    cache_size_bytes: int
    remote_size_bytes: int
    sync_count: int
    error_count: int


class StatusAnswer(Answer):
    mode: str
    source: str
    connected: bool
    status: str
    sync_progress: ProgressAnswer | None
    stats: StatisticsAnswer | None
    error: str | None
    mounts: list[str]
    offline: bool
    problems: list[str]


class SyncAnswer(Answer):
    ok: bool
    message: str
    info: dict[str, Any]


class ArtifactAnswer(Answer):
    name: str
    type: str
    num_versions: int
    latest_version: int | None
    size_bytes: int
    created_at: float | None
    updated_at: float | None
    aliases: dict[str, int]


class VersionAnswer(Answer):
    version: int
    created_at: float | None
    created_by_run: str | None
    size_bytes: int
    num_files: int
    status: str
    aliases: list[str]


class FileAnswer(Answer):
    path: str
    size: int
    digest: str | None
    modified_at: float | None
    absolute_path: str | None
    is_remote: bool
    cached_bytes: int
    mount_path: str | None


class ReferenceAnswer(Answer):
    uri: str
    checksum: str | None
    size: int | None
    metadata: dict[str, Any]


class FilesAnswer(Answer):
    artifact: str
    files: list[FileAnswer]
    references: list[ReferenceAnswer]
    total_size: int
    total_files: int
    total_references: int
    is_remote: bool

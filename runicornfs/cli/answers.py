"""What the commands read of the API's answers, by which `ApiClient` knows whether it is runicornfs that answers.

Sizes in bytes, times in Unix seconds. An answer may say more.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, InstanceOf
from typing_extensions import NotRequired, TypedDict  # pydantic reads no other before Python 3.12

from runicornfs.store.fields import TIME_LIMIT

Text = InstanceOf[str]  # also one that is no Unicode, as names in odd encodings are
Size = Annotated[int, Field(ge=0, lt=2**100)]  # as long as it can be shown: sums of the store's own have no limit
Time = Annotated[float, Field(ge=-TIME_LIMIT, le=TIME_LIMIT)]
Rate = Annotated[float, Field(ge=0, lt=2**100)]


class Done(TypedDict):
    message: Text


class Mode(TypedDict):
    mode: Text
    remote_connected: bool


class Progress(TypedDict):
    """Of a sync."""

    status: Text
    total_files: int
    synced_files: int
    total_bytes: Size
    synced_bytes: Size
    current_file: Text | None
    errors: list[Text]


class Statistics(TypedDict):
    last_sync: Time | None
    total_artifacts: int
    remote_size_bytes: Size


class Status(TypedDict):
    mode: Text
    source: Text
    status: Text
    offline: bool
    sync_progress: Progress
    stats: Statistics
    mounts: list[Text]
    error: Text | None
    problems: list[Text]


class Artifact(TypedDict):
    name: Text
    type: Text
    num_versions: int
    latest_version: int | None
    size_bytes: Size
    updated_at: Time | None
    aliases: dict[Text, int]


class Version(TypedDict):
    version: int
    num_files: int
    size_bytes: Size
    created_at: Time | None
    status: Text
    aliases: list[Text]


class VersionType(TypedDict):
    type: Text | None


class File(TypedDict):
    path: Text
    size: Size
    cached_bytes: Size


class Reference(TypedDict):
    uri: Text
    size: Size | None


class Files(TypedDict):
    files: list[File]
    references: list[Reference]


class Verification(TypedDict):
    status: Text
    checked_files: int
    checked_bytes: Size
    total_files: int
    total_bytes: Size
    skipped_files: int
    corrupt_files: int
    error: Text | None


class Verifying(TypedDict):
    verify: Verification


class Cache(Verifying):
    size_bytes: Size
    limit_bytes: Size
    files: int
    verified_files: int
    partial_files: int
    hits: int
    misses: int
    hit_ratio: float
    bytes_fetched: Size
    bytes_served: Size
    evictions: int
    mismatches: int


class CachedFile(TypedDict):
    path: Text
    size_bytes: Size
    cached_bytes: Size
    state: Text
    pinned: bool
    last_used: Time
    where: list[Text]


class CachedFiles(TypedDict):
    files: list[CachedFile]


class Pin(TypedDict):
    artifact: Text
    files: int
    size_bytes: Size
    cached_bytes: Size
    in_store: bool


class Pins(TypedDict):
    pins: list[Pin]


class Started(Done):
    task_id: Text


class Task(TypedDict):
    task_id: Text
    artifact_name: Text
    artifact_type: Text
    artifact_version: int
    target_dir: Text | None
    total_files: int
    downloaded_files: int
    total_bytes: Size
    downloaded_bytes: Size
    progress_percent: float
    status: Text
    error: Text | None
    bytes_per_second: Rate
    current_file: Text | None
    from_cache_bytes: Size
    waiting: Text | None
    started_at: Time


class Tasks(TypedDict):
    downloads: list[Task]
    active_count: int
    total_count: int


class FileHere(File):
    is_here: bool


class Checked(TypedDict):
    files: list[FileHere]
    missing_files: int


class Problem(TypedDict):
    """Every refusal. `types` come with a name that stands under several."""

    detail: Text
    code: Text
    types: NotRequired[list[Text]]

"""Downloads: tasks that bring versions into folders, or into the cache alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ByteSize, Field, RootModel

from runicornfs.api.calls import CONTENTS, NAMED, RECORD, Asked, Call, Done, call
from runicornfs.api.requests import LocalPath, OfVersion
from runicornfs.content.contents import Freed
from runicornfs.downloads.records import ACTIVE, Download, FileHere
from runicornfs.errors import InvalidInput
from runicornfs.store.paths import PATH_LIMIT
from runicornfs.workspace.downloads import Checked, Started
from runicornfs.workspace.workspace import Workspace

# Globs of one prefetch: each is compared with each path of the version.
PATTERNS_LIMIT = 1000


class OfTask(BaseModel):
    task: str


class DownloadRequest(BaseModel):
    """`target_dir` must be absolute; without it the files go to the default folder."""

    target_dir: LocalPath | None = None
    overwrite: bool = False


class PrefetchRequest(BaseModel):
    """`artifact`: `resnet50:v3`, `resnet50:production` or `model/resnet50:v3`; `paths` are globs, none means all.
    `check` only looks at what is here, `evict` drops it."""

    artifact: str
    type: str | None = None
    paths: Annotated[list[Annotated[str, Field(max_length=PATH_LIMIT)]], Field(max_length=PATTERNS_LIMIT)] = []
    check: bool = False
    evict: bool = False


@dataclass(frozen=True, kw_only=True)
class DownloadAnswer:
    """A task. Sizes in bytes, times in Unix seconds; `waiting` is why nothing moves although nothing has failed."""

    task_id: str
    artifact_name: str
    artifact_type: str
    artifact_version: int
    target_dir: str | None
    total_files: int
    downloaded_files: int
    total_bytes: int
    downloaded_bytes: int
    progress_percent: float
    status: str
    error: str | None
    bytes_per_second: float
    eta_seconds: float | None
    current_file: str | None
    from_cache_bytes: int
    waiting: str | None
    started_at: float
    completed_at: float | None

    @classmethod
    def of(cls, download: Download) -> DownloadAnswer:
        order, counts = download.order, download.counts
        return cls(
            task_id=order.task_id,
            artifact_name=order.name,
            artifact_type=order.type,
            artifact_version=order.version,
            target_dir=order.target_dir,
            total_files=counts.total_files,
            downloaded_files=counts.downloaded_files,
            total_bytes=counts.total_bytes,
            downloaded_bytes=counts.downloaded_bytes,
            progress_percent=round(download.progress_percent, 2),
            status=download.status,
            error=download.error,
            bytes_per_second=round(download.bytes_per_second, 1),
            eta_seconds=None if download.eta_seconds is None else round(download.eta_seconds, 1),
            current_file=download.current_file,
            from_cache_bytes=counts.from_cache_bytes,
            waiting=download.waiting,
            started_at=download.started_at,
            completed_at=download.completed_at,
        )


@dataclass(frozen=True, kw_only=True)
class DownloadsAnswer:
    """Every task; `active_count` of them run or wait for their turn."""

    downloads: list[DownloadAnswer]
    active_count: int
    total_count: int


@dataclass(frozen=True, kw_only=True)
class StartedAnswer(Done):
    """`artifact` as people write it: `resnet50:v3`."""

    task_id: str
    artifact: str

    @classmethod
    def of(cls, what: str, started: Started) -> StartedAnswer:
        order, counts = started.download.order, started.download.counts
        message = f"{what} started: {counts.total_files} files, {_size(counts.total_bytes)}"
        if started.references:
            message += f"; {started.references} references to data elsewhere are not downloaded"
        return cls(message=message, task_id=order.task_id, artifact=order.artifact)


@dataclass(frozen=True, kw_only=True)
class CheckedAnswer:
    """What of a version is in the cache. Sizes in bytes."""

    ok: bool = True
    artifact: str
    files: list[FileHere]
    missing_files: int
    missing_bytes: int

    @classmethod
    def of(cls, checked: Checked) -> CheckedAnswer:
        missing = [file for file in checked.files if not file.is_here]
        return cls(
            artifact=checked.artifact,
            files=checked.files,
            missing_files=len(missing),
            missing_bytes=sum(file.size - file.cached_bytes for file in missing),
        )


@dataclass(frozen=True, kw_only=True)
class EvictedAnswer(Done):
    files_removed: int
    freed_bytes: int

    @classmethod
    def of(cls, freed: Freed) -> EvictedAnswer:
        message = f"{freed.files} files removed from the cache, {_size(freed.size_bytes)} freed"
        return cls(message=message, files_removed=freed.files, freed_bytes=freed.size_bytes)


class PrefetchAnswer(RootModel[StartedAnswer | CheckedAnswer | EvictedAnswer]):
    """A task that was started; with `check` what is here, with `evict` what was dropped."""


@dataclass(frozen=True, kw_only=True)
class OpenedAnswer:
    """`opened`: a file manager shows it now; there is none everywhere, but `path` always."""

    ok: bool = True
    opened: bool
    path: str


def calls() -> list[Call]:
    path = "/api/remote/download"
    of_task = f"{path}/{{task}}"
    starting = (400, *NAMED, *RECORD, *CONTENTS, 507)
    return [
        call(
            "POST",
            f"{path}/{{name}}/v{{version:digits}}",
            start,
            parameters=OfVersion,
            body=DownloadRequest,
            answers=StartedAnswer,
            refusals=starting,
        ),
        call("GET", f"{of_task}/status", status, parameters=OfTask, answers=DownloadAnswer, refusals=(404,)),
        call("POST", f"{of_task}/open", show, parameters=OfTask, answers=OpenedAnswer, refusals=(404, 409)),
        call("DELETE", of_task, cancel, parameters=OfTask, answers=Done, refusals=(404,)),
        call("GET", "/api/remote/downloads", downloads, answers=DownloadsAnswer),
        call("POST", "/api/prefetch", prefetch, body=PrefetchRequest, answers=PrefetchAnswer, refusals=starting),
    ]


def start(asked: Asked[OfVersion, DownloadRequest]) -> StartedAnswer:
    """Downloads a version into a folder, as a task.

    Returns at once; 409 names the task that already brings the same version to the same place.
    """
    wanted, how = asked.parameters, asked.body
    started = asked.workspace.downloads.start(wanted.name, wanted.version, wanted.type, how.target_dir, how.overwrite)
    return StartedAnswer.of("Download", started)


def status(asked: Asked[OfTask, None]) -> DownloadAnswer:
    """Says how far a task is."""
    return DownloadAnswer.of(asked.workspace.downloads.get(asked.parameters.task))


def downloads(asked: Asked[None, None]) -> DownloadsAnswer:
    """Lists all tasks, in the order in which they were asked for."""
    found = all_of(asked.workspace)
    active = sum(download.status in ACTIVE for download in found)
    return DownloadsAnswer(downloads=found, active_count=active, total_count=len(found))


def all_of(workspace: Workspace) -> list[DownloadAnswer]:
    return [DownloadAnswer.of(download) for download in workspace.downloads.list()]


def cancel(asked: Asked[OfTask, None]) -> Done:
    """Stops a task within a second, also inside a file; what has come stays in the cache for the next try."""
    download = asked.workspace.downloads.cancel(asked.parameters.task)
    return Done(message=f"Download of {download.order.artifact} cancelled")


def show(asked: Asked[OfTask, None]) -> OpenedAnswer:
    """Opens a task's folder in the desktop's file manager, where there is one."""
    path, opened = asked.workspace.downloads.open(asked.parameters.task)
    return OpenedAnswer(opened=opened, path=path)


def prefetch(asked: Asked[None, PrefetchRequest]) -> PrefetchAnswer:
    """Brings files of a version into the cache, as a task without a folder."""
    wanted, area = asked.body, asked.workspace.downloads
    if wanted.check and wanted.evict:
        raise InvalidInput("check and evict exclude each other")
    which = (wanted.artifact, wanted.type, wanted.paths)
    if wanted.check:
        return PrefetchAnswer(CheckedAnswer.of(area.check(*which)))
    if wanted.evict:
        return PrefetchAnswer(EvictedAnswer.of(area.evict(*which)))
    return PrefetchAnswer(StartedAnswer.of("Prefetch", area.prefetch(*which)))


def _size(count: int) -> str:
    return ByteSize(count).human_readable()

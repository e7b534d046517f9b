"""Where stores are mounted: list, mount, unmount."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from runicornfs.api.calls import Asked, Call, Done, call
from runicornfs.api.requests import Absent, LocalPath
from runicornfs.errors import InvalidInput
from runicornfs.mount.options import MountOptions
from runicornfs.workspace.workspace import Workspace


class MountRequest(BaseModel):
    """A folder, and FUSE mount options as behind `-o` of the command line."""

    mountpoint: LocalPath
    options: str = ""


class UnmountParameters(BaseModel):
    """The folder, for clients that send no body with DELETE."""

    mountpoint: LocalPath | Absent = None


class UnmountRequest(BaseModel):
    """The folder; it may as well stand in the query."""

    mountpoint: LocalPath | None = None


@dataclass(frozen=True, kw_only=True)
class MountEntry:
    mountpoint: str


@dataclass(frozen=True, kw_only=True)
class MountsAnswer:
    mounts: list[MountEntry]


@dataclass(frozen=True, kw_only=True)
class MountAnswer(Done):
    mountpoint: str


def calls() -> list[Call]:
    path = "/api/mounts"
    return [
        call("GET", path, mounts, answers=MountsAnswer),
        call("POST", path, mount, body=MountRequest, answers=MountAnswer, refusals=(400,)),
        call(
            "DELETE",
            path,
            unmount,
            parameters=UnmountParameters,
            body=UnmountRequest,
            answers=MountAnswer,
            refusals=(400, 404),
        ),
    ]


def mounts(asked: Asked[None, None]) -> MountsAnswer:
    """Lists the folders on which this runicornfs has mounted the store."""
    return mounts_of(asked.workspace)


def mounts_of(workspace: Workspace) -> MountsAnswer:
    return MountsAnswer(mounts=[MountEntry(mountpoint=str(mount.mountpoint)) for mount in workspace.mounts])


def mount(asked: Asked[None, MountRequest]) -> MountAnswer:
    """Mounts the store in use on one more folder, which is made if it is not there."""
    wanted = asked.body
    made = asked.workspace.mount(_absolute(wanted.mountpoint), MountOptions.parse(wanted.options))
    where = str(made.mountpoint)
    return MountAnswer(mountpoint=where, message=f"Mounted on {where}")


def unmount(asked: Asked[UnmountParameters, UnmountRequest]) -> MountAnswer:
    """Takes a mount away; the folder is named in the query or in the body."""
    named = asked.parameters.mountpoint or asked.body.mountpoint
    if named is None:
        raise InvalidInput("mountpoint: say which folder")
    where = _absolute(named)
    asked.workspace.unmount(where)
    return MountAnswer(mountpoint=str(where), message=f"Unmounted {where}")


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise InvalidInput(f"mountpoint: {text!r} is no absolute path")
    return path

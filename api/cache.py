"""The cache: what it holds, what stays in it, and what goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, Field

from runicornfs.api.calls import CONTENTS, NAMED, RECORD, Asked, Call, Done, call
from runicornfs.api.requests import Absent
from runicornfs.content.cache import LISTED_AT_MOST
from runicornfs.content.contents import CacheStatus, Freed, Verification
from runicornfs.content.identity import sha256_of
from runicornfs.errors import InvalidInput
from runicornfs.workspace.cache import ListedFile, PinnedVersion
from runicornfs.workspace.workspace import Workspace

LISTED = 100


class FilesParameters(BaseModel):
    """`sort`: newest use first, oldest use first, or the largest share here first; `limit`: files at most."""

    sort: Literal["last_used", "oldest", "size"] = "last_used"
    limit: Annotated[int, Field(ge=1, le=LISTED_AT_MOST)] = LISTED


class ClearRequest(BaseModel):
    """`force` clears also while the server is away, from where nothing can be fetched again."""

    force: bool = False


class PinRequest(BaseModel):
    """`artifact`: `resnet50:v3`, `resnet50:production` or `model/resnet50:v3`."""

    artifact: str
    type: str | None = None


class UnpinParameters(BaseModel):
    """As in the body, for clients that send none with DELETE."""

    artifact: str | Absent = None
    type: str | Absent = None


class UnpinRequest(BaseModel):
    """As for a pin; it may as well stand in the query."""

    artifact: str | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class CacheAnswer(CacheStatus):
    """What the cache holds and has done since it was opened, and how far its check is. Sizes in bytes."""

    verify: Verification


@dataclass(frozen=True, kw_only=True)
class CachedFileAnswer:
    """A content of which something is here; `state` is partial, cached or verified. `where`: the versions to which it
    belongs, or its own path. Sizes in bytes, `last_used` in Unix seconds."""

    sha256: str | None
    path: str
    size_bytes: int
    cached_bytes: int
    state: str
    pinned: bool
    last_used: float
    where: list[str]


@dataclass(frozen=True, kw_only=True)
class CachedFilesAnswer:
    files: list[CachedFileAnswer]


@dataclass(frozen=True, kw_only=True)
class PinEntry:
    """A version that stays in the cache; `in_store` is false where the store does not show it any more. Sizes in bytes:
    of all its files, and of what is here."""

    artifact: str
    files: int
    size_bytes: int
    cached_bytes: int
    in_store: bool


@dataclass(frozen=True, kw_only=True)
class PinsAnswer:
    pins: list[PinEntry]


@dataclass(frozen=True, kw_only=True)
class PinAnswer(PinEntry, Done):
    pass


@dataclass(frozen=True, kw_only=True)
class FreedAnswer(Done):
    """`open_bytes` are in use and go when they are closed."""

    files_removed: int
    freed_bytes: int
    open_bytes: int

    @classmethod
    def of(cls, freed: Freed) -> FreedAnswer:
        message = f"{freed.files} files removed, {_size(freed.size_bytes)} freed"
        if freed.open_bytes:
            message += f"; {_size(freed.open_bytes)} are in use and go when they are closed"
        return cls(
            message=message, files_removed=freed.files, freed_bytes=freed.size_bytes, open_bytes=freed.open_bytes
        )


@dataclass(frozen=True, kw_only=True)
class VerificationAnswer(Done):
    verify: Verification


def calls() -> list[Call]:
    path = "/api/remote/cache"
    pins_path = f"{path}/pins"
    named = (400, *NAMED, *RECORD, *CONTENTS, 507)
    return [
        call("GET", path, status, answers=CacheAnswer, refusals=CONTENTS),
        call("GET", f"{path}/files", files, parameters=FilesParameters, answers=CachedFilesAnswer, refusals=CONTENTS),
        call("GET", pins_path, pins, answers=PinsAnswer, refusals=CONTENTS),
        call("POST", pins_path, pin, body=PinRequest, answers=PinAnswer, refusals=named),
        call(
            "DELETE",
            pins_path,
            unpin,
            parameters=UnpinParameters,
            body=UnpinRequest,
            answers=Done,
            refusals=(*NAMED, *CONTENTS),
        ),
        call("POST", f"{path}/cleanup", cleanup, answers=FreedAnswer, refusals=CONTENTS),
        call("POST", f"{path}/clear", clear, body=ClearRequest, answers=FreedAnswer, refusals=(400, 409, *CONTENTS)),
        call("POST", f"{path}/verify", verify, answers=VerificationAnswer, refusals=(400, *CONTENTS)),
    ]


def status(asked: Asked[None, None]) -> CacheAnswer:
    """Says what the cache holds and how it does."""
    return status_of(asked.workspace)


def status_of(workspace: Workspace) -> CacheAnswer:
    cache = workspace.cache
    return CacheAnswer(**asdict(cache.status()), verify=cache.verification())


def files(asked: Asked[FilesParameters, None]) -> CachedFilesAnswer:
    """Lists what is cached."""
    found = asked.workspace.cache.files(asked.parameters.sort, asked.parameters.limit)
    return CachedFilesAnswer(files=[_file(file) for file in found])


def pins(asked: Asked[None, None]) -> PinsAnswer:
    """Lists the versions that stay in the cache."""
    return PinsAnswer(pins=[_entry(pin) for pin in asked.workspace.cache.pins()])


def pin(asked: Asked[None, PinRequest]) -> PinAnswer:
    """Keeps a version's files in the cache once they are there."""
    pinned = asked.workspace.cache.pin(asked.body.artifact, asked.body.type)
    entry = _entry(PinnedVersion(pinned, True))
    return PinAnswer(message=f"{pinned.label} stays in the cache", **asdict(entry))


def unpin(asked: Asked[UnpinParameters, UnpinRequest]) -> Done:
    """Lets a version's files go from the cache again; the version is named in the query or in the body."""
    wanted = asked.parameters if asked.parameters.artifact is not None else asked.body
    if wanted.artifact is None:
        raise InvalidInput("artifact: say which version")
    label = asked.workspace.cache.unpin(wanted.artifact, wanted.type)
    return Done(message=f"{label} may go from the cache again")


def cleanup(asked: Asked[None, None]) -> FreedAnswer:
    """Brings the cache down to its limit, least recently used first."""
    return FreedAnswer.of(asked.workspace.cache.cleanup())


def clear(asked: Asked[None, ClearRequest]) -> FreedAnswer:
    """Drops everything that is cached of the server in use; what is open stays readable.

    When connected, the tree is synced again at once; offline it is refused unless `force` says otherwise.
    """
    return FreedAnswer.of(asked.workspace.cache.clear(asked.body.force))


def verify(asked: Asked[None, None]) -> VerificationAnswer:
    """Starts to check what is cached against its sha256, or joins the check that runs.

    Returns at once; `verify` of `/api/remote/cache` tells how far it is.
    """
    return VerificationAnswer(message="The cache is being checked", verify=asked.workspace.cache.verify())


def _file(file: ListedFile) -> CachedFileAnswer:
    content = asdict(file.content)
    key = content.pop("key")
    return CachedFileAnswer(sha256=key if sha256_of(key) else None, **content, where=file.where)


def _entry(pinned: PinnedVersion) -> PinEntry:
    pin = asdict(pinned.pin)
    return PinEntry(artifact=pin.pop("label"), **pin, in_store=pinned.in_store)


def _size(count: int) -> str:
    return ByteSize(count).human_readable()

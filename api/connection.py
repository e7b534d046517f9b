"""Connecting to a server, leaving it, and which store is in use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, SecretStr

from runicornfs.api.calls import CONTENTS, SERVER, Asked, Call, Done, call
from runicornfs.api.requests import LocalPath
from runicornfs.errors import InvalidInput, RunicornFSError
from runicornfs.remote.address import RemoteSource
from runicornfs.remote.hostkeys import accept_fingerprint
from runicornfs.remote.identities import Credentials
from runicornfs.workspace.connection import REMOTE, Access

MINUTE = 60


class ConnectRequest(BaseModel):
    """A store on a server, and one way to log in. Secrets are kept in memory only, and never answered."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    username: str | None = None
    password: SecretStr | None = None
    private_key: SecretStr | None = None
    private_key_path: LocalPath | None = None
    passphrase: SecretStr | None = None
    use_agent: bool = True
    remote_root: Annotated[str, Field(min_length=1)]
    auto_sync: bool = True
    sync_interval_minutes: Annotated[float, Field(ge=0.01, le=7 * 24 * 60)] = 10
    accept_host_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class ConnectAnswer:
    """`structure_verified` says which parts of a store are there; `cache_dir` is where the cache lies here."""

    ok: bool
    status: str
    host: str
    username: str
    remote_root: str
    cache_dir: str
    structure_verified: dict[str, bool | None]
    auto_sync: bool
    sync_interval_minutes: float


@dataclass(frozen=True, kw_only=True)
class DisconnectAnswer(Done):
    status: str


@dataclass(frozen=True, kw_only=True)
class StructureAnswer:
    """`structure` has nothing where the server could not be asked; `error` says why."""

    connected: bool
    structure: dict[str, bool | None]
    adapter_status: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class ModeAnswer:
    """`remote_available`: there is a store of a server to switch to, be it offline."""

    mode: str
    remote_available: bool
    remote_connected: bool


class SwitchRequest(BaseModel):
    mode: Literal["local", "remote"]


@dataclass(frozen=True, kw_only=True)
class SwitchAnswer(Done):
    mode: str


def calls() -> list[Call]:
    mode_path = "/api/remote/mode"
    return [
        call(
            "POST",
            "/api/remote/connect",
            connect,
            body=ConnectRequest,
            answers=ConnectAnswer,
            refusals=(400, 409, *SERVER, 507),
            waits=True,
        ),
        call("POST", "/api/remote/disconnect", disconnect, answers=DisconnectAnswer, refusals=(400, *CONTENTS)),
        call("GET", "/api/remote/verify", verify, answers=StructureAnswer, refusals=CONTENTS, waits=True),
        call("GET", mode_path, mode, answers=ModeAnswer, refusals=CONTENTS),
        call(
            "POST",
            f"{mode_path}/switch",
            switch,
            body=SwitchRequest,
            answers=SwitchAnswer,
            refusals=(400, *CONTENTS),
        ),
    ]


def connect(asked: Asked[None, ConnectRequest]) -> ConnectAnswer:
    """Connects to a server and uses its store, instead of the one before.

    Answers when the connection stands; the first sync goes on behind it. An unknown host key is a question: 409 with
    `host_key`, to be answered with `accept_host_key`. A key that has changed is never accepted here.
    """
    wanted, workspace = asked.body, asked.workspace
    interval = wanted.sync_interval_minutes * MINUTE if wanted.auto_sync else 0.0
    store = workspace.connection.connect(_access(wanted, interval))
    structure = store.upkeep.inspect()
    workspace.sync()
    return ConnectAnswer(
        ok=True,
        status="connected",
        host=wanted.host,
        username=store.server.address.user if store.server else "",
        remote_root=wanted.remote_root,
        cache_dir=str(store.folder.path),
        structure_verified=structure.as_dict(),
        auto_sync=wanted.auto_sync,
        sync_interval_minutes=wanted.sync_interval_minutes,
    )


def disconnect(asked: Asked[None, None]) -> DisconnectAnswer:
    """Ends the connection, or the attempt at one. What was synced and cached stays."""
    now = asked.workspace.connection.disconnect()
    message = "Disconnected from remote server"
    if now == REMOTE:
        message += "; what was synced and cached can be read offline"
    return DisconnectAnswer(status="disconnected", message=message)


def verify(asked: Asked[None, None]) -> StructureAnswer:
    """Looks at the server: which parts of a store are there and can be read."""
    workspace = asked.workspace
    structure: dict[str, bool | None] = {}
    error = None
    try:
        structure = workspace.store.upkeep.inspect().as_dict()
    except RunicornFSError as failure:
        error = str(failure)
    return StructureAnswer(
        connected=error is None,
        structure=structure,
        adapter_status=workspace.status().status,
        error=error,
    )


def mode(asked: Asked[None, None]) -> ModeAnswer:
    """Says which store is in use: the one of this machine or the one on the server."""
    connection = asked.workspace.connection
    return ModeAnswer(
        mode=connection.mode,
        remote_available=connection.remote_available,
        remote_connected=connection.remote_connected,
    )


def switch(asked: Asked[None, SwitchRequest]) -> SwitchAnswer:
    """Uses the store of this machine, or the one on the server."""
    workspace = asked.workspace
    workspace.connection.switch(asked.body.mode)
    if workspace.store.upkeep.state().connected:
        workspace.sync()
    now = workspace.connection.mode
    offline = now == REMOTE and not workspace.connection.remote_connected
    message = f"Switched to {now} mode" + (", offline: the server is not connected" if offline else "")
    return SwitchAnswer(mode=now, message=message)


def _access(wanted: ConnectRequest, interval: float) -> Access:
    ways = [wanted.password, wanted.private_key, wanted.private_key_path]
    if sum(way is not None for way in ways) > 1:
        raise InvalidInput("give one of password, private_key and private_key_path")
    credentials = Credentials(
        identity_files=() if wanted.private_key_path is None else (Path(wanted.private_key_path),),
        private_key=_secret(wanted.private_key),
        passphrase=_secret(wanted.passphrase),
        password=_secret(wanted.password),
        use_agent=wanted.use_agent,
    )
    store = RemoteSource(wanted.host, wanted.remote_root, wanted.username, wanted.port)
    confirm = None if wanted.accept_host_key is None else accept_fingerprint(wanted.accept_host_key)
    who = f"{wanted.username}@" if wanted.username else ""
    return Access(f"{who}{wanted.host}:{wanted.remote_root}", store, credentials, confirm, interval)


def _secret(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()

"""Saved connections and where things lie on this machine. No secret is taken in, kept or told."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from runicornfs.api.calls import Asked, Call, Done, call
from runicornfs.workspace.connections import SavedConnection


class OfConnection(BaseModel):
    """`key` is `host:port@username`."""

    key: str


@dataclass(frozen=True, kw_only=True)
class ConfigAnswer:
    """`storage`, which Runicorn calls the user's root, is the store of this machine, "" where there is none."""

    user_root_dir: str
    storage: str
    config_file: str
    cache_dir: str


@dataclass(frozen=True, kw_only=True)
class ConnectionEntry:
    """How to reach a store; secrets are never kept, so `has_password` and `has_private_key` are false."""

    key: str
    host: str
    port: int
    username: str
    remote_root: str
    name: str
    auth: str
    auto_sync: bool
    sync_interval_minutes: int
    has_password: bool = False
    has_private_key: bool = False

    @classmethod
    def of(cls, saved: SavedConnection) -> ConnectionEntry:
        return cls(key=saved.key, **saved.model_dump())


@dataclass(frozen=True, kw_only=True)
class ConnectionsAnswer:
    connections: list[ConnectionEntry]


@dataclass(frozen=True, kw_only=True)
class ConnectionAnswer:
    ok: bool = True
    connection: ConnectionEntry


def calls() -> list[Call]:
    saved = "/api/config/ssh_connections"
    one = f"{saved}/{{key}}"
    return [
        call("GET", "/api/config", config, answers=ConfigAnswer),
        call("GET", saved, connections, answers=ConnectionsAnswer, refusals=(400,)),
        call("POST", saved, save, body=SavedConnection, answers=Done, refusals=(400,)),
        call("DELETE", one, remove, parameters=OfConnection, answers=Done, refusals=(400, 404)),
        call(
            "GET",
            f"{one}/details",
            details,
            parameters=OfConnection,
            answers=ConnectionAnswer,
            refusals=(400, 404),
        ),
    ]


def config(asked: Asked[None, None]) -> ConfigAnswer:
    """Says where things lie on this machine."""
    workspace = asked.workspace
    storage = str(workspace.connection.local_root or "")
    return ConfigAnswer(
        user_root_dir=storage,
        storage=storage,
        config_file=str(workspace.connections.file),
        cache_dir=str(workspace.cache_dir),
    )


def connections(asked: Asked[None, None]) -> ConnectionsAnswer:
    """Lists the saved connections."""
    return ConnectionsAnswer(connections=[ConnectionEntry.of(saved) for saved in asked.workspace.connections.all()])


def save(asked: Asked[None, SavedConnection]) -> Done:
    """Saves a connection, without anything secret; one with the same key is replaced."""
    replaced = asked.workspace.connections.save(asked.body)
    return Done(message=f"{asked.body.key} is {'replaced' if replaced else 'saved'}")


def remove(asked: Asked[OfConnection, None]) -> Done:
    """Forgets a saved connection."""
    key = asked.parameters.key
    asked.workspace.connections.remove(key)
    return Done(message=f"{key} is removed")


def details(asked: Asked[OfConnection, None]) -> ConnectionAnswer:
    """Tells one saved connection."""
    saved = asked.workspace.connections.find(asked.parameters.key)
    return ConnectionAnswer(connection=ConnectionEntry.of(saved))

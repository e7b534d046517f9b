"""The servers that a person has saved: one private file, without secrets, that no two writers damage."""

from __future__ import annotations

import fcntl
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runicornfs.errors import InvalidInput, NotFound, Refused
from runicornfs.workspace import connections
from runicornfs.workspace.connections import SavedConnection, SavedConnections, default_file


@pytest.fixture
def saved(tmp_path: Path) -> SavedConnections:
    return SavedConnections(tmp_path / "config" / "connections.json")


def a_connection(host: str = "gpu", **more: Any) -> SavedConnection:
    return SavedConnection(host=host, username="alice", **more)


def test_what_is_saved_is_there_for_the_next_process(saved: SavedConnections) -> None:
    assert saved.all() == []
    assert not saved.save(a_connection(port=2222, remote_root="/data/runicorn", name="Lab", auth="password"))
    (found,) = SavedConnections(saved.file).all()
    assert found.key == "gpu:2222@alice"
    assert found.model_dump() == {
        "host": "gpu",
        "port": 2222,
        "username": "alice",
        "remote_root": "/data/runicorn",
        "name": "Lab",
        "auth": "password",
        "auto_sync": True,
        "sync_interval_minutes": 10,
    }


def test_of_two_with_one_key_the_later_counts(saved: SavedConnections) -> None:
    saved.save(a_connection(remote_root="/old"))
    saved.save(a_connection("other"))
    assert saved.save(a_connection(remote_root="/new"))
    assert [(found.host, found.remote_root) for found in saved.all()] == [("gpu", "/new"), ("other", "")]


def test_a_connection_that_is_removed_is_gone(saved: SavedConnections) -> None:
    saved.save(a_connection())
    saved.remove("gpu:22@alice")
    assert saved.all() == []
    with pytest.raises(NotFound, match="gpu:22@alice"):
        saved.remove("gpu:22@alice")
    with pytest.raises(NotFound):
        saved.find("gpu:22@alice")


def test_secrets_never_reach_the_file(saved: SavedConnections) -> None:
    posted = {
        "host": "gpu",
        "username": "alice",
        "password": "hunter2",
        "private_key": "hunter2",
        "passphrase": "hunter2",
    }
    saved.save(SavedConnection.model_validate(posted))
    assert "hunter2" not in saved.file.read_text()


def test_only_the_user_can_read_it(saved: SavedConnections) -> None:
    saved.save(a_connection())
    assert saved.file.stat().st_mode & 0o777 == 0o600
    assert saved.file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 0),
        ("port", 65536),
        ("port", "x"),
        ("auth", "rm -rf"),
        ("sync_interval_minutes", 0),
        ("name", "x" * 5000),
    ],
)
def test_a_field_out_of_its_range_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        SavedConnection.model_validate({"host": "gpu", "username": "alice", field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("host", "-oProxyCommand=x"), ("host", "a/b"), ("host", ""), ("username", "a b"), ("remote_root", "not/absolute")],
)
def test_what_could_be_mistaken_for_something_else_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=field.removeprefix("remote_").removesuffix("name")):
        SavedConnection.model_validate({"host": "gpu", "username": "alice", field: value})


@pytest.mark.parametrize("damage", ["{", '{"connections": [{"host": "-x", "username": "a"}]}', '{"connections": [1]}'])
def test_a_damaged_file_is_named_and_never_overwritten(saved: SavedConnections, damage: str) -> None:
    saved.file.parent.mkdir()
    saved.file.write_text(damage)
    with pytest.raises(Refused, match="is damaged"):
        saved.save(a_connection())
    assert saved.file.read_text() == damage


def test_writers_at_the_same_time_lose_nothing(saved: SavedConnections) -> None:
    hosts = [f"host{n}" for n in range(20)]
    threads = [threading.Thread(target=saved.save, args=(a_connection(host),)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found.host for found in saved.all()) == sorted(hosts)


def test_a_lock_that_is_never_let_go_is_waited_for_with_a_bound(
    saved: SavedConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOCK_TIMEOUT_S", 0.05)
    saved.save(a_connection())
    with open(f"{saved.file}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="does not let go"):
            saved.save(a_connection("other"))
    assert len(saved.all()) == 1


def test_what_a_killed_writer_left_is_no_obstacle(saved: SavedConnections) -> None:
    saved.save(a_connection())
    Path(f"{saved.file}.part").write_text("half of")
    saved.save(a_connection("other"))
    assert len(json.loads(saved.file.read_text())["connections"]) == 2


def test_there_is_a_limit(saved: SavedConnections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_LIMIT", 1)
    saved.save(a_connection())
    with pytest.raises(Refused, match="remove one first"):
        saved.save(a_connection("other"))
    assert saved.save(a_connection(name="the same one"))


def test_the_users_own_file_lies_where_configuration_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert default_file() == tmp_path / "xdg/runicornfs/connections.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert default_file() == tmp_path / ".config/runicornfs/connections.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert default_file() == tmp_path / ".config/runicornfs/connections.json"

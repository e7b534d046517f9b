"""The socket of the process that owns a cache folder: who gets in, what a session is, and what it leaves behind."""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runicornfs.content import owner, wire
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.guest import GuestContents
from runicornfs.content.identity import Identity
from runicornfs.content.owner import OwnerSocket
from runicornfs.content.wire import Connection
from runicornfs.errors import InvalidInput, OwnerGone, Refused, RunicornFSError
from tests.fake_transfers import Caches, FakeTransfers, content_of
from tests.waiting import wait_until

FILE = content_of(20 * BLOCK + 100)

# Becomes another user in the folder, connects, and tells what it gets.
INTRUDER = """
import os, socket, sys
os.seteuid(65534)
intruder = socket.socket(socket.AF_UNIX)
intruder.connect(sys.argv[1])
print(intruder.recv(1), end="")
"""


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def cache(tmp_path: Path, server: FakeTransfers) -> Iterator[ContentCache]:
    with Caches(tmp_path / "cache", server) as caches:
        yield caches.open()


@pytest.fixture
def folder(tmp_path: Path, cache: ContentCache) -> Iterator[Path]:
    """The folder of a cache that has an owner."""
    door = OwnerSocket(tmp_path / "cache", cache, {"add": lambda arguments: arguments["a"] + arguments["b"]})
    yield tmp_path / "cache"
    door.close()
    wait_until(lambda: not _threads("runicornfs-owner"), "the threads of the owner's socket to end")


def _threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def _hello(folder: Path, **header: Any) -> tuple[Connection, dict[str, Any]]:
    connection = wire.connect(folder)
    connection.send({"op": "hello", "version": wire.VERSION, **header})
    frame = connection.receive()
    assert frame is not None
    return connection, frame.header


def _join(folder: Path, token: str) -> Connection:
    connection, header = _hello(folder, op="join", token=token)
    assert header == {}
    return connection


def _open(connection: Connection, identity: Identity) -> int:
    assert identity.sha256 is not None
    connection.send(
        {
            "op": "open",
            "key": identity.key,
            "path": identity.path,
            "size": identity.size,
            "sha256": identity.sha256.hex(),
            "given": False,
        }
    )
    frame = connection.receive()
    assert frame is not None
    return int(frame.header["handle"])


def test_another_version_is_sent_away_with_a_sentence(folder: Path) -> None:
    connection, header = _hello(folder, version=wire.VERSION + 1)
    assert "another version" in header["error"]["message"]
    assert connection.receive() is None
    connection.close()


def test_a_session_that_is_not_known_cannot_be_joined(folder: Path) -> None:
    connection, header = _hello(folder, op="join", token="0" * 32)
    assert isinstance(wire.error_of(header["error"]), OwnerGone)
    connection.close()


def test_who_does_not_say_who_it_is_is_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "GREETING_S", 0.05)
    connection = wire.connect(folder)
    assert connection.receive() is None
    connection.close()


def test_another_user_is_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder.chmod(0o711)  # as if permissions did not stop it
    (folder / wire.SOCKET_NAME).chmod(0o666)
    intruder = subprocess.run(
        [sys.executable, "-c", INTRUDER, wire.SOCKET_NAME], cwd=folder, capture_output=True, text=True, check=True
    )
    assert intruder.stdout == "b''"
    assert "another user" in caplog.text


def test_more_connections_than_there_may_be_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "MAX_CONNECTIONS", 1)
    events, _ = _hello(folder)
    with pytest.raises(Refused, match="try again later"):
        GuestContents(folder)
    events.close()


def test_the_end_of_a_guest_closes_what_it_had_open(folder: Path, cache: ContentCache, server: FakeTransfers) -> None:
    events, header = _hello(folder)
    connection = _join(folder, header["token"])
    _open(connection, server.add("a", FILE))
    assert len(cache._table.entries()) == 1
    events.close()
    wait_until(lambda: not cache._table.entries(), "the content to be closed")
    assert connection.receive() is None
    connection.close()


def test_a_read_that_waits_ends_with_its_connection(folder: Path, cache: ContentCache, server: FakeTransfers) -> None:
    events, header = _hello(folder)
    connection = _join(folder, header["token"])
    handle = _open(connection, server.add("a", FILE))
    server.hold()
    connection.send({"op": "read", "handle": handle, "offset": 0, "size": 10})
    (entry,) = cache._table.entries()
    wait_until(lambda: entry.waiting, "the read to wait")
    connection.close()
    wait_until(lambda: not entry.waiting, "the read to be given up")
    server.release()
    events.close()


def test_a_guest_that_takes_no_events_is_let_go_and_holds_nobody_up(
    folder: Path, cache: ContentCache, server: FakeTransfers, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    heard: list[object] = []
    with closing(OwnerSocket(other, cache, {})) as door, closing(GuestContents(other)) as guest:
        deaf, _ = _hello(other)
        guest.on_event("news", heard.append)
        for told in range(10, 1000, 10):
            for _ in range(10):
                door.announce("news", {"text": "x" * 1000})
            wait_until(lambda: len(heard) == told, "the news")  # noqa: B023
        wait_until(lambda: len(door._sessions) == 1, "the deaf guest to be let go")
        deaf.close()


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"op": "eat"},
        {"op": ["read"]},
        {"op": "read"},
        {"op": "read", "handle": 77, "offset": 0, "size": 1},
        {"op": "read", "handle": 1, "offset": -1, "size": 1},
        {"op": "read", "handle": 1, "offset": 0, "size": 1 << 40},
        {"op": "close", "handle": 77, "hits": 0, "bytes_served": 0},
        {"op": "open", "key": "k", "path": "p", "size": "5", "given": False},
        {"op": "open", "key": "k", "path": "p", "size": 5, "sha256": "xyz", "given": False},
        {"op": "call", "name": "status"},
    ],
)
def test_a_malformed_request_ends_its_connection_and_no_other(
    folder: Path, server: FakeTransfers, header: dict[str, Any]
) -> None:
    identity = server.add("a", FILE)
    events, greeting = _hello(folder)
    good, bad = _join(folder, greeting["token"]), _join(folder, greeting["token"])
    handle = _open(good, identity)
    bad.send(header, b"[]")
    assert bad.receive() is None
    good.send({"op": "read", "handle": handle, "offset": 0, "size": 10})
    frame = good.receive()
    assert frame is not None
    assert frame.body == FILE[:10]
    for connection in (events, good, bad):
        connection.close()


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(["op", "handle", "offset", "size", "key", "path", "sha256", "name", "token", "version"])
operations = st.sampled_from(["open", "read", "close", "call", "hello", "join"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.binary(max_size=40)
        | st.tuples(operations, st.dictionaries(fields, json_values, max_size=6), st.binary(max_size=20)),
        max_size=3,
    )
)
def test_whatever_a_guest_says_the_owner_goes_on(
    folder: Path, server: FakeTransfers, said: list[bytes | tuple[str, dict[str, Any], bytes]]
) -> None:
    events, greeting = _hello(folder)
    connection = _join(folder, greeting["token"])
    try:
        for words in said:
            if isinstance(words, bytes):
                connection._socket.send(words)
            else:
                connection.send({**words[1], "op": words[0]}, words[2])
    except (OSError, RunicornFSError):
        pass  # it has ended the connection already
    connection.close()
    good = _join(folder, greeting["token"])
    good.close()
    events.close()


def test_a_frame_that_breaks_off_ends_its_connection(folder: Path) -> None:
    events, greeting = _hello(folder)
    connection = _join(folder, greeting["token"])
    connection._socket.send(struct.pack("!II", 100, 0) + b"{")
    connection._socket.shutdown(socket.SHUT_WR)
    assert connection.receive() is None
    connection.close()
    events.close()


def test_handlers_answer_by_name(folder: Path) -> None:
    guest = GuestContents(folder)
    assert guest.call("add", a=1, b=2) == 3
    with pytest.raises(InvalidInput, match="subtract"):
        guest.call("subtract", a=1, b=2)
    guest.close()


def test_a_handler_that_fails_costs_its_own_answer(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    guest = GuestContents(folder)
    with pytest.raises(RunicornFSError, match="its log says how"):
        guest.call("add", a=1)
    assert guest.call("add", a=1, b=2) == 3
    guest.close()
    assert "KeyError" in caplog.text


def test_what_is_not_on_the_list_cannot_be_called(folder: Path) -> None:
    guest = GuestContents(folder)
    for name in ("close", "open", "__init__", "_records", "on_dropped"):
        with pytest.raises(InvalidInput):
            guest.call(name)
    guest.close()


def test_after_the_end_nobody_gets_in_and_every_guest_knows(tmp_path: Path, cache: ContentCache) -> None:
    door = OwnerSocket(tmp_path / "cache", cache, {})
    guest = GuestContents(tmp_path / "cache")
    lost = threading.Event()
    guest.on_lost(lost.set)
    door.close()
    door.close()
    wait_until(lost.is_set, "the guest to know")
    assert not (tmp_path / "cache" / wire.SOCKET_NAME).exists()
    with pytest.raises(OwnerGone):
        GuestContents(tmp_path / "cache")
    guest.close()


@pytest.mark.parametrize("end", [GuestContents.close, lambda guest: guest._events.end()])
def test_a_session_leaves_no_thread_and_no_descriptor_behind(
    folder: Path, server: FakeTransfers, caplog: pytest.LogCaptureFixture, end: Callable[[GuestContents], None]
) -> None:
    caplog.set_level(logging.INFO)
    identity = server.add("a", FILE)

    def used() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(_threads("runicornfs-owner"))

    before = used()
    for _ in range(3):
        guest = GuestContents(folder)
        reader = guest.open(identity)
        assert reader.read(0, len(FILE)) == FILE
        end(guest)
        reader.close()
        guest.close()
    wait_until(lambda: used() == before, "everything to be given back")

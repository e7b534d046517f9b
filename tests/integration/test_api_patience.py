"""Clients that keep the control API waiting: it goes on answering others, and keeps neither memory nor descriptors."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from runicornfs.api import events
from runicornfs.daemon.http import CONNECTIONS_LIMIT
from runicornfs.demo.sshd import PrivateSshd
from tests.mounts import Mounted, login_options, require_fuse, source_of
from tests.waiting import wait_until

HEAD = b"Host: 127.0.0.1\r\n"
EVENTS = b"GET /api/events HTTP/1.1\r\n" + HEAD + b"\r\n"
SWITCH = b"POST /api/remote/mode/switch HTTP/1.1\r\n" + HEAD
# Beside the connections: sockets, databases, the mount, what uvicorn has of connections that it is just closing.
OTHERS = 150


@pytest.fixture(scope="module")
def served(sshd: PrivateSshd, _reference_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    require_fuse()
    folder = tmp_path_factory.mktemp("patience")
    mounted = Mounted(folder, source_of(sshd, _reference_store), *login_options(sshd))
    try:
        mounted.wait()
        yield mounted
    finally:
        mounted.close()


def connect(served: Mounted, data: bytes = b"") -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", int(served.api.rpartition(":")[2])), timeout=30)
    connected.sendall(data)
    return connected


@contextmanager
def keeping(served: Mounted, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """So many clients that say this and nothing more."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(served, data)) for _ in range(count)]


def answers(served: Mounted) -> bool:
    try:
        return httpx.get(f"{served.api}/api/health", timeout=20, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def answer_to(served: Mounted, data: bytes) -> bytes:
    """Everything until the end of the connection."""
    with connect(served, data) as connected, connected.makefile("rb") as stream:
        return stream.read()


@pytest.mark.promise("K5")
@pytest.mark.parametrize(
    "data",
    [b"", b"GET /api/health HTTP/1.1\r\nX-Never", SWITCH + b"Content-Length: 100\r\n\r\n{", EVENTS],
    ids=["silent", "half a head", "half a body", "events that are never read"],
)
def test_hundreds_of_clients_that_do_not_go_on_hold_nobody_up(served: Mounted, data: bytes) -> None:
    with keeping(served, CONNECTIONS_LIMIT + 50, data):
        wait_until(lambda: answers(served), "an answer for somebody else")
        assert len(os.listdir(f"/proc/{served.process.pid}/fd")) < CONNECTIONS_LIMIT + OTHERS
        assert os.listdir(served.mountpoint)
    assert answers(served)


def test_only_so_many_clients_listen_to_events_and_the_next_is_told_so(served: Mounted) -> None:
    with keeping(served, events.LISTENERS_LIMIT, EVENTS) as clients:
        for client in clients:
            assert client.recv(20).startswith(b"HTTP/1.1 200")
        refused = httpx.get(f"{served.api}/api/events", timeout=20, trust_env=False)
        assert (refused.status_code, refused.json()["code"]) == (400, "refused")

    def is_let_in() -> bool:
        with connect(served, EVENTS) as client:
            return client.recv(20).startswith(b"HTTP/1.1 200")

    wait_until(is_let_in, "a place for another client")


def test_a_body_without_end_is_refused_and_not_kept(served: Mounted) -> None:
    with connect(served, SWITCH + b"Transfer-Encoding: chunked\r\n\r\n") as client:
        for _ in range(40):
            client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert client.recv(20).startswith(b"HTTP/1.1 413")
    assert answers(served)


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_no_trace(served: Mounted) -> None:
    before = served.log()
    with connect(served, SWITCH + b"Content-Length: 100\r\n\r\n{"):
        assert answers(served)
    assert answers(served)
    assert "Traceback" not in served.log()[len(before) :]


# Anything but a request that a browser or a program would send. All of it must be answered as the client's mistake.
ODD_REQUESTS = [
    b"POST /api/remote/sync HTTP/1.1\r\n" + HEAD + b"Origin: http://[\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost: [\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n",
    b"GET /api/health HTTP/1.1\r\n" + HEAD + b"Authorization: Bearer \xe9\xff\r\n\r\n",
    SWITCH + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    SWITCH + b"Content-Length: -1\r\n\r\n",
    SWITCH + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    SWITCH + b"Content-Length: 2000000\r\n\r\n{}",
    SWITCH + b"Transfer-Encoding: gzip\r\n\r\n",
    SWITCH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    SWITCH + b"Content-Length: 36\r\n\r\n" + '{"mode":"remote"}'.encode("utf-16"),
    b"GET /api/artifacts/\xff\xfe/versions HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"GET /api/artifacts/%ff%fe/versions HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"GET /api/artifacts/a%2fb/versions HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"GET http://evil/api/health HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"CONNECT evil:1 HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"TRACE /api/health HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"PUT /api/health HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(150),
    b"GET /api/health HTTP/1.1\r\n" + HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    bytes(range(256)) * 4 + b"\r\n\r\n",
]


@pytest.mark.parametrize("data", ODD_REQUESTS, ids=lambda data: repr(data[:60]))
def test_an_odd_request_is_the_clients_mistake(served: Mounted, data: bytes) -> None:
    before = served.log()
    with connect(served, data) as client:
        assert client.recv(10) == b"HTTP/1.1 4"
    assert answers(served)
    assert "Traceback" not in served.log()[len(before) :]


def test_a_number_of_an_event_that_is_none_of_ours_begins_anew(served: Mounted) -> None:
    for number in (b"9" * 5000, b"\xb2", b"-1", b"1e3", b""):
        asked = EVENTS[:-2] + b"Last-Event-ID: " + number + b"\r\n\r\n"
        with connect(served, asked) as client, client.makefile("rb") as stream:
            lines = iter(stream.readline, b"")
            assert next(lines).startswith(b"HTTP/1.1 200")
            assert any(line.startswith(b"event: ") for line in lines)


def test_the_head_of_the_events_comes_to_an_end(served: Mounted) -> None:
    asked = b"HEAD /api/events HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n"
    assert b"text/event-stream" in answer_to(served, asked)


def test_garbage_behind_good_requests_takes_nothing_from_them(served: Mounted) -> None:
    asked = (b"GET /api/health HTTP/1.1\r\n" + HEAD + b"\r\n") * 20 + b"GARBAGE\r\n\r\n"
    answered = answer_to(served, asked)
    assert answered.count(b"HTTP/1.1 200") == 20
    assert answered.count(b"HTTP/1.1 400") == 1


@pytest.mark.parametrize(
    "part",
    [
        {"username": "a\0b"},
        {"username": "-oProxyCommand=id"},
        {"username": "x" * 200_000},
        {"host": "-oProxyCommand=id"},
        {"host": "x" * 200_000},
        {"host": "a\nb"},
        {"remote_root": "/a\0"},
        {"remote_root": "/" + "x" * 200_000},
        {"sync_interval_minutes": 1e-300},
    ],
    ids=lambda part: repr(part)[:40],
)
def test_what_can_be_no_server_is_refused_before_anything_is_started(served: Mounted, part: dict[str, object]) -> None:
    wanted = {"host": "127.0.0.1", "port": 1, "username": "ada", "remote_root": "/x"} | part
    refused = httpx.post(f"{served.api}/api/remote/connect", json=wanted, timeout=30, trust_env=False)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")

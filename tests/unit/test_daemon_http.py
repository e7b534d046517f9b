"""Connections of the control API on which nothing comes, and what is waited for how long."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from runicornfs.api import problems, requests
from runicornfs.api.requests import body_of
from runicornfs.cli.parameters import ApiAddress
from runicornfs.daemon import http
from runicornfs.daemon.api_server import ApiServer
from runicornfs.errors import Refused

# Many times what is waited for here.
PATIENCE_S = 20.0


async def size(request: Request) -> Response:
    return PlainTextResponse(f"{len(await body_of(request))} bytes")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(http, "REQUEST_S", 0.3)
    monkeypatch.setattr(requests, "BODY_S", 0.6)
    app = Starlette(
        routes=[Route("/", size, methods=["POST"])], exception_handlers={HTTPException: problems.on_http_error}
    )
    server = ApiServer(app, ApiAddress("127.0.0.1", 0, named=True))
    yield int(server.url.rpartition(":")[2])
    server.close()


def is_ended(client: socket.socket, dribble: bytes) -> bool:
    """Whether the other end closes while this is said again and again."""
    client.settimeout(0.05)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            client.sendall(dribble)
            if client.recv(65536) == b"":
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize(
    ("said", "dribble"),
    [
        (b"", b""),
        (b"POST / HTTP/1.1\r\n", b"X-More: and more\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nabPOST / HTTP", b"/"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", b"a"),
    ],
    ids=["silent", "a head without end", "a second head without end", "a body that nobody wants"],
)
def test_a_connection_on_which_no_request_comes_is_closed(port: int, said: bytes, dribble: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(said)
        assert is_ended(client, dribble)


def test_a_body_that_does_not_come_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{")
        with client.makefile("rb") as stream:
            answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


def test_a_host_that_there_cannot_be_is_refused() -> None:
    with pytest.raises(Refused):
        ApiServer(Starlette(), ApiAddress("a..b", 0, named=True))

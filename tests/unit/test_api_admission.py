"""Which accounts may call the control API, and how much they may send."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runicornfs.api import callers
from runicornfs.api.callers import Callers, account_of
from runicornfs.api.limits import BODY_LIMIT, BodyLimit
from runicornfs.daemon.token import VARIABLE, find_token, take_token, token_file
from runicornfs.errors import Refused

NOBODY = 65534


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as listening:
        try:
            listening.bind((request.param, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        listening.listen()
        yield listening


def test_the_other_end_of_a_connection_is_this_account(listener: socket.socket) -> None:
    with socket.socket(listener.family) as client:
        client.connect(listener.getsockname())
        accepted, peer = listener.accept()
        with accepted:
            assert account_of(peer[:2], accepted.getsockname()[:2]) == os.getuid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_account_is_told_apart(listener: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()  # no new program: that other account may not be allowed to run this Python
    if not child:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with socket.socket(listener.family) as client:
                client.connect(listener.getsockname())
                theirs.recv(1)
        finally:
            os._exit(0)
    try:
        listener.settimeout(20)
        accepted, peer = listener.accept()
        with accepted:
            assert account_of(peer[:2], accepted.getsockname()[:2]) == NOBODY
    finally:
        ours.close()
        theirs.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_ipv4_client_of_an_ipv6_socket_is_found() -> None:
    with socket.socket(socket.AF_INET6) as listening, socket.socket() as client:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(("::", 0))
        listening.listen()
        client.connect(("127.0.0.1", listening.getsockname()[1]))
        accepted, peer = listening.accept()
        with accepted:
            assert account_of(peer[:2], accepted.getsockname()[:2]) == os.getuid()


def test_a_connection_that_is_not_there_belongs_to_nobody() -> None:
    assert account_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


async def _length(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


def call(middleware: Middleware, is_open: bool = True, **request: object) -> httpx.Response:
    """One request through one middleware, as uvicorn would hand it on."""
    app = Starlette(routes=[Route("/", _length, methods=["GET", "POST"])], middleware=[middleware])

    async def send() -> httpx.Response:
        async def served(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": {callers.STILL_OPEN: lambda: is_open}}, receive, send)

        transport = httpx.ASGITransport(app=served, client=("127.0.0.1", 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:23300") as client:
            return await client.request("POST", "/", **request)  # type: ignore[arg-type]

    return asyncio.run(send())


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The account that the kernel says is calling."""
    account: list[int | None] = [os.getuid()]
    monkeypatch.setattr(callers, "account_of", lambda peer, here: account[0])
    return account


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_on_loopback_this_account_needs_no_token(caller: list[int | None]) -> None:
    assert call(Middleware(Callers, token=None, always=False)).status_code == 200


def test_a_connection_that_has_ended_is_nobodys(caller: list[int | None]) -> None:
    assert call(Middleware(Callers, token=None, always=False), is_open=False).status_code == 403


@pytest.mark.parametrize("account", [NOBODY, None])
def test_on_loopback_other_accounts_are_refused_without_the_token(
    caller: list[int | None], account: int | None
) -> None:
    caller[0] = account
    guard = Middleware(Callers, token="secret", always=False)
    assert call(guard).status_code == 403
    assert call(guard, headers=bearer("secret")).status_code == 200
    assert call(guard, headers=bearer("guess")).status_code == 401
    assert call(Middleware(Callers, token=None, always=False), headers=bearer("")).status_code == 401


def test_elsewhere_everybody_needs_the_token(caller: list[int | None]) -> None:
    guard = Middleware(Callers, token="secret", always=True)
    refused = call(guard)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert call(guard, headers=bearer("secret")).status_code == 200
    assert call(guard, headers={"Authorization": "Basic secret"}).status_code == 401


def test_a_body_up_to_the_limit_is_taken() -> None:
    assert call(Middleware(BodyLimit), content=bytes(BODY_LIMIT)).text == str(BODY_LIMIT)


def test_a_larger_body_is_refused_by_its_length() -> None:
    refused = call(Middleware(BodyLimit), content=bytes(BODY_LIMIT + 1))
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")


def test_a_larger_body_is_refused_where_its_length_is_not_told() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 1000 + 2):
            yield bytes(1000)

    assert call(Middleware(BodyLimit), content=pieces()).status_code == 413


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


def test_the_token_of_the_environment_counts_and_leaves_it(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, " from the environment\n")
    token = take_token()
    assert find_token(token, needed=True) == "from the environment"
    assert not token_file().exists()
    assert VARIABLE not in os.environ, "no program that is started now inherits it"
    assert take_token() is None


def test_a_token_that_is_needed_is_made_and_said_once(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_token(None, needed=False) is None
    token = find_token(None, needed=True)
    assert token is not None
    assert len(token) >= 32
    assert token in capsys.readouterr().err
    assert stat.S_IMODE(token_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(token_file().parent.stat().st_mode) == 0o700
    assert find_token(None, needed=True) == find_token(None, needed=False) == token
    assert token not in capsys.readouterr().err


def test_a_token_that_others_can_read_is_refused(configured: Path) -> None:
    find_token(None, needed=True)
    token_file().chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        find_token(None, needed=False)

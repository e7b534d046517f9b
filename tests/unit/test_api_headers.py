"""What every answer tells a browser."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from runicornfs.api import problems
from runicornfs.api.guard import LOOPBACK_NAMES, Guard
from runicornfs.api.headers import HEADERS, POLICY, BrowserHeaders


async def _plain(request: Request) -> Response:
    return PlainTextResponse("hello")


async def _own(request: Request) -> Response:
    return PlainTextResponse("hello", headers={"Cache-Control": "max-age=60"})


async def _fails(request: Request) -> Response:
    raise RuntimeError("nobody expected this")


def ask(path: str, host: str = "127.0.0.1:23300") -> httpx.Response:
    app = Starlette(
        routes=[Route("/", _plain), Route("/own", _own), Route("/fails", _fails)],
        middleware=[Middleware(BrowserHeaders), Middleware(Guard, names=LOOPBACK_NAMES)],
        exception_handlers={Exception: problems.on_unexpected},
    )

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.get(path)

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [("/", "127.0.0.1", 200), ("/", "evil.example", 403), ("/nothing", "127.0.0.1", 404), ("/fails", "127.0.0.1", 500)],
)
def test_answers_of_every_kind_have_them(path: str, host: str, status: int) -> None:
    answer = ask(path, host)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_what_an_answer_says_itself_stays() -> None:
    assert ask("/own").headers["Cache-Control"] == "max-age=60"


def test_nothing_runs_or_loads_that_is_not_ours() -> None:
    policy = dict(part.split(" ", 1) for part in POLICY.split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in POLICY

"""What a request asks for by its body and its parameters."""

from __future__ import annotations

import anyio
import httpx
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runicornfs.api import problems
from runicornfs.api.requests import answer, body_of, read_body, read_parameters
from runicornfs.errors import RunicornFSError


class Listed(BaseModel):
    limit: int = 7


class Wanted(BaseModel):
    artifact: str = "nothing"
    force: bool = False


async def echo(request: Request) -> Response:
    wanted = read_body(await body_of(request), Wanted)
    return answer({"limit": read_parameters(request, Listed).limit, "wanted": wanted})


APP = Starlette(
    routes=[Route("/", echo, methods=["POST"])], exception_handlers={RunicornFSError: problems.on_own_error}
)


def post(path: str = "/", content: bytes = b"", kind: str = "application/json") -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, content=content, headers={"Content-Type": kind})

    return anyio.run(send)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_is_json_whatever_its_content_type_says(kind: str) -> None:
    """`curl -d` sends a form's."""
    sent = post(content=b'{"artifact": "net:v1", "force": true}', kind=kind)
    assert sent.json()["wanted"] == {"artifact": "net:v1", "force": True}


def test_no_body_asks_for_nothing_special() -> None:
    assert post().json() == {"limit": 7, "wanted": {"artifact": "nothing", "force": False}}


@pytest.mark.parametrize(
    ("sent", "named"),
    [(b'{"force": "perhaps"}', "force"), (b"no json", "body"), (b"[1]", "body"), (b'{"artifact": 3}', "artifact")],
)
def test_what_is_wrong_in_a_body_is_named(sent: bytes, named: str) -> None:
    refused = post(content=sent)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    assert named in refused.json()["detail"]


def test_a_number_that_is_none_is_named() -> None:
    assert post("/?limit=3").json()["limit"] == 3
    refused = post("/?limit=many")
    assert (refused.status_code, "limit" in refused.json()["detail"]) == (422, True)

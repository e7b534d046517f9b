"""The table of calls is made of these: each says once what it takes, what it answers, and how it may refuse.

The models that a call names are those that read its request, and its function's types are checked against them, so the
description at `/openapi.json` and what is done cannot come apart.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anyio import to_thread
from pydantic import BaseModel
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runicornfs.api.requests import answer, body_of, read_body, read_parameters, workspace_of
from runicornfs.errors import Interrupted, OutcomeUnknown
from runicornfs.workspace.workspace import Workspace

JSON = "application/json"

# Statuses with which calls refuse beside those that all have: see `problems.MEANINGS`.
NAMED = (404, 409)  # an artifact, which may be unknown or stand under several types
RECORD = (502,)  # a document of the store, which may be malformed
CONTENTS = (503, 504)  # the cache, which another process may keep
SERVER = (502, 503, 504)  # the server itself

# Calls that may wait for a server at once; others queue. The thread pool has forty threads for all calls together.
WAITING = 16

Parameters = TypeVar("Parameters", bound=BaseModel | None)
Body = TypeVar("Body", bound=BaseModel | None)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Asked(Generic[Parameters, Body]):
    """A request that is in order. `parameters` are those of path and query; None where a call has none."""

    workspace: Workspace
    parameters: Parameters
    body: Body


@dataclass(frozen=True)
class Call:
    """One call. `path` is Starlette's, `answer` is what pydantic's TypeAdapter takes; the endpoint's docstring is the
    summary and the description."""

    method: str
    path: str
    endpoint: Callable[[Request], Any]
    answer: Any
    parameters: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    refusals: tuple[int, ...] = ()
    media_type: str = JSON

    def route(self) -> Route:
        return Route(self.path, self.endpoint, methods=[self.method])


@dataclass(frozen=True, kw_only=True)
class Done:
    """`message` is a sentence for a person that says what was done."""

    ok: bool = True
    message: str


class Digits(StringConvertor):
    """A version's number in a path: however long it is, the model refuses it, and Python need not read it."""

    regex = "[0-9]+"


def know_digits() -> None:
    """Before routes are made of paths with `{version:digits}`."""
    register_url_convertor("digits", Digits())


def call(
    method: str,
    path: str,
    function: Callable[[Asked[Parameters, Body]], Answer],
    *,
    answers: type[Answer],
    parameters: type[Parameters] | None = None,
    body: type[Body] | None = None,
    refusals: tuple[int, ...] = (),
    waits: bool = False,
) -> Call:
    """A call with a JSON answer. Its function runs in the thread pool, so it may block without holding up others; one
    that `waits` for a server has threads apart, which it cannot take from those that never wait."""
    taken: type[Any] | None = parameters  # Any: where there is no model, the function's type says None
    sent: type[Any] | None = body

    def answered(request: Request, text: bytes) -> Response:
        asked: Asked[Any, Any] = Asked(
            workspace_of(request),
            read_parameters(request, taken) if taken else None,
            read_body(text, sent) if sent else None,
        )
        return answer(function(asked))

    @functools.wraps(function)
    async def endpoint(request: Request) -> Response:
        text = await body_of(request) if sent else b""
        threads = request.app.state.waiting if waits else None
        try:
            return await to_thread.run_sync(answered, request, text, limiter=threads)
        except asyncio.CancelledError:  # the daemon ends, and has waited for it for a while
            if method == "GET":
                raise Interrupted("runicornfs is ending") from None
            raise OutcomeUnknown("runicornfs is ending: whether this was done is not known") from None

    return Call(method, path, endpoint, answers, taken, sent, refusals)

"""Talks to a running daemon through its control API.

Anything may listen at the address that was named: an answer counts when it is JSON of the shape that the call has.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from runicornfs.cli.answers import Problem
from runicornfs.cli.parameters import DEFAULT_API_HOST, DEFAULT_API_PORT
from runicornfs.errors import AmbiguousName, InvalidInput, NotFound, Refused, RunicornFSError, Unreachable
from runicornfs.store.paths import shown
from runicornfs.workspace.running import running_daemons

# The daemon answers from its catalog, on this machine; longer than this means that it hangs.
TIMEOUT_S = 30.0
# Bytes of an answer. The files of the largest manifest there may be take less; what does not end is not from us.
ANSWER_LIMIT = 1024**3
ANSWER_S = (
    300.0  # seconds that the whole of it may take: longer than any line needs for it, from this machine or another
)
WHERE_IT_IS = "it was printed when it was made, and is kept in ~/.config/runicornfs/token of its account"
ERRORS: dict[int, type[RunicornFSError]] = {404: NotFound, 422: InvalidInput}

Answer = TypeVar("Answer")


class ApiClient:
    """One daemon's API. Raises what the API says, as one of our errors. The shapes are those of `answers`: what a call
    answers is what came, with all that a shape does not name."""

    def __init__(self, url: str | None) -> None:
        known = url or find_api()
        self._url = _with_scheme(known or f"{DEFAULT_API_HOST}:{DEFAULT_API_PORT}")
        # At an address that nobody has told us any account may listen: it gets no token, and ours needs none there.
        self._token = os.environ.get("RUNICORNFS_TOKEN", "").strip() if known else ""
        headers = {b"Authorization": b"Bearer " + os.fsencode(self._token)} if self._token else {}
        try:
            self._http = httpx.Client(base_url=self._url, timeout=TIMEOUT_S, trust_env=False, headers=headers)
        except httpx.InvalidURL as error:
            raise InvalidInput(f"{shown(self._url)} is no address of a runicornfs: {error}") from None

    def get(self, path: str, shape: type[Answer], **parameters: str | None) -> Answer:
        return self._call("GET", path, shape, parameters)

    def post(
        self, path: str, shape: type[Answer], body: dict[str, object] | None = None, /, **parameters: str | None
    ) -> Answer:
        return self._call("POST", path, shape, parameters, body)

    def delete(self, path: str, shape: type[Answer], **parameters: str | None) -> Answer:
        return self._call("DELETE", path, shape, parameters)

    def _call(
        self,
        method: str,
        path: str,
        shape: type[Answer],
        parameters: dict[str, str | None],
        sent: dict[str, object] | None = None,
    ) -> Answer:
        given = {name: value for name, value in parameters.items() if value is not None}
        try:
            status, text = self._exchange(method, path, given, sent)
            body = json.loads(text)
        except httpx.TransportError:
            raise Unreachable(
                f"no runicornfs answers at {self._url}: start one with `runicornfs mount`, or say where with --api"
            ) from None
        except (httpx.DecodingError, ValueError, RecursionError):
            raise self._stranger() from None
        if not httpx.codes.is_success(status):
            raise self._error(status, self._checked(body, Problem))
        return self._checked(body, shape)

    def _checked(self, body: Any, shape: type[Answer]) -> Answer:
        try:
            TypeAdapter(shape).validate_python(body)
        except ValidationError:
            raise self._stranger() from None
        answer: Answer = body
        return answer

    def _exchange(
        self, method: str, path: str, given: dict[str, str], sent: dict[str, object] | None
    ) -> tuple[int, bytes]:
        try:
            request = self._http.build_request(method, path, params=given, json=sent)
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise InvalidInput("what was named is too long, or no text, and so cannot be asked for") from None
        with contextlib.closing(self._http.send(request, stream=True)) as response:
            text = bytearray()
            deadline = time.monotonic() + ANSWER_S
            for piece in response.iter_bytes():
                text += piece
                if len(text) > ANSWER_LIMIT or time.monotonic() > deadline:
                    raise self._stranger()
            return response.status_code, bytes(text)

    def _stranger(self) -> RunicornFSError:
        return RunicornFSError(f"what answers at {self._url} is not runicornfs")

    def _error(self, status: int, problem: Problem) -> RunicornFSError:
        detail = problem["detail"]
        if status in (401, 403):
            return Refused(self._what_to_do(problem))
        if status == 409 and "types" in problem:
            return AmbiguousName(detail, problem["types"])
        return ERRORS.get(status, RunicornFSError)(detail)

    def _what_to_do(self, problem: Problem) -> str:
        """About a refusal because of who we are."""
        if not self._token:
            token = f"Set RUNICORNFS_TOKEN to the token of the runicornfs at {self._url}: {WHERE_IT_IS}"
            return f"{problem['detail']}. {token}"
        if problem["code"] == "unauthorized":
            return f"RUNICORNFS_TOKEN is not the token of the runicornfs at {self._url}: {WHERE_IT_IS}"
        return problem["detail"]


def find_api() -> str | None:
    """`RUNICORNFS_API`, else what the running daemon wrote down. Raises InvalidInput where there are several to choose
    from."""
    named = os.environ.get("RUNICORNFS_API")
    if named:
        return named
    running = [daemon for daemon in running_daemons() if daemon.api is not None]
    if len(running) > 1:
        choices = ", ".join(f"{daemon.api} ({' and '.join([daemon.source, *daemon.mounts])})" for daemon in running)
        raise InvalidInput(f"several runicornfs run; say which one with --api: {choices}")
    if running:
        return str(running[0].api)
    return None


def _with_scheme(url: str) -> str:
    """`HOST:PORT` is what `mount` takes and prints, so it will do here, too."""
    return url if "://" in url else f"http://{url}"

"""What a client of the control API sees of our errors: the one table from exception to HTTP status."""

from __future__ import annotations

import logging

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from runicornfs import errors
from runicornfs.api.headers import HEADERS
from runicornfs.api.requests import Absent

log = logging.getLogger("runicornfs.api")

STATUSES: dict[type[errors.RunicornFSError], int] = {
    errors.RunicornFSError: 500,
    errors.InvalidInput: 422,
    errors.NotFound: 404,
    errors.AmbiguousName: 409,
    errors.Conflict: 409,
    errors.MalformedRecord: 502,
    errors.UnsafePath: 502,
    errors.Refused: 400,
    errors.MountUnavailable: 400,
    errors.NoSpace: 507,
    errors.Interrupted: 503,
    errors.ServerError: 502,
    errors.Unreachable: 503,
    errors.ConnectionLost: 503,
    errors.OwnerGone: 503,
    errors.TimedOut: 504,
    errors.OutcomeUnknown: 504,
    errors.AuthenticationFailed: 502,
    errors.HostKeyUnknown: 409,
    errors.HostKeyChanged: 409,
    errors.AccessDenied: 502,
    errors.MissingOnServer: 502,
    errors.StaleFile: 502,
    errors.ContentMismatch: 502,
    errors.ProtocolError: 502,
    errors.StoreUnusable: 502,
}
# What each status says, for the description of the calls.
MEANINGS = {
    400: "This is not possible in the present state: not connected, nothing to switch to, …",
    401: "The token is missing or wrong.",
    403: "Who asks may not: another account, another site's page, an unknown name of this machine.",
    404: "There is no such thing.",
    408: "The body of the request did not come in time.",
    409: "This does not go together with what is there: an ambiguous name, a host key to confirm, a task that runs.",
    413: "The request is too large.",
    422: "The request is malformed; the answer names the field.",
    502: "The server answered wrongly, or what it keeps is damaged.",
    503: "The server, or the process that keeps the cache, cannot be reached.",
    504: "The server did not answer in time; with `outcome_unknown` it may have made the change all the same.",
    507: "There is no space left.",
}
# What Starlette itself refuses.
WORDS = {
    404: ("there is no such call: /openapi.json describes all there are", "not_found"),
    408: ("the body of the request did not come in time", "request_timeout"),
    405: ("this call takes another method: /openapi.json describes which", "method_not_allowed"),
}


class HostKey(BaseModel):
    type: str
    fingerprint: str


class Problem(BaseModel):
    """Every refusal: a clear sentence for a person, and a stable word for a program. With `ambiguous_type` come the
    types to choose from, with `host_key_unknown` and `host_key_changed` the key that the server shows."""

    detail: str
    code: str
    types: list[str] | Absent = None
    host_key: HostKey | Absent = None


def problem(status: int, detail: str, code: str, **more: object) -> JSONResponse:
    """The one shape of every error answer."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"detail": detail, "code": code, **more}, status_code=status, headers=headers)


async def on_own_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.RunicornFSError)
    more: dict[str, object] = {}
    if isinstance(error, errors.AmbiguousName):
        more["types"] = error.types
    if isinstance(error, errors.HostKeyUnknown):
        more["host_key"] = {"type": error.key_type, "fingerprint": error.fingerprint}
    return problem(STATUSES[type(error)], str(error), error.code, **more)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail, code = WORDS.get(error.status_code, (error.detail, "http_error"))
    refusal = problem(error.status_code, detail, code)
    refusal.headers.update(error.headers or {})  # such as Allow
    return refusal


async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Starlette logs the traceback by raising it again behind this answer, which no middleware of ours sees."""
    refusal = problem(500, "something unexpected went wrong: the log of runicornfs says what", "internal_error")
    refusal.headers.update(HEADERS)
    return refusal

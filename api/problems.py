"""What a client of the control API sees of our errors: the one table from exception to HTTP status."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from runicornfs import errors

log = logging.getLogger("runicornfs.api")

STATUSES: dict[type[errors.RunicornFSError], int] = {
    errors.RunicornFSError: 500,
    errors.InvalidInput: 422,
    errors.NotFound: 404,
    errors.AmbiguousName: 409,
    errors.MalformedRecord: 502,
    errors.UnsafePath: 502,
    errors.Refused: 400,
    errors.MountUnavailable: 400,
    errors.NoSpace: 507,
    errors.Interrupted: 503,
    errors.ServerError: 502,
    errors.Unreachable: 503,
    errors.ConnectionLost: 503,
    errors.TimedOut: 504,
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
# The stable words for what Starlette itself refuses.
WORDS = {404: "not_found", 405: "method_not_allowed", 403: "forbidden"}


def problem(status: int, detail: str, code: str, **more: object) -> JSONResponse:
    """The one shape of every error answer."""
    return JSONResponse({"detail": detail, "code": code, **more}, status_code=status)


async def on_own_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.RunicornFSError)
    more: dict[str, object] = {}
    if isinstance(error, errors.AmbiguousName):
        more["types"] = error.types
    return problem(STATUSES[type(error)], str(error), error.code, **more)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, WORDS.get(error.status_code, "http_error"))


async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Starlette logs the traceback by raising it again behind this answer."""
    return problem(500, "something unexpected went wrong: the log of runicornfs says what", "internal_error")

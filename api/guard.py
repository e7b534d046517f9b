"""Who may call: pages of other sites may not, whatever name they make a browser resolve to this machine.

A request whose Host is not one of ours comes from a page that rebound a name (DNS rebinding); one that changes
something and carries a foreign Origin comes from a page of another site.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runicornfs.api.problems import problem

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """ASGI middleware. Holds nothing but the application behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = refusal_of(scope["method"], Headers(scope=scope))
            if refusal is not None:
                await problem(403, refusal, "forbidden")(scope, receive, send)
                return
        await self._app(scope, receive, send)


def refusal_of(method: str, headers: Headers) -> str | None:
    """Why a request is not answered, None where it is."""
    host = headers.get("host", "")
    if _name(f"//{host}") not in LOOPBACK_NAMES:
        return "this address is not served under the name that the request names as Host"
    origin = headers.get("origin")
    if method not in SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
        return "a page of another site may not change anything here"
    return None


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None

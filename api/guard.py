"""Who may call: pages of other sites may not, whatever name they make a browser resolve to this machine.

A request whose Host is not one of ours comes from a page that rebound a name (DNS rebinding); one that changes
something and carries a foreign Origin comes from a page of another site.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runicornfs.api.problems import problem

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """ASGI middleware. `names` are those under which we are served; without any, every name that is an address, which
    no page can rebind, and those of this machine."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = refusal_of(scope["method"], Headers(scope=scope), self._names)
            if refusal is not None:
                await problem(403, refusal, "forbidden")(scope, receive, send)
                return
        await self._app(scope, receive, send)


def refusal_of(method: str, headers: Headers, names: frozenset[str] = LOOPBACK_NAMES) -> str | None:
    """Why a request is not answered, None where it is."""
    host = headers.get("host", "")
    if not _is_ours(_name(f"//{host}"), names):
        return "this address is not served under the name that the request names as Host"
    origin = headers.get("origin")
    if method not in SAFE_METHODS and origin is not None and _netloc(origin) != host:
        return "a page of another site may not change anything here"
    return None


def _is_ours(name: str | None, names: frozenset[str]) -> bool:
    if not name:
        return False
    if names:
        return name in names
    return name in {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()} or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None

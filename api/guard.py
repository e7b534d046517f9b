"""Who may call: pages of other sites may not, whatever name they make a browser resolve to this machine.

A request whose Host is not one of ours comes from a page that rebound a name (DNS rebinding); one with a foreign
Origin, or of which the browser says so (Sec-Fetch-Site), from a page of another site. Such a page could read no answer
anyway, but make us do what is asked, and hold streams open. A link from elsewhere to a page of ours may be followed.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runicornfs.api.problems import problem

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITE = frozenset({"same-origin", "none"})  # none: a person typed the address


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
    if origin is not None and origin.partition("://")[2] != host:
        return "a page of another site may not ask anything here"
    site = headers.get("sec-fetch-site")
    if site is not None and site not in OWN_SITE and not _is_navigation(method, headers):
        return "a page of another site may not ask anything here"
    return None


def _is_navigation(method: str, headers: Headers) -> bool:
    """Whether a browser shows the answer as a page of its own, in no frame."""
    return method in SAFE_METHODS and headers.get("sec-fetch-dest") == "document"


def _is_ours(name: str | None, names: frozenset[str]) -> bool:
    if not name:
        return False
    if names:
        return name in names
    return _is_address(name) or name in _names_here()


@functools.cache
def _names_here() -> frozenset[str]:
    """Asked once: the full name comes from the DNS, which may keep all requests waiting."""
    return frozenset({"localhost", socket.gethostname().lower(), socket.getfqdn().lower()})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None

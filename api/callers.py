"""Which accounts may call: the one that runs this process, and whoever has the token.

On loopback every account of the machine could connect, so the owner of the other end of the connection is looked up in
the kernel's table of sockets. Where the API is bound to any other address a token is asked of everybody.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from runicornfs.api.problems import problem

Address = tuple[str, int]

# Under this name the state of a request has a function that says whether its connection is still up.
STILL_OPEN = "connection_is_open"
# Lines of proc_pid_net(5): number, local address, remote address, state, queues, timer, retransmissions, uid, time-out,
# inode, …
LOCAL, REMOTE, STATE, UID, INODE = 1, 2, 3, 7, 9
# A socket that wants to connect: its port may have been somebody else's, whose request we have.
SYN_SENT = "02"
# A socket that its program has closed already; the kernel says of it that it is root's.
ORPHAN = "0"


class Callers:
    """ASGI middleware. `token` is None where nobody has one; `everybody` must bring it if `always`."""

    def __init__(self, app: ASGIApp, token: str | None, always: bool) -> None:
        self._app = app
        self._token = token
        self._always = always

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = await self._refusal(scope)
            if refusal is not None:
                status, detail, code = refusal
                await problem(status, detail, code)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        brought = Headers(scope=scope).get("authorization")
        if brought is not None:
            if self._token is not None and _is_token(brought, self._token):
                return None
            return 401, "the token is not the one of this runicornfs", "unauthorized"
        if self._always:
            return 401, "this address needs a token: send it as Authorization: Bearer", "unauthorized"
        if await _caller(scope) != os.getuid():
            return 403, "without a token only the account that runs this runicornfs may use it", "forbidden"
        return None


async def _caller(scope: Scope) -> int | None:
    """The account that sent a request; None if that is not known."""
    peer, still_open = scope["client"], scope.get("state", {}).get(STILL_OPEN)
    if peer is None or still_open is None:
        return None
    account = await run_in_threadpool(account_of, tuple(peer), tuple(scope["server"]))
    # As long as the connection stands nobody else can have had its address. Asked afterwards, therefore.
    return account if still_open() else None


def account_of(peer: Address, here: Address) -> int | None:
    """The uid of the account that has the other end of a TCP connection of this machine; None if that is not known, as
    when it is closed already."""
    wanted = (_as_kernel(peer), _as_kernel(here))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if (_mapped(fields[LOCAL]), _mapped(fields[REMOTE])) == wanted:
                return None if fields[INODE] == ORPHAN or fields[STATE] == SYN_SENT else int(fields[UID])
    return None


def _is_token(header: str, token: str) -> bool:
    kind, _, value = header.partition(" ")
    expected = token.encode(errors="surrogateescape")  # the environment's bytes, whatever they are
    return kind.lower() == "bearer" and hmac.compare_digest(value.strip().encode("latin-1"), expected)


def _as_kernel(address: Address) -> str:
    """As the tables write it: 32-bit words in the machine's byte order, in hexadecimal. IPv4 as IPv6 has it inside."""
    host, port = address[:2]
    ip = ipaddress.ip_address(host.partition("%")[0])
    packed = ip.packed if ip.version == 6 else socket.inet_pton(socket.AF_INET6, f"::ffff:{ip}")
    words = memoryview(packed).cast("I")
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _mapped(text: str) -> str:
    host, _, port = text.partition(":")
    if len(host) == 8:
        host = f"{0:08X}{0:08X}{socket.htonl(0xFFFF):08X}{host}"
    return f"{host}:{port}"

"""The line to a host before SSH is spoken on it: a TCP connection, or what a proxy's program makes of one.

A line is a real socket either way: its waits are bounded, and `shutdown` wakes whoever waits on it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from runicornfs.errors import TimedOut, Unreachable
from runicornfs.remote.proxy import Proxy, ProxyProcess
from runicornfs.remote.sshconfig import HostSettings

Started = Callable[[socket.socket], None]


class Wire(socket.socket):
    """A socket to the host. Its `send` gives up after a time without progress, where paramiko would try for ever.

    It notes what comes, for whoever judges by that whether to wait any longer; times are monotonic seconds.
    """

    proxy: ProxyProcess | None = None  # the program behind it; it ends with `end`

    patience = 0.0  # seconds
    heard = 0  # bytes so far
    heard_at = 0.0  # when the last of them came
    trickled_at = 0.0  # when a packet's first bytes came without the last ones: more is on its way
    _blocked_since: float | None = None

    def recv(self, bufsize: int, flags: int = 0) -> bytes:  # paramiko asks for what its packet lacks
        data = super().recv(bufsize, flags)
        self.heard += len(data)
        self.heard_at = time.monotonic()
        if len(data) < bufsize:
            self.trickled_at = self.heard_at
        return data

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        try:
            sent = super().send(data, flags)
        except TimeoutError:
            now = time.monotonic()
            if self._blocked_since is None:
                self._blocked_since = now
            elif now - self._blocked_since > self.patience:
                raise ConnectionAbortedError("the line took no more data") from None
            raise
        self._blocked_since = None
        return sent

    def end(self) -> None:
        """Close it, and end the proxy's program."""
        self.close()
        if self.proxy is not None:
            self.proxy.close()


def reach(settings: HostSettings, connect_s: float, progress_s: float, started: Started) -> Wire:
    """A line to the host. `connect_s` bounds connecting, `progress_s` every wait for room to send.

    `started` gets the socket first: shutting it down ends the attempt. Raises Unreachable, TimedOut.
    """
    if settings.proxy is not None:
        wire = _through(settings.proxy, started)
    else:
        wire = _directly(settings, connect_s, progress_s, started)
    wire.patience = progress_s
    return wire


def _through(proxy: Proxy, started: Started) -> Wire:
    process = ProxyProcess(proxy)
    wire = Wire(fileno=process.line.detach())
    wire.proxy = process
    try:
        started(wire)
    except BaseException:
        wire.end()
        raise
    return wire


def _directly(settings: HostSettings, connect_s: float, progress_s: float, started: Started) -> Wire:
    """A TCP connection to the first of the host's addresses that answers."""
    where = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
    try:
        addresses = socket.getaddrinfo(
            settings.hostname, settings.port, family=settings.address_family, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise Unreachable(
            f"the host {settings.hostname} cannot be found: check its name, ~/.ssh/config and the network"
        ) from error
    failure: Exception = OSError("no address")
    deadline = time.monotonic() + connect_s
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        line = Wire(family, kind, protocol)
        try:
            line.settimeout(max(deadline - time.monotonic(), 0.001) / (len(addresses) - tried))
            started(line)
            if settings.bind_address is not None:
                line.bind((settings.bind_address, 0))
            line.connect(address)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: ends an idle line that does not acknowledge keep-alives
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * progress_s))
        except (OSError, UnicodeError) as error:  # the second: of a BindAddress that is no name
            line.close()
            failure = error
            continue
        except BaseException:
            line.close()
            raise
        return line
    if isinstance(failure, ConnectionRefusedError):
        raise Unreachable(f"{where} refuses connections: is sshd running there, and is this its port?") from failure
    if isinstance(failure, TimeoutError):
        raise TimedOut(f"{where} did not answer within {connect_s:g} s") from failure
    raise Unreachable(f"{where} cannot be reached: {getattr(failure, 'strerror', None) or failure}") from failure

"""One authenticated SSH connection: opened, watched, closed. paramiko does SSH; it gets its settings and bounds here.

Guarantees: the host key has been checked before anything is sent that could log in; every wait has an end; what fails
is one sentence; after `close` no thread of the connection is left.

Locks: none of our own. A Connection may be used by several threads; `close` may be called at any time, also twice.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from runicornfs.errors import (
    AccessDenied,
    ConnectionLost,
    ProtocolError,
    ServerError,
    TimedOut,
    Unreachable,
)
from runicornfs.remote.channels import BROKEN, ChunkPipe, Mouth, close_channel
from runicornfs.remote.hostkeys import HostKeyPolicy
from runicornfs.remote.identities import Credentials
from runicornfs.remote.login import Login, RememberingTransport
from runicornfs.remote.packetizer import LARGEST_DATA, BoundedPacketizer
from runicornfs.remote.reach import Started, Wire, reach
from runicornfs.remote.sshconfig import HostSettings
from runicornfs.remote.sshprocess import Entrance
from runicornfs.remote.timeouts import Timeouts

log = logging.getLogger("runicornfs.remote.connection")

_WINDOW = 64 << 20  # bytes a channel may send ahead: at 50 ms 2 MiB (paramiko's default) would be 40 MB/s at most
_KEEP_ALIVE = 15  # seconds without traffic after which we say something, so that NATs and firewalls keep the line
_CLOSE_TIME = 5.0  # seconds that paramiko's thread may take to see that its socket is gone; it looks every 0.1 s
_LAST_WORDS_TIME = 0.2  # seconds in which a line that breaks has ended: paramiko ends the channels before it says so
# AES-GCM needs no separate MAC: 512 MiB over loopback took 0.50 s of processor time, with AES-CTR and HMAC 1.04 s.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
# paramiko would also take 3DES, CBC, SHA-1 and MD5 from a server that offers nothing else.
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")
_PARAMIKO_LOG = "runicornfs.remote.paramiko"


class Connection:
    """An open connection. `last_heard` is for whoever judges whether a silent line is dead: see `note_progress`."""

    def __init__(
        self,
        client: paramiko.SSHClient,
        transport: paramiko.Transport,
        wire: Wire,
        timeouts: Timeouts,
        entrance: Entrance | None,
    ) -> None:
        self.entrance = entrance  # how an ssh process gets in, if it can
        self._client = client
        self._transport = transport
        self._wire = wire
        self._timeouts = timeouts

    @property
    def last_heard(self) -> float:
        """When something came last, over the line or beside it; monotonic seconds."""
        return self._wire.heard_at

    @property
    def is_alive(self) -> bool:
        """Whether the line has not been seen to break."""
        return self._transport.is_active()

    def has_ended(self) -> bool:
        """Whether the line is broken, asked by somebody whose channel has just ended: then it may show in a moment."""
        self._transport.join(_LAST_WORDS_TIME)
        return not self.is_alive

    def note_progress(self) -> None:
        """Something arrived just now from the same server beside this line: over a process."""
        self._wire.heard_at = time.monotonic()

    def open_sftp(self) -> paramiko.Channel:
        """A channel to the server's SFTP subsystem. Raises Unreachable, TimedOut, AccessDenied."""
        return self._open("SFTP", lambda channel: channel.invoke_subsystem("sftp"))

    def open_exec(self, command: str) -> paramiko.Channel:
        """A channel to `command`, run by the account's shell. Raises Unreachable, TimedOut, AccessDenied."""
        return self._open("running a command", lambda channel: channel.exec_command(command))

    def wait_closed(self) -> None:
        """Return when the connection has ended, whoever ended it."""
        self._transport.join()

    def close(self) -> None:
        """End the connection and its threads. Waits in its channels end with ConnectionLost."""
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)  # wakes paramiko's thread at once; closing alone would not
        self._client.close()
        if threading.current_thread() is not self._transport:
            self._transport.join(_CLOSE_TIME)
        self._wire.end()

    def _open(self, what: str, ask: Callable[[paramiko.Channel], None]) -> paramiko.Channel:
        limit = self._timeouts.read
        began = time.monotonic()
        channel: paramiko.Channel | None = None
        try:
            channel = self._transport.open_session(timeout=limit)
            channel.settimeout(limit)
            channel.in_buffer = ChunkPipe(self._wire)  # before anything can arrive: nothing has been asked for
            Mouth(self._transport).give_to(channel)
            # paramiko waits for the answer to a request without any bound; closing the channel wakes it.
            watch = threading.Timer(limit, close_channel, (channel,))
            watch.daemon = True
            watch.start()
            try:
                ask(channel)
            finally:
                watch.cancel()
        except paramiko.ChannelException as error:
            raise AccessDenied(f"the server refuses another channel for {what}: {error.text}") from error
        except BROKEN as error:
            if channel is not None:
                close_channel(channel)
            self._transport.join(_LAST_WORDS_TIME)
            if not self.is_alive:
                raise ConnectionLost(f"the connection broke while {what} was asked for") from error
            if time.monotonic() - began >= limit:
                raise TimedOut(f"the server did not answer the request for {what} within {limit:g} s") from error
            raise AccessDenied(f"the server refuses {what} to this account") from error
        return channel


def connect(
    settings: HostSettings,
    credentials: Credentials,
    policy: HostKeyPolicy,
    timeouts: Timeouts,
    started: Started = lambda line: None,
) -> Connection:
    """Connect, check the host key, log in. `started` gets the socket first: shutting it down ends the attempt.

    Raises Unreachable, TimedOut, HostKeyUnknown, HostKeyChanged, AuthenticationFailed, InvalidInput, ProtocolError.
    """
    where = f"{settings.host}:{settings.port}"
    limit = settings.connect_timeout or timeouts.connect
    if settings.proxy is not None:
        limit *= 2  # it connects there, and then we do
    timeouts = replace(timeouts, connect=limit)
    wire = reach(settings, timeouts.connect, timeouts.read, started)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(policy)
    client.set_log_channel(_PARAMIKO_LOG)
    transport = _transport(wire, policy, timeouts)
    login = Login(settings, credentials)
    began = time.monotonic()
    try:
        client.connect(
            settings.hostname,
            port=settings.port,
            username=settings.user,
            sock=wire,
            timeout=timeouts.connect,
            banner_timeout=timeouts.connect,
            auth_timeout=max(timeouts.connect, timeouts.read),
            channel_timeout=timeouts.read,
            transport_factory=lambda sock, **options: transport,
            auth_strategy=login,
        )
        transport.set_keepalive(_KEEP_ALIVE)
    except BaseException as error:
        explained = error
        if isinstance(error, BROKEN):
            if time.monotonic() - began < timeouts.connect:  # no time-out, then: it breaks, and may show in a moment
                transport.join(_LAST_WORDS_TIME)
            explained = _explained(where, error, transport, wire, timeouts)
        client.close()
        wire.close()
        transport.join(_CLOSE_TIME)
        wire.end()
        transport.packetizer.complete_handshake()  # ends paramiko's timer thread, which would last for its whole time
        if explained is error:
            raise
        raise explained from error
    log.info("connected to %s as %s (%s)", where, settings.user, transport.remote_version)
    return Connection(client, transport, wire, timeouts, login.entrance(transport.get_remote_server_key()))


def _explained(
    where: str, error: Exception, transport: paramiko.Transport, wire: Wire, timeouts: Timeouts
) -> ServerError:
    """The sentence for what went wrong between the TCP connection and the login."""
    if isinstance(error, IncompatiblePeer):
        return ProtocolError(f"{where} has no way to encrypt in common with us: {error}")
    if transport.is_active() or isinstance(error.__context__, TimeoutError):  # paramiko has not seen it break: it waits
        return TimedOut(f"{where} took the connection but did not speak SSH within {timeouts.connect:g} s")
    if any(
        words in str(error) for words in ("Indecipherable protocol version", "Invalid SSH banner", "Invalid packet")
    ):
        return ProtocolError(f"{where} answers, but is no SSH server")
    if wire.proxy is not None and (said := wire.proxy.failure(where)) is not None:
        return said
    if not transport.remote_version:
        return Unreachable(f"{where} closed the connection without speaking SSH: is sshd running there?")
    return ConnectionLost(f"the connection to {where} broke while it was being set up")


def _transport(wire: Wire, policy: HostKeyPolicy, timeouts: Timeouts) -> RememberingTransport:
    transport = RememberingTransport(
        wire,
        default_window_size=_WINDOW,
        default_max_packet_size=LARGEST_DATA,
        packetizer_class=BoundedPacketizer,
    )
    transport.set_log_channel(_PARAMIKO_LOG)
    _quieten(logging.getLogger(_PARAMIKO_LOG))
    transport.handshake_timeout = 2 * timeouts.connect  # later than the client's own, which knows what it waited for
    transport.clear_to_send_timeout = timeouts.read
    options = transport.get_security_options()
    available = options.ciphers
    options.ciphers = tuple(cipher for cipher in _CIPHERS if cipher in available)
    options.digests = _MACS
    known = list(_signatures(policy.key_types()))
    offered = options.key_types
    options.key_types = tuple([name for name in known if name in offered] + [n for n in offered if n not in known])
    return transport


def _signatures(key_types: list[str]) -> Iterator[str]:
    """The names under which keys of these types are negotiated: RSA keys sign with SHA-2 by other names."""
    for name in key_types:
        yield from ("rsa-sha2-512", "rsa-sha2-256") if name == "ssh-rsa" else (name,)


def _only_debug(record: logging.LogRecord) -> bool:
    """paramiko logs a lost line as an error with a traceback; it is ours to say, so its words are for debugging."""
    if record.levelno > logging.DEBUG:
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger(_PARAMIKO_LOG).isEnabledFor(logging.DEBUG)


def _quieten(logger: logging.Logger) -> None:
    logger.addFilter(_only_debug)  # adding the same filter again does nothing

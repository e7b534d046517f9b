"""SFTP carried by an `ssh` process: OpenSSH decrypts, on a core of its own and without Python's lock.

It logs in to a server on which a connection of ours has logged in already, and brings nothing new: it takes exactly
the host key that was checked then and exactly the key that let us in then, reads no configuration (what that says is in
`HostSettings`), and asks nobody anything (BatchMode). Whoever logged in with a password, a key that was pasted or one
under a passphrase has no such process: none of these may ever reach a command line or a file.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from runicornfs.remote.program import Program
from runicornfs.remote.sshconfig import HostSettings
from runicornfs.remote.timeouts import Timeouts

_ALIAS = "runicornfs"  # the name under which the known_hosts file made for the process has the host
_BUFFER = 1 << 20  # bytes that the socket between us and the process may hold; the system may allow fewer
_AES_GCM = "aes128-gcm@openssh.com,aes256-gcm@openssh.com"  # put in front of OpenSSH's own list
_KEEP_ALIVE = 15  # seconds of silence after which it asks whether the server is there, as our own connection does
_FAMILIES = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}


@dataclass(frozen=True)
class Entrance:
    """How a process gets in where a connection of ours did: with a key file that has no passphrase, or with one of the
    agent's keys, of which `public_key` is the line of a .pub file."""

    host_key: paramiko.PKey
    key_file: Path | None = None
    agent_socket: str | None = None
    public_key: str | None = None


class SshProcess:
    """The channel of one SFTP session (see `sftp.ByteChannel`). `patience_s` bounds every wait for progress.

    `interrupt` may be called by anybody, the rest by the session that owns it.
    """

    def __init__(self, command: list[str], patience_s: float) -> None:
        self.closed = False
        self._program = Program("ssh", command)
        self._line = self._program.line
        self._line.settimeout(patience_s)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._line.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self._closing = threading.Lock()  # so that nobody shuts down a descriptor that has become somebody else's

    def set_patience(self, seconds: float) -> None:
        """From now on this bounds every wait for progress."""
        with self._closing:
            if not self.closed:
                self._line.settimeout(seconds)

    def send(self, s: bytes) -> int:
        return self._line.send(s)

    def recv(self, nbytes: int) -> bytes:
        return self._line.recv(nbytes)

    def last_words(self) -> str | None:
        """What it says of its end; None while it runs."""
        return self._program.last_words()

    def interrupt(self) -> None:
        """Whoever waits in `send` or `recv` gets the end of the line."""
        with self._closing, contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the process, and wait until it has ended."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
            self._line.close()
        self._program.close()


@contextlib.contextmanager
def started(settings: HostSettings, entrance: Entrance, timeouts: Timeouts) -> Iterator[SshProcess]:
    """A process on its way to the server. The context has to last until a session over it has begun.

    Raises Unreachable where there is no ssh, OSError where the temporary folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="runicornfs-") as folder:
        process = SshProcess(_command(settings, entrance, timeouts.connect, Path(folder)), timeouts.connect)
        yield process
        process.set_patience(timeouts.read)


def _command(settings: HostSettings, entrance: Entrance, connect_s: float, folder: Path) -> list[str]:
    """The command line. What it names lies in `folder`, by links: ssh_config(5) reads names of files in a way of its
    own, with quotes, tokens and variables."""
    key_type = entrance.host_key.get_name()
    (folder / "known_hosts").write_text(f"{_ALIAS} {key_type} {entrance.host_key.get_base64()}\n")
    if entrance.key_file is not None:
        (folder / "identity").symlink_to(entrance.key_file)
    if entrance.public_key is not None:
        (folder / "identity").write_text(entrance.public_key + "\n")
    if entrance.agent_socket is not None:
        (folder / "agent").symlink_to(entrance.agent_socket)
    place = str(folder).replace("%", "%%")
    options = {
        "BatchMode": "yes",
        "HostKeyAlias": _ALIAS,
        "HostKeyAlgorithms": "rsa-sha2-512,rsa-sha2-256" if key_type == "ssh-rsa" else key_type,
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{place}/known_hosts"',
        "GlobalKnownHostsFile": "none",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(max(1, round(connect_s))),
        "ServerAliveInterval": str(_KEEP_ALIVE),
        "Ciphers": f"^{_AES_GCM}",
        "PreferredAuthentications": "publickey",
        "IdentitiesOnly": "yes",
        "IdentityFile": f'"{place}/identity"',
        "IdentityAgent": "none" if entrance.agent_socket is None else f'"{place}/agent"',
        "AddressFamily": _FAMILIES.get(settings.address_family, "any"),
    }
    if settings.bind_address is not None:
        options["BindAddress"] = settings.bind_address
    if settings.proxy is not None:
        options["ProxyCommand"] = shlex.join(settings.proxy.command).replace("%", "%%")
    words = [shutil.which("ssh") or "ssh", "-F", "none", "-a", "-x", "-T"]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return [*words, "-p", str(settings.port), "-l", settings.user, "-s", "--", settings.hostname, "sftp"]

"""The way to a host through other machines: ProxyJump and ProxyCommand of ssh_config(5).

Both are a program whose standard input and output are the line to the host. For ProxyJump it is `ssh -W`, as ssh(1)
itself does it: so the jump's host key and login are OpenSSH's business, and no secret of ours gets there. It never
asks anything (BatchMode): it has no terminal, and a reconnection in the background has nobody to ask.

The program gets one end of a socket pair, we have the other: a real socket, with time-outs and `shutdown`. It has a
session of its own, so that Ctrl-C reaches us alone and its whole group can be ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runicornfs.errors import AuthenticationFailed, InvalidInput, ServerError, Unreachable
from runicornfs.remote.address import check_host, check_port, check_user

log = logging.getLogger("runicornfs.remote.proxy")

_LAST_WORDS_TIME = 1.0  # seconds that a program whose line has ended may take to say why
_FAREWELL_TIME = 2.0  # seconds that a program may take to end before it is killed
_LAST_WORDS = 2048  # bytes of its standard error that are kept
_LAST_LINES = 3  # of it that are shown: ssh(1) says first what went wrong and then what it gives up
_SHELL = "/bin/sh"
_MEANS_MORE = re.compile(r"[\s'\"`$;&|<>(){}\[\]*?!#~\\]")  # what a shell reads as more than a part of a word
_JUMP = re.compile(r"(?:(?P<user>[^@]+)@)?(?:\[(?P<address>[^\]]+)\]|(?P<host>[^:@\[\]]+))(?::(?P<port>\d+))?")
_POINTLESS = ("Permission denied", "Host key verification failed", "Too many authentication failures")


@dataclass(frozen=True)
class Proxy:
    """The program to run, and what people call it."""

    name: str  # "ProxyJump bastion", for messages
    command: tuple[str, ...]


def by_command(command: str, tokens: Mapping[str, str]) -> Proxy:
    """ProxyCommand: a line for the shell, with the tokens of ssh_config(5) replaced.

    Raises InvalidInput for a user name that would mean something to the shell; hosts never do (`check_host`).
    """
    if "%r" in command and _MEANS_MORE.search(tokens["r"]):
        raise InvalidInput(f"the user {tokens['r']!r} has characters that are not safe in a ProxyCommand")
    return Proxy("ProxyCommand", (_SHELL, "-c", f"exec {_expanded(command, tokens)}"))


def by_jump(jumps: str, tokens: Mapping[str, str], config_file: Path | None) -> Proxy:
    """ProxyJump: `[user@]host[:port]` of each machine on the way, with commas, the nearest to us first.

    Raises InvalidInput where one is malformed or there is no `ssh` to go through it.
    """
    ssh = shutil.which("ssh")
    if ssh is None:
        raise InvalidInput(f"{tokens['n']} is reached through ProxyJump, which needs ssh: install OpenSSH's client")
    *before, last = (jump.strip().removeprefix("ssh://") for jump in _expanded(jumps, tokens).split(","))
    command = [ssh, "-o", "BatchMode=yes"]
    if config_file is not None:
        command += ["-F", str(config_file)]
    host, options = _parse(last)
    command += options
    for jump in before:
        _parse(jump)
    if before:
        command += ["-J", ",".join(before)]
    return Proxy(f"ProxyJump {jumps}", (*command, "-W", f"[{tokens['h']}]:{tokens['p']}", "--", host))


def _expanded(text: str, tokens: Mapping[str, str]) -> str:
    known = {**tokens, "%": "%"}
    return re.sub(r"%(.)", lambda match: known.get(match[1], match[0]), text)


def _parse(jump: str) -> tuple[str, list[str]]:
    parts = _JUMP.fullmatch(jump)
    if parts is None:
        raise InvalidInput(
            f"the SSH configuration has a ProxyJump {jump!r}, which is not of the form [user@]host[:port]"
        )
    options = []
    if parts["user"] is not None:
        options += ["-l", check_user(parts["user"])]
    if parts["port"] is not None:
        options += ["-p", str(check_port(int(parts["port"])))]
    return check_host(parts["address"] or parts["host"]), options


class ProxyProcess:
    """A proxy's program while it runs. `line` is our end of the connection; whoever takes it closes it.

    `close` may be called at any time, from any thread, and more than once. Raises Unreachable if it cannot be started.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._said = b""
        self.line, theirs = socket.socketpair()
        self._errors, errors = socket.socketpair()
        with theirs, errors:
            try:
                self._process = subprocess.Popen(
                    proxy.command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=errors.fileno(),
                    start_new_session=True,
                )
            except OSError as error:
                self.line.close()
                self._errors.close()
                raise Unreachable(f"{proxy.command[0]} of {proxy.name} cannot be started: {error.strerror}") from error
        self._listener = threading.Thread(target=self._listen, name="runicornfs-proxy", daemon=True)
        self._listener.start()

    def failure(self, where: str) -> ServerError | None:
        """The sentence for a line that has ended: what the program says. None if it goes on or has nothing to say."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS_TIME)
        if self._process.poll() is None:
            return None
        self._listener.join(_LAST_WORDS_TIME)
        lines = ("".join(filter(str.isprintable, line)) for line in self._said.decode(errors="replace").splitlines())
        words = "; ".join([line.strip(" .") for line in lines if line.strip()][-_LAST_LINES:])
        said = words or f"it ended with status {self._process.returncode} and said nothing"
        kind = AuthenticationFailed if any(hint in words for hint in _POINTLESS) else Unreachable
        return kind(f"{where} cannot be reached through {self._proxy.name}: {said}")

    def close(self) -> None:
        """End the program with everything that it has started, and wait until it has ended."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_FAREWELL_TIME)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        with contextlib.suppress(OSError):
            self._errors.shutdown(socket.SHUT_RDWR)  # something that outlives it may have the other end still
        self._listener.join()
        self._errors.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while heard := self._errors.recv(_LAST_WORDS):
                self._said = (self._said + heard)[-_LAST_WORDS:]
                log.debug("%s: %s", self._proxy.name, heard.decode(errors="replace").strip())

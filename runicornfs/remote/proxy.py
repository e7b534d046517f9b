"""The way to a host through other machines: ProxyJump and ProxyCommand of ssh_config(5).

Both are a program whose standard input and output are the line to the host. For ProxyJump it is `ssh -W`, as ssh(1)
itself does it: so the jump's host key and login are OpenSSH's business, and no secret of ours gets there. It never
asks anything (BatchMode): it has no terminal, and a reconnection in the background has nobody to ask.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runicornfs.errors import AuthenticationFailed, InvalidInput, ServerError, Unreachable
from runicornfs.remote.address import check_host, check_port, check_user
from runicornfs.remote.program import Program

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


class ProxyProcess(Program):
    """A proxy's program while it runs. Raises Unreachable if it cannot be started."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy.name, proxy.command)

    def failure(self, where: str) -> ServerError | None:
        """The sentence for a line that has ended: what the program says. None if it goes on."""
        words = self.last_words()
        if words is None:
            return None
        kind = AuthenticationFailed if any(hint in words for hint in _POINTLESS) else Unreachable
        return kind(f"{where} cannot be reached through {self.name}: {words}")

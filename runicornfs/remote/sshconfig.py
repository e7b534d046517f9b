"""What ~/.ssh/config says about a host: asked of `ssh -G` itself, which knows Include, Match and all defaults.

Where there is no `ssh`, paramiko reads the file. No name reaches a shell, and a host that could be an option is
refused.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from runicornfs.errors import InvalidInput
from runicornfs.remote.address import SSH_PORT, RemoteSource, ServerAddress, check_host, check_port, check_user

_SSH_ANSWER_TIME = 10.0  # seconds for `ssh -G`: it reads files only, but `Match exec` may run a command of the user's
_DEFAULT_IDENTITIES = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")  # what `ssh` tries where nothing is set
_DEFAULT_USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"  # of ssh_config(5)
_DEFAULT_GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"  # of ssh_config(5)


@dataclass(frozen=True)
class HostSettings:
    """How to reach and to recognise one host, everything resolved. Holds no secrets."""

    host: str  # as the person wrote it: an alias or a name
    hostname: str  # where to connect to
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()  # tried where they are there
    identities_only: bool = False  # of the agent's keys only those that stand in identity_files
    agent_socket: str | None = None  # None: no agent
    user_known_hosts: tuple[Path, ...] = ()  # a newly accepted key is written to the first
    global_known_hosts: tuple[Path, ...] = ()
    host_key_alias: str | None = None  # the name under which known_hosts has the host, where it is not its own

    def address(self, root: str) -> ServerAddress:
        """The address of the store at `root` there."""
        return ServerAddress(self.host, self.port, self.user, root)


def resolve_host(
    source: RemoteSource, *, config_file: Path | None = None, known_hosts: Path | None = None
) -> HostSettings:
    """Look up the host of `source`; what the source itself says goes before the configuration.

    `config_file` is read instead of the user's and the system's, `known_hosts` stands for all known_hosts files. Raises
    InvalidInput where the configuration cannot be read or asks for what is not supported (ProxyJump, ProxyCommand).
    """
    check_host(source.host)
    if config_file is not None and not config_file.is_file():
        raise InvalidInput(f"There is no SSH configuration file {config_file}.")
    ssh = shutil.which("ssh")
    options = _ask_ssh(ssh, source, config_file) if ssh else _ask_paramiko(source, config_file)
    settings = _settings(source, options)
    if known_hosts is not None:
        return replace(settings, user_known_hosts=(known_hosts,), global_known_hosts=())
    return settings


def _ask_ssh(ssh: str, source: RemoteSource, config_file: Path | None) -> dict[str, list[str]]:
    command = [ssh, "-G"]
    if config_file is not None:
        command += ["-F", str(config_file)]
    if source.port is not None:
        command += ["-p", str(source.port)]
    if source.user is not None:
        command += ["-l", source.user]
    try:
        answer = subprocess.run(
            [*command, "--", source.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SSH_ANSWER_TIME,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(
            f"`ssh -G {source.host}` did not end within {_SSH_ANSWER_TIME:.0f} s: is there a `Match exec` that hangs?"
        ) from error
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InvalidInput(f"ssh refuses the configuration for {source.host}: {reason}.")
    return _collect(line.partition(" ")[::2] for line in answer.stdout.splitlines())


def _ask_paramiko(source: RemoteSource, config_file: Path | None) -> dict[str, list[str]]:
    path = config_file or Path("~/.ssh/config").expanduser()
    config = paramiko.SSHConfig()
    if path.is_file():
        try:
            config = paramiko.SSHConfig.from_path(str(path))
        except (OSError, paramiko.SSHException) as error:
            raise InvalidInput(f"The SSH configuration file {path} cannot be read: {error}.") from error
    found = config.lookup(source.host)
    options = _collect(
        (key, value or "none")  # a proxy command of `none` is None
        for key, values in found.items()
        for value in (values if isinstance(values, list) else [values])
    )
    options.setdefault("identityfile", list(_DEFAULT_IDENTITIES))
    options.setdefault("userknownhostsfile", [_DEFAULT_USER_KNOWN_HOSTS])
    options.setdefault("globalknownhostsfile", [_DEFAULT_GLOBAL_KNOWN_HOSTS])
    return options


def _collect(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for key, value in pairs:
        options.setdefault(key.lower(), []).append(value.strip())
    return options


def _settings(source: RemoteSource, options: dict[str, list[str]]) -> HostSettings:
    def first(key: str) -> str | None:
        value = options.get(key, [""])[0]
        return value if value and value.lower() != "none" else None

    for key, name in (("proxyjump", "ProxyJump"), ("proxycommand", "ProxyCommand")):
        if first(key) is not None:
            raise InvalidInput(
                f"The SSH configuration reaches {source.host} through {name}, which is not supported yet:"
                " name a host that can be reached directly."
            )
    hostname = check_host(first("hostname") or source.host)
    user = check_user(source.user or first("user") or getpass.getuser())
    port_text = first("port") or str(SSH_PORT)
    if not port_text.isdigit():
        raise InvalidInput(f"The SSH configuration names the port {port_text!r} for {source.host}, which is none.")
    port = check_port(source.port if source.port is not None else int(port_text))
    tokens = {"h": hostname, "n": source.host, "p": str(port), "r": user}
    return HostSettings(
        host=source.host,
        hostname=hostname,
        port=port,
        user=user,
        identity_files=tuple(
            _path(value.strip('"'), tokens) for value in options.get("identityfile", ()) if value.lower() != "none"
        ),
        identities_only=first("identitiesonly") == "yes",
        agent_socket=_agent_socket(options.get("identityagent", [""])[0], tokens),
        user_known_hosts=_paths(options.get("userknownhostsfile", ()), tokens),
        global_known_hosts=_paths(options.get("globalknownhostsfile", ()), tokens),
        host_key_alias=first("hostkeyalias"),
    )


def _path(value: str, tokens: dict[str, str]) -> Path:
    """`value` with the tokens of ssh_config(5) that concern files, and `~`, replaced."""
    home = str(Path.home())
    known = {**tokens, "d": home, "u": getpass.getuser(), "%": "%"}
    return Path(re.sub(r"%(.)", lambda match: known.get(match[1], match[0]), value)).expanduser()


def _paths(values: Iterable[str], tokens: dict[str, str]) -> tuple[Path, ...]:
    return tuple(
        _path(word, tokens) for value in values for word in shlex.split(value) if word.lower() not in ("none", "")
    )


def _agent_socket(value: str, tokens: dict[str, str]) -> str | None:
    value = value.strip('"')
    if value.lower() == "none":
        return None
    if value in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK") or None
    if value.startswith("$"):
        return os.environ.get(value[1:].strip("{}")) or None
    return str(_path(value, tokens))

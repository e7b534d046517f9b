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
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import paramiko

from runicornfs.errors import InvalidInput
from runicornfs.remote.address import SSH_PORT, RemoteSource, ServerAddress, check_host, check_port, check_user
from runicornfs.remote.proxy import Proxy, by_command, by_jump

HostKeyChecking = Literal["yes", "ask", "accept-new"]

_LONGEST_PORT = 5  # digits
_SSH_ANSWER_TIME = 10.0  # seconds for `ssh -G`: it reads files only, but `Match exec` may run a command of the user's
_DEFAULT_IDENTITIES = ("~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519")  # what `ssh` tries where nothing is set
_DEFAULT_USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"  # of ssh_config(5)
_DEFAULT_GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"  # of ssh_config(5)
_METHODS = {  # the ways to log in that we have, and the option that switches each off
    "publickey": "pubkeyauthentication",
    "password": "passwordauthentication",
    "keyboard-interactive": "kbdinteractiveauthentication",
}
_NEEDS_SSH = re.compile(r"^\s*(include\b|match\b.*\bexec\b)", re.I | re.M)  # passed over or run badly by paramiko
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


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
    revoked_host_keys: Path | None = None  # a file with keys that are refused wherever they are shown
    host_key_alias: str | None = None  # the name under which known_hosts has the host, where it is not its own
    host_key_checking: HostKeyChecking = "ask"  # what happens to a key that is not known
    hash_known_hosts: bool = False  # whether a newly accepted key is written under a hashed name
    certificate_files: tuple[Path, ...] = ()  # besides those that lie beside the keys
    methods: tuple[str, ...] = tuple(_METHODS)  # the ways to log in that the configuration allows
    proxy: Proxy | None = None  # the way there, where it is not a direct one
    address_family: socket.AddressFamily = socket.AF_UNSPEC
    bind_address: str | None = None  # of this machine, to connect from
    connect_timeout: float | None = None  # seconds

    def address(self, root: str) -> ServerAddress:
        """The address of the store at `root` there."""
        return ServerAddress(self.host, self.port, self.user, root)


def resolve_host(
    source: RemoteSource, *, config_file: Path | None = None, known_hosts: Path | None = None
) -> HostSettings:
    """Look up the host of `source`; what the source itself says goes before the configuration.

    `config_file` is read instead of the user's and the system's, `known_hosts` stands for all known_hosts files. Raises
    InvalidInput where the configuration cannot be read or names what cannot be a host, a user or a port.
    """
    check_host(source.host)
    if source.user is not None:
        check_user(source.user)
    if config_file is not None and not config_file.is_file():
        raise InvalidInput(f"there is no SSH configuration file {config_file}")
    ssh = shutil.which("ssh")
    options = _ask_ssh(ssh, source, config_file) if ssh else _ask_paramiko(source, config_file)
    settings = _settings(source, options, config_file)
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
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1].strip(" .")
        raise InvalidInput(f"ssh refuses the configuration for {source.host}: {reason}")
    return _collect(line.partition(" ")[::2] for line in answer.stdout.splitlines())


class _Config(paramiko.SSHConfig):
    """paramiko's reading, with the tokens of ProxyCommand left for us: it does not know what the source says."""

    TOKENS_BY_CONFIG_KEY = {**paramiko.SSHConfig.TOKENS_BY_CONFIG_KEY, "proxycommand": []}


def _ask_paramiko(source: RemoteSource, config_file: Path | None) -> dict[str, list[str]]:
    path = config_file or Path("~/.ssh/config").expanduser()
    config = _Config()
    if path.is_file():
        try:
            text = path.read_text(errors="surrogateescape")
            config = _Config.from_text(text)
        except (OSError, paramiko.SSHException) as error:
            raise InvalidInput(f"the SSH configuration file {path} cannot be read: {error}") from error
        if _NEEDS_SSH.search(text):
            raise InvalidInput(f"{path} uses Include or Match exec, which needs ssh: install OpenSSH's client")
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


def _settings(source: RemoteSource, options: dict[str, list[str]], config_file: Path | None) -> HostSettings:
    def first(key: str) -> str | None:
        value = options.get(key, [""])[0]
        return value if value and value.lower() != "none" else None

    hostname = check_host(first("hostname") or source.host)
    user = check_user(source.user or first("user") or getpass.getuser())
    port_text = first("port") or str(SSH_PORT)
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= _LONGEST_PORT):
        raise InvalidInput(f"the SSH configuration names the port {port_text!r} for {source.host}, which is none")
    port = check_port(source.port if source.port is not None else int(port_text))
    tokens = {"h": hostname, "n": source.host, "p": str(port), "r": user}
    jumps, command = first("proxyjump"), first("proxycommand")
    proxy = None
    if jumps is not None:
        proxy = by_jump(jumps, tokens, config_file)
    elif command is not None:
        proxy = by_command(command, tokens)
    host_key_alias = first("hostkeyalias")
    here = socket.gethostname()
    tokens |= {"k": host_key_alias or source.host, "j": jumps or "", "l": here, "L": here.partition(".")[0]}
    tokens |= {"i": str(os.getuid()), "u": getpass.getuser(), "d": str(Path.home()), "%": "%"}
    timeout = first("connecttimeout") or ""
    return HostSettings(
        host=source.host,
        hostname=hostname,
        port=port,
        user=user,
        identity_files=_files(options.get("identityfile", ()), tokens),
        identities_only=_is_yes(first("identitiesonly")),
        agent_socket=_agent_socket(options.get("identityagent", [""])[0], tokens),
        user_known_hosts=_files(_words(options.get("userknownhostsfile", ())), tokens),
        global_known_hosts=_files(_words(options.get("globalknownhostsfile", ())), tokens),
        revoked_host_keys=next(iter(_files(options.get("revokedhostkeys", ()), tokens)), None),
        host_key_alias=host_key_alias,
        host_key_checking=_checking(first("stricthostkeychecking")),
        hash_known_hosts=_is_yes(first("hashknownhosts")),
        certificate_files=_files(options.get("certificatefile", ()), tokens),
        methods=_methods(options, first("preferredauthentications")),
        proxy=proxy,
        address_family=_FAMILIES.get(first("addressfamily") or "any", socket.AF_UNSPEC),
        bind_address=first("bindaddress"),
        connect_timeout=float(timeout) if timeout.isdecimal() and int(timeout) else None,
    )


def _is_yes(value: str | None) -> bool:
    return value in ("yes", "true")


def _checking(value: str | None) -> HostKeyChecking:
    """`no`, which takes changed keys as well, is `accept-new` to us."""
    if _is_yes(value):
        return "yes"
    return "accept-new" if value in ("accept-new", "no", "false", "off") else "ask"


def _methods(options: dict[str, list[str]], preferred: str | None) -> tuple[str, ...]:
    switched_off = {method for method, option in _METHODS.items() if options.get(option) in (["no"], ["false"])}
    listed = list(_METHODS) if preferred is None else preferred.split(",")
    return tuple(method for method in _METHODS if method in listed and method not in switched_off)


def _words(values: Iterable[str]) -> Iterable[str]:
    """Words with their quotes, which `ssh -G` does not repeat: there a single one belongs to a name."""
    for value in values:
        try:
            yield from shlex.split(value)
        except ValueError:
            yield from value.split()


def _files(values: Iterable[str], tokens: dict[str, str]) -> tuple[Path, ...]:
    """The files that are named; one whose name has a variable that is not set is left out, as ssh(1) does."""
    named = (value.strip('"') for value in values)
    paths = (_path(value, tokens) for value in named if value.lower() not in ("", "none"))
    return tuple(path for path in paths if path is not None)


def _path(value: str, tokens: dict[str, str]) -> Path | None:
    """`value` with `${VARIABLE}`, the tokens of ssh_config(5) that concern files, and `~` replaced."""
    variables = re.findall(r"\$\{(\w+)\}", value)
    if any(name not in os.environ for name in variables):
        return None
    expanded = re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), value)
    path = Path(re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], expanded))
    try:
        return path.expanduser()
    except RuntimeError:
        raise InvalidInput(f"the SSH configuration names {path}, in the home of a user that there is not") from None


def _agent_socket(value: str, tokens: dict[str, str]) -> str | None:
    value = value.strip('"')
    if value.lower() == "none":
        return None
    if value in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK") or None
    if re.fullmatch(r"\$\{?\w+\}?", value):
        return os.environ.get(value[1:].strip("{}")) or None
    path = _path(value, tokens)
    return None if path is None else str(path)

"""Which store a person means: the notations of SOURCE, taken apart without asking any other machine.

Guarantees that no host or user that is handed on could be mistaken for an option of `ssh` or carries control
characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from runicornfs.errors import InvalidInput
from runicornfs.store.paths import PATH_LIMIT, shown

SSH_PORT = 22  # the port of SSH where neither the source nor ~/.ssh/config names one (RFC 4253)
_HIGHEST_PORT = 65535  # ports are 16 bits
_LONGEST_NAME = 255  # characters of a host or an account: DNS takes 253, Linux 32
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_A_HOST = re.compile(r"[\s/\\@,\"'`$;|&<>(){}*?!#\[\]]")  # what a shell or known_hosts reads as more than a name

_SCP_LIKE = re.compile(
    r"(?:(?P<user>[^:/\[\]]*)@)?(?:\[(?P<address>[^/\]]*)\]|(?P<host>[^:/@\[\]]*)):(?P<root>.*)", re.S
)
_NOT_IN_A_USER = re.compile(r"[\s/:\[\]]")  # what would end the user's part of a source


@dataclass(frozen=True)
class ServerAddress:
    """One store on one server, as it is known to people: the host as they wrote it, and the account and port in use."""

    host: str
    port: int
    user: str
    root: str

    def __str__(self) -> str:
        return str(RemoteSource(self.host, self.root, self.user, None if self.port == SSH_PORT else self.port))


@dataclass(frozen=True)
class RemoteSource:
    """A store behind SSH as it was written. `user` and `port` are None where ~/.ssh/config decides."""

    host: str
    root: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        """The source in a notation that `parse_source` reads back to the same value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port is None:
            return f"{self.user}@{host}:{self.root}" if self.user is not None else f"{host}:{self.root}"
        user = f"{quote(self.user, safe='')}@" if self.user is not None else ""
        return f"sftp://{user}{host}:{self.port}{quote(self.root, errors='surrogateescape')}"


@dataclass(frozen=True)
class LocalSource:
    """A store in a folder of this machine; `root` is absolute."""

    root: Path


def parse_source(text: str) -> RemoteSource | LocalSource:
    """Read `[user@]host:/absolute/root`, `sftp://[user@]host[:port]/root` or the path of a local folder.

    Raises InvalidInput with one sentence that says what is wrong with it.
    """
    if not text:
        raise InvalidInput("the source is empty: name a store as [user@]host:/absolute/root or as a local folder")
    if _CONTROL.search(text):
        raise InvalidInput(f"the source {text!r} contains control characters")
    if text.startswith("sftp://"):
        return _parse_url(text)
    if _SCHEME.match(text):
        raise InvalidInput(f"the source {text!r} is no address of a store: only sftp:// addresses are understood")
    if text.startswith(("/", "./", "../", "~")) or ":" not in text.partition("/")[0]:
        try:
            return LocalSource(Path(text).expanduser().absolute())
        except RuntimeError:
            raise InvalidInput(f"the source {text!r} begins with the home of a user that there is not") from None
    return _parse_scp_like(text)


def check_host(host: str) -> str:
    """`host` itself if it can be the name or address of a machine, else InvalidInput."""
    if not host:
        raise InvalidInput("the host is empty")
    if len(host) > _LONGEST_NAME:
        raise InvalidInput(f"the host {shown(host)} is longer than any host's name")
    if host.startswith("-"):
        raise InvalidInput(f"the host {host!r} begins with a dash")
    if _CONTROL.search(host) or _NOT_IN_A_HOST.search(host):
        raise InvalidInput(f"the host {host!r} contains characters that no host name has")
    return host


def check_user(user: str) -> str:
    """`user` itself if it can be the name of an account, else InvalidInput."""
    if not user:
        raise InvalidInput("the user is empty")
    if len(user) > _LONGEST_NAME:
        raise InvalidInput(f"the user {shown(user)} is longer than any account's name")
    if user.startswith("-"):
        raise InvalidInput(f"the user {user!r} begins with a dash")
    if _CONTROL.search(user) or _NOT_IN_A_USER.search(user):
        raise InvalidInput(f"the user {user!r} contains characters that no account's name has")
    return user


def check_port(port: int) -> int:
    """`port` itself if it is one (1 to 65535), else InvalidInput."""
    if not 1 <= port <= _HIGHEST_PORT:
        raise InvalidInput(f"the port {port} is not between 1 and {_HIGHEST_PORT}")
    return port


def check_root(root: str) -> str:
    """The store's root without superfluous slashes; InvalidInput unless it is absolute and says exactly one place."""
    if not root.startswith("/"):
        raise InvalidInput(f"the root {root!r} is not absolute: it must begin with a slash")
    if _CONTROL.search(root):
        raise InvalidInput(f"the root {root!r} contains control characters")
    if len(root) > PATH_LIMIT:
        raise InvalidInput(f"the root {shown(root)} is longer than {PATH_LIMIT} characters")
    components = [component for component in root.split("/") if component]
    if "." in components or ".." in components:
        raise InvalidInput(f"the root {root!r} contains '.' or '..'")
    return "/" + "/".join(components)


def _parse_scp_like(text: str) -> RemoteSource:
    parts = _SCP_LIKE.fullmatch(text)
    if parts is None:
        raise InvalidInput(
            f"the source {text!r} is not of the form [user@]host:/absolute/root, with an IPv6 address in brackets"
        )
    user = parts["user"]
    host = parts["host"] if parts["address"] is None else parts["address"]
    return RemoteSource(check_host(host), check_root(parts["root"]), user if user is None else check_user(user))


def _parse_url(text: str) -> RemoteSource:
    authority, slash, path = text.removeprefix("sftp://").partition("/")
    if not slash:
        raise InvalidInput(f"the source {text!r} names no root: write sftp://host/absolute/root")
    user_part, at, host_part = authority.rpartition("@")
    if ":" in user_part:
        raise InvalidInput("a password does not belong into the source: use a key, the agent or --password-stdin")
    user = check_user(unquote(user_part)) if at else None
    port: int | None = None
    if host_part.startswith("["):
        host, bracket, port_part = host_part[1:].partition("]")
        if not bracket or (port_part and not port_part.startswith(":")):
            raise InvalidInput(f"the source {text!r} has an address in brackets that does not end properly")
        port_text = port_part[1:]
    else:
        host, _, port_text = host_part.partition(":")
    if port_text:
        if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= len(str(_HIGHEST_PORT))):
            raise InvalidInput(f"the port {port_text!r} is not a number between 1 and {_HIGHEST_PORT}")
        port = check_port(int(port_text))
    return RemoteSource(
        check_host(unquote(host)), check_root("/" + unquote(path, errors="surrogateescape")), user, port
    )

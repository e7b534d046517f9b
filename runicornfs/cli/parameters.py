"""What may stand behind an option, turned into typed values; a mistake ends with one sentence and status 2."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

from runicornfs.cli.display import one_line
from runicornfs.errors import InvalidInput
from runicornfs.mount.options import MountOptions
from runicornfs.remote.address import LocalSource, RemoteSource, check_host, parse_source
from runicornfs.remote.bulk import Transport
from runicornfs.store.fields import NUMBER_LIMIT
from runicornfs.store.paths import shown

DEFAULT_API_HOST = "127.0.0.1"
DEFAULT_API_PORT = 23300
LEAST_CACHE_SIZE = 1024 * 1024  # bytes: some blocks of 128 KiB for each of a few readers
LONGEST_INTERVAL_S = 366 * 24 * 3600.0  # threads cannot wait for ever longer
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

Value = TypeVar("Value")


@dataclass(frozen=True)
class ApiAddress:
    """Where the control API listens. One that was not named may move to a free port."""

    host: str = DEFAULT_API_HOST
    port: int = DEFAULT_API_PORT
    named: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether it can be reached from this machine alone."""
        return self.host in LOOPBACK_HOSTS

    @property
    def is_unspecified(self) -> bool:
        """Whether it stands for every address of this machine."""
        return self.host in (str(IPv4Address(0)), str(IPv6Address(0)), "")


@dataclass(frozen=True)
class Source:
    """A store as it was typed, which is how a person and a script recognise it, and what that means."""

    text: str
    store: RemoteSource | LocalSource

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises InvalidInput."""
        return cls(text, parse_source(text))


@dataclass(frozen=True)
class LaunchOptions:
    """Everything `mount` or `serve` was told; only `serve` has no source. Sizes in bytes, the interval in seconds (0:
    never)."""

    source: Source | None
    mountpoint: Path | None
    port: int | None
    identities: tuple[Path, ...]
    ssh_config: Path | None
    known_hosts: Path | None
    accept_host_key: str | None
    cache_dir: Path
    cache_size: int
    min_free: int | None
    sync_interval: float
    api: ApiAddress | None
    mount_options: MountOptions
    transport: Transport = "auto"
    store: Path | None = None
    offline: bool = False
    daemon: bool = False
    password_stdin: bool = False
    passphrase_stdin: bool = False


class Parsed(click.ParamType[Value], Generic[Value]):
    """A parameter that one of our own functions reads."""

    def __init__(self, name: str, parse: Callable[[str], Value]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Value:
        if not isinstance(value, str):
            parsed: Value = value
            return parsed
        try:
            return self._parse(value)
        except InvalidInput as error:
            self.fail(one_line(str(error)), param, ctx)


def parse_size(text: str) -> int:
    """`10GiB`, `500 MB`, `1048576`. Raises InvalidInput."""
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except (ValidationError, OverflowError):
        raise InvalidInput(f"{shown(text)} is no size: write for example 500MB or 10GiB") from None
    if size > NUMBER_LIMIT:
        raise InvalidInput(f"{shown(text)} is more than any disk has")
    return size


def parse_cache_size(text: str) -> int:
    """A size with which a cache can work. Raises InvalidInput."""
    size = parse_size(text)
    if size < LEAST_CACHE_SIZE:
        raise InvalidInput("a cache needs at least 1MiB")
    return size


def parse_api(text: str) -> ApiAddress:
    """`HOST:PORT`; port 0 takes a free one. Raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not (port.isascii() and port.isdecimal() and len(port) <= 5) or int(port) > 65535:
        raise InvalidInput(f"{shown(text)} is no HOST:PORT")
    return ApiAddress(host and check_host(host), int(port), named=True)


def parse_interval(text: str) -> float:
    """Seconds, 0 for never. Raises InvalidInput."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_INTERVAL_S:
        raise InvalidInput(f"{shown(text)} is no time between syncs: write seconds, a year at most, or 0 for never")
    return seconds


def parse_path(text: str) -> Path:
    """A path as a shell would take it, absolute: a daemon leaves the folder in which it was started."""
    return Path(os.path.abspath(os.path.expanduser(text)))


PATH = Parsed("path", parse_path)
# As it was typed. No click.Path, which asks for what stands there: that may be a mount whose daemon does not answer.
MOUNTPOINT = Parsed("path", Path)
SOURCE = Parsed("source", Source.parse)
SIZE = Parsed("size", parse_size)
INTERVAL = Parsed("seconds", parse_interval)
CACHE_SIZE = Parsed("size", parse_cache_size)
API = Parsed("host:port", parse_api)
MOUNT_OPTIONS = Parsed("opt[,opt…]", MountOptions.parse)

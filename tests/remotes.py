"""Servers to test against: `runicornfs.remote` towards a private sshd, with short time-outs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runicornfs.demo.sshd import PrivateSshd
from runicornfs.remote.hostkeys import Confirm
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import RemoteFile, Server
from runicornfs.remote.sshconfig import HostSettings
from runicornfs.remote.timeouts import Timeouts
from runicornfs.store.files import Job

MIB = 1 << 20
QUICK = Timeouts(connect=10.0, read=0.5)  # a stalled line is noticed soon; connecting has time on a busy machine


def settings_of(sshd: PrivateSshd, port: int | None = None, **changes: object) -> HostSettings:
    """How to reach this sshd, or a relay before it; nothing of the machine's own SSH configuration is used."""
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "hostname": "127.0.0.1",
        "port": port or sshd.port,
        "user": sshd.user,
        "user_known_hosts": (sshd.known_hosts,),
    }
    return HostSettings(**{**values, **changes})  # type: ignore[arg-type]


@contextmanager
def server_at(
    sshd: PrivateSshd,
    root: Path,
    *,
    port: int | None = None,
    timeouts: Timeouts | None = None,
    confirm: Confirm | None = None,
    connect: bool = True,
) -> Iterator[Server]:
    """A connected Server; closed at the end."""
    server = Server(
        settings_of(sshd, port), str(root), Credentials((sshd.identity,)), confirm=confirm, timeouts=timeouts
    )
    try:
        if connect:
            server.connect()
        yield server
    finally:
        server.close()


class Target:
    """A file to fill, and which ranges of it have been received."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.received: list[tuple[int, int]] = []

    def close(self) -> None:
        os.close(self.fd)

    def content(self, length: int, offset: int = 0) -> bytes:
        return os.pread(self.fd, length, offset)

    def fill(self, server: Server, file: RemoteFile, wanted: Iterable[tuple[int, int]] | None = None) -> None:
        """Fetch `wanted`, by default all of the file in ranges of 1 MiB."""
        server.fill(file, iter(ranges(file.size) if wanted is None else wanted), self.fd, self._note)

    def _note(self, offset: int, length: int) -> None:
        self.received.append((offset, length))


class Targets:
    """A file in `folder` to fill for each of these small ones, and which of them have been received."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.received: list[str] = []
        self._targets = {name: Target(folder / f"target {number}") for number, name in enumerate(files)}

    def __enter__(self) -> Targets:
        return self

    def __exit__(self, *reason: object) -> None:
        for target in self._targets.values():
            target.close()

    def jobs(self, names: Iterable[str] | None = None) -> list[Job]:
        """For all of them, or for these."""
        return [self._job(name) for name in (self.files if names is None else names)]

    def contents(self) -> dict[str, bytes]:
        """What has come so far."""
        return {name: target.content(MIB) for name, target in self._targets.items()}

    def _job(self, name: str) -> Job:
        size = len(self.files[name])
        return Job(
            RemoteFile(name, size, None),
            [(0, size)],
            self._targets[name].fd,
            lambda offset, length: self.received.append(name),
        )


def ranges(total: int, size: int = MIB) -> list[tuple[int, int]]:
    return [(offset, min(size, total - offset)) for offset in range(0, total, size)]

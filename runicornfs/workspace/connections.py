"""The servers that a person has saved, without anything secret: one file of this user, for all stores and processes.

It is no cache, so it lies where configuration does (`$XDG_CONFIG_HOME`, else `~/.config`), with mode 0600, and is
replaced as a whole. Processes take turns by a lock beside it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from runicornfs.errors import InvalidInput, NotFound, Refused
from runicornfs.remote.address import SSH_PORT, check_host, check_root, check_user
from runicornfs.workspace.folders import private_folder

# Another process holds the lock for as long as it takes to write a small file.
LOCK_TIMEOUT_S = 5.0
LOCK_POLL_S = 0.01
# A person has a handful; a client gone mad must not make a file without end.
CONNECTIONS_LIMIT = 1000
TEXT_LIMIT = 4096


def _checked_root(root: str) -> str:
    """It may be left open."""
    return check_root(root) if root else root


class SavedConnection(BaseModel):
    """How to reach a store. What else a client sends, such as a password, is dropped."""

    host: Annotated[str, Field(max_length=TEXT_LIMIT), AfterValidator(check_host)]
    port: int = Field(default=SSH_PORT, ge=1, le=65535)
    username: Annotated[str, Field(max_length=TEXT_LIMIT), AfterValidator(check_user)]
    remote_root: Annotated[str, Field(max_length=TEXT_LIMIT), AfterValidator(_checked_root)] = ""
    name: Annotated[str, Field(max_length=TEXT_LIMIT)] = ""
    auth: Annotated[str, Field(max_length=64, pattern="^[a-z_]*$")] = "agent"  # password, key, agent
    auto_sync: bool = True
    sync_interval_minutes: int = Field(default=10, ge=1)

    @property
    def key(self) -> str:
        return f"{self.host}:{self.port}@{self.username}"


class _File(BaseModel):
    connections: list[SavedConnection] = []


class SavedConnections:
    """Thread-safe. Every method reads the file anew, and raises Refused where that or writing it fails."""

    def __init__(self, file: Path | None = None) -> None:
        """Touches nothing yet. `file`: None for the user's own."""
        self.file = file or default_file()

    def all(self) -> list[SavedConnection]:
        """In the order in which they were saved first."""
        try:
            text = self.file.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Refused(f"{self.file} cannot be read: {error.strerror}") from None
        try:
            return _File.model_validate_json(text).connections
        except (ValidationError, InvalidInput):
            raise Refused(f"{self.file} is damaged: repair it, or move it away") from None

    def find(self, key: str) -> SavedConnection:
        """Raises NotFound."""
        for connection in self.all():
            if connection.key == key:
                return connection
        raise NotFound(f"no connection {key!r} is saved")

    def save(self, connection: SavedConnection) -> bool:
        """Keeps a connection; one with the same key is replaced, and then this returns True."""
        with self._locked():
            saved = {known.key: known for known in self.all()}
            replaced = connection.key in saved
            if len(saved) >= CONNECTIONS_LIMIT and not replaced:
                raise Refused(f"{CONNECTIONS_LIMIT} connections are saved already: remove one first")
            saved[connection.key] = connection
            self._write(list(saved.values()))
        return replaced

    def remove(self, key: str) -> None:
        """Raises NotFound."""
        with self._locked():
            self.find(key)
            self._write([known for known in self.all() if known.key != key])

    def _write(self, connections: list[SavedConnection]) -> None:
        """Under the lock."""
        part = Path(f"{self.file}.part")
        try:
            part.unlink(missing_ok=True)  # of a process that was killed
            with open(part, "x", opener=_private) as file:
                file.write(_File(connections=connections).model_dump_json(indent=2))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.file)
        except OSError as error:
            raise Refused(f"{self.file} cannot be written: {error.strerror}") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            private_folder(self.file.parent)
            lock = os.open(f"{self.file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Refused(f"{self.file.parent} cannot be used: {error.strerror}") from None
        end = time.monotonic() + LOCK_TIMEOUT_S
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise Refused(f"another process does not let go of {self.file}: try again") from None
                    time.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(lock)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def default_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification says that a relative one is to be ignored.
    folder = Path(base) if base.startswith("/") else Path("~/.config").expanduser()
    return folder / "runicornfs" / "connections.json"

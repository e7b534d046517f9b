"""Which daemons of this user run: each writes down its address, and the client commands find it there.

Each holds a lock on what it has written for as long as it lives: its number may be that of another process since.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from runicornfs.workspace.folders import runtime_folder


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """One daemon. `started_at` in Unix seconds; `api` is None where it serves no control API."""

    pid: int
    api: str | None
    source: str
    mounts: list[str]
    started_at: float


class DaemonRecord:
    """The file in which this process says that it runs; removed by `close`."""

    def __init__(self, api: str | None, source: str, mounts: list[str]) -> None:
        self._file = runtime_folder() / f"{os.getpid()}.json"
        record = RunningDaemon(os.getpid(), api, source, mounts, time.time())
        temporary = self._file.with_suffix(".part")
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._opened = open(os.open(temporary, flags, 0o600), "w", encoding="utf-8")  # noqa: SIM115 -- until `close`
        fcntl.flock(self._opened, fcntl.LOCK_EX)
        self._opened.write(json.dumps(asdict(record)))
        self._opened.flush()
        temporary.replace(self._file)

    def close(self) -> None:
        self._file.unlink(missing_ok=True)
        self._opened.close()


def running_daemons() -> list[RunningDaemon]:
    """The daemons that are alive, oldest first. What a killed one left behind is removed."""
    found = []
    for file in runtime_folder().glob("*.json"):
        record = _read(file)
        if record is not None:
            found.append(record)
        else:
            file.unlink(missing_ok=True)
    return sorted(found, key=lambda record: record.started_at)


def _read(file: Path) -> RunningDaemon | None:
    """None where the daemon is gone, or no daemon wrote this."""
    try:
        with open(file, encoding="utf-8") as opened:
            if not _is_locked(opened):
                return None
            return RunningDaemon(**json.loads(opened.read()))
    except (OSError, ValueError, TypeError):
        return None


def _is_locked(opened: TextIO) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False

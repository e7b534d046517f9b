"""Which daemons of this user run: each writes down its address, and the client commands find it there."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

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
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(asdict(record)))
        temporary.replace(self._file)

    def close(self) -> None:
        self._file.unlink(missing_ok=True)


def running_daemons() -> list[RunningDaemon]:
    """The daemons that are alive, oldest first. What a killed one left behind is removed."""
    found = []
    for file in runtime_folder().glob("*.json"):
        record = _read(file)
        if record is not None and _is_alive(record.pid):
            found.append(record)
        else:
            file.unlink(missing_ok=True)
    return sorted(found, key=lambda record: record.started_at)


def _read(file: Path) -> RunningDaemon | None:
    try:
        return RunningDaemon(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

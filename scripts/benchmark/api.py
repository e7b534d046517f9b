"""What the benchmark asks a running mount: its cache, its counters, its syncs and downloads."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.mounts import Mounted

POLL_S = 0.005  # of what takes some tenths of a second
PATIENCE_S = 900.0  # of what may take minutes


class Api:
    """The control API of one daemon."""

    def __init__(self, running: Mounted) -> None:
        self._http = httpx.Client(base_url=running.api, trust_env=False, timeout=60)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *reason: object) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    def post(self, path: str, **body: object) -> Any:
        return self._http.post(path, json=body).raise_for_status().json()

    def states(self) -> dict[str, str]:
        """Of every cached content, by its sha256: partial, cached or verified."""
        files = self.get("/api/remote/cache/files")["files"]
        return {file["sha256"]: file["state"] for file in files}

    def operations(self) -> dict[str, int]:
        """How often the kernel has called each operation of the mount so far."""
        text = self._http.get("/metrics").raise_for_status().text
        found = re.findall(r'^runicornfs_operations_total\{operation="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return {name: int(float(count)) for name, count in found}

    def sync(self) -> float:
        """The seconds until a sync that starts now has ended well."""
        before = self._completed()
        start = time.perf_counter()
        self._http.post("/api/remote/sync").raise_for_status()
        self._wait(lambda: self._completed() not in (None, before))
        return time.perf_counter() - start

    def download(self, version: str, target: str) -> float:
        """The seconds until a download of `name/v1` into a folder has ended well."""
        start = time.perf_counter()
        task = self.post(f"/api/remote/download/{version}", target_dir=target)["task_id"]
        self._wait(lambda: self._ended(task))
        return time.perf_counter() - start

    def _completed(self) -> float | None:
        progress = self.get("/api/remote/status")["sync_progress"]
        if progress["status"] == "failed":
            raise RuntimeError(f"the sync failed: {progress['errors']}")
        return None if progress["status"] == "running" else progress["completed_at"]

    def _ended(self, task: str) -> bool:
        status = self.get(f"/api/remote/download/{task}/status")
        if status["status"] not in ("queued", "running", "completed"):
            raise RuntimeError(f"the download {status['status']}: {status['error']}")
        return bool(status["status"] == "completed")

    @staticmethod
    def _wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {PATIENCE_S:.0f} s for nothing")
            time.sleep(POLL_S)

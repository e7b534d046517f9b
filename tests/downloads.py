"""The calls of the control API that are about downloads."""

from __future__ import annotations

from typing import Any

import httpx

from tests.mounts import Mounted
from tests.waiting import wait_until


class DownloadApi:
    """Of one daemon. Each call is a connection of its own, so there is nothing to close."""

    def __init__(self, mounted: Mounted) -> None:
        self._url = mounted.api

    def call(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Any call; `how` as httpx takes it."""
        return httpx.request(method, f"{self._url}{path}", trust_env=False, verify=False, timeout=30, **how)

    def get(self, path: str) -> Any:
        return self.call("GET", path).json()

    def start(self, version: str, expect: int = 200, **body: object) -> dict[str, Any]:
        """Asks for `net/v3`; the answer, which must have this status."""
        answer = self.call("POST", f"/api/remote/download/{version}", json=body)
        assert answer.status_code == expect, answer.text
        return dict(answer.json())

    def status(self, task: str) -> dict[str, Any]:
        return dict(self.get(f"/api/remote/download/{task}/status"))

    def ended(self, task: str) -> dict[str, Any]:
        """How a task stands when it has ended."""
        wait_until(lambda: self.status(task)["status"] not in ("queued", "running"), "the download to end")
        return self.status(task)

    def bytes_fetched(self) -> int:
        """What has come from the server since the daemon was started."""
        return int(self.get("/api/remote/cache")["bytes_fetched"])

"""Talks to a running daemon through its control API."""

from __future__ import annotations

import os
from typing import Any

import httpx

from runicornfs.cli.parameters import DEFAULT_API_HOST, DEFAULT_API_PORT
from runicornfs.errors import AmbiguousName, InvalidInput, NotFound, Refused, RunicornFSError, Unreachable
from runicornfs.workspace.running import running_daemons

# The daemon answers from its catalog, on this machine; longer than this means that it hangs.
TIMEOUT_S = 30.0
WHERE_IT_IS = "it was printed when it was made, and is kept in ~/.config/runicornfs/token of its account"
ERRORS = {409: AmbiguousName, 404: NotFound, 422: InvalidInput}


class ApiClient:
    """One daemon's API. Raises what the API says, as one of our errors."""

    def __init__(self, url: str | None) -> None:
        self._url = _with_scheme(url) if url else find_api()
        self._token = os.environ.get("RUNICORNFS_TOKEN", "").strip()
        headers = {b"Authorization": f"Bearer {self._token}".encode()} if self._token else {}
        self._http = httpx.Client(base_url=self._url, timeout=TIMEOUT_S, trust_env=False, headers=headers)

    def get(self, path: str, **parameters: str | None) -> Any:
        return self._call("GET", path, parameters)

    def post(self, path: str, body: dict[str, object] | None = None, /, **parameters: str | None) -> Any:
        return self._call("POST", path, parameters, body)

    def delete(self, path: str, **parameters: str | None) -> Any:
        return self._call("DELETE", path, parameters)

    def _call(
        self, method: str, path: str, parameters: dict[str, str | None], sent: dict[str, object] | None = None
    ) -> Any:
        given = {name: value for name, value in parameters.items() if value is not None}
        try:
            response = self._http.request(method, path, params=given, json=sent)
            body = response.json()
        except httpx.TransportError:
            raise Unreachable(
                f"no runicornfs answers at {self._url}: start one with `runicornfs mount`, or say where with --api"
            ) from None
        except ValueError:
            raise RunicornFSError(f"what answers at {self._url} is not runicornfs") from None
        if response.status_code in (401, 403):
            raise Refused(self._what_to_do(body))
        if response.is_error:
            raise _error(response.status_code, body)
        return body

    def _what_to_do(self, refusal: Any) -> str:
        """A refusal because of who we are."""
        detail = _detail(refusal)
        if not self._token:
            return f"{detail}. Set RUNICORNFS_TOKEN to the token of the runicornfs at {self._url}: {WHERE_IT_IS}"
        if isinstance(refusal, dict) and refusal.get("code") == "unauthorized":
            return f"RUNICORNFS_TOKEN is not the token of the runicornfs at {self._url}: {WHERE_IT_IS}"
        return detail


def find_api() -> str:
    """`RUNICORNFS_API`, else what the running daemon wrote down, else the default. Raises InvalidInput where there are
    several to choose from."""
    named = os.environ.get("RUNICORNFS_API")
    if named:
        return _with_scheme(named)
    running = [daemon for daemon in running_daemons() if daemon.api is not None]
    if len(running) > 1:
        choices = ", ".join(f"{daemon.api} ({' and '.join([daemon.source, *daemon.mounts])})" for daemon in running)
        raise InvalidInput(f"several runicornfs run; say which one with --api: {choices}")
    if running:
        return str(running[0].api)
    return f"http://{DEFAULT_API_HOST}:{DEFAULT_API_PORT}"


def _with_scheme(url: str) -> str:
    """`HOST:PORT` is what `mount` takes and prints, so it will do here, too."""
    return url if "://" in url else f"http://{url}"


def _error(status: int, body: Any) -> RunicornFSError:
    detail = _detail(body)
    if status == 409 and isinstance(body, dict) and "types" in body:
        return AmbiguousName(detail, list(body["types"]))
    kind = ERRORS.get(status, RunicornFSError)
    return RunicornFSError(detail) if kind is AmbiguousName else kind(detail)


def _detail(body: Any) -> str:
    return str(body.get("detail", body)) if isinstance(body, dict) else str(body)

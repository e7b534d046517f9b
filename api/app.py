"""The control API as a Starlette application over one workspace. Nothing happens at import time.

What a call does runs in Starlette's thread pool, where it may block without holding up others; what a client may be
late with, its body, is waited for before.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from runicornfs.api import (
    artifacts,
    cache,
    config,
    connection,
    docs,
    downloads,
    events,
    lineage,
    managing,
    metrics,
    mounts,
    problems,
    remote,
    runs,
)
from runicornfs.api.callers import Callers
from runicornfs.api.calls import WAITING, know_digits
from runicornfs.api.events import EventLog
from runicornfs.api.guard import LOOPBACK_NAMES, Guard
from runicornfs.api.headers import BrowserHeaders
from runicornfs.api.limits import BodyLimit
from runicornfs.api.openapi import description_of
from runicornfs.errors import RunicornFSError
from runicornfs.workspace.workspace import Workspace

# Every module with calls, in the order of the description.
AREAS = (
    remote,
    connection,
    mounts,
    cache,
    downloads,
    managing,
    artifacts,
    lineage,
    runs,
    config,
    events,
    metrics,
    docs,
)


@dataclass(frozen=True)
class Admission:
    """Who is let in. `names`: see `Guard`. The token lets in other accounts, and is asked of everybody if `always`."""

    names: frozenset[str] = LOOPBACK_NAMES
    token: str | None = None
    always: bool = False


def create_app(workspace: Workspace, admission: Admission) -> Starlette:
    """The application; it serves `workspace` and does not close it. `app.state.events.close()` ends its streams."""
    know_digits()
    app = Starlette(
        routes=[*(call.route() for area in AREAS for call in area.calls()), docs.files()],
        middleware=[
            Middleware(BrowserHeaders),
            Middleware(Guard, names=admission.names),
            Middleware(Callers, token=admission.token, always=admission.always),
            Middleware(BodyLimit),
        ],
        exception_handlers={
            RunicornFSError: problems.on_own_error,
            HTTPException: problems.on_http_error,
            Exception: problems.on_unexpected,
        },
    )
    app.state.workspace = workspace
    app.state.waiting = CapacityLimiter(WAITING)
    app.state.events = EventLog(workspace)
    app.state.description = functools.cache(lambda: description_of(AREAS))
    return app

"""The control API as a Starlette application over one workspace. Nothing happens at import time.

Endpoints are plain functions, so Starlette runs them in its thread pool: they may block without holding up others.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from runicornfs.api import artifacts, problems, remote
from runicornfs.api.guard import Guard
from runicornfs.errors import RunicornFSError
from runicornfs.workspace.workspace import Workspace


def create_app(workspace: Workspace) -> Starlette:
    """The application; it serves `workspace` and does not close it."""
    app = Starlette(
        routes=[*remote.routes(), *artifacts.routes()],
        middleware=[Middleware(Guard)],
        exception_handlers={
            RunicornFSError: problems.on_own_error,
            HTTPException: problems.on_http_error,
            Exception: problems.on_unexpected,
        },
    )
    app.state.workspace = workspace
    return app

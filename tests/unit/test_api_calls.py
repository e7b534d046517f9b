"""A call of the control API, from its request to its answer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from runicornfs.api.calls import Asked, Done, call
from runicornfs.errors import Interrupted, OutcomeUnknown, RunicornFSError
from runicornfs.workspace.workspace import Workspace


@pytest.mark.parametrize(("method", "error"), [("GET", Interrupted), ("POST", OutcomeUnknown)])
def test_one_that_the_end_of_the_daemon_cuts_off_is_told_so(method: str, error: type[RunicornFSError]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(asked: Asked[None, None]) -> Done:
        begun.set()
        go_on.wait(10)
        return Done(message="done")

    app = Starlette()
    app.state.workspace = object.__new__(Workspace)  # of which the work knows nothing
    request = Request({"type": "http", "method": method, "headers": [], "app": app})

    async def cut_off() -> Any:
        answering = asyncio.ensure_future(call(method, "/api/work", work, answers=Done).endpoint(request))
        await asyncio.to_thread(begun.wait, 10)
        answering.cancel()  # as uvicorn does
        try:
            return await answering
        finally:
            go_on.set()

    with pytest.raises(error, match="is ending"):
        asyncio.run(cut_off())

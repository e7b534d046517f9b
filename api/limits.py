"""How large a request may be: nothing that this API takes comes near it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runicornfs.api.problems import problem

BODY_LIMIT = 1024 * 1024  # bytes


class TooLarge(Exception):
    """More came than was announced, or than is taken."""


class BodyLimit:
    """ASGI middleware. A body beyond the limit is never in memory as a whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        came = 0
        answered = False

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > BODY_LIMIT:
                raise TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            if announced.isdecimal() and int(announced) > BODY_LIMIT:
                raise TooLarge
            await self._app(scope, counted, noted)
        except TooLarge:
            if not answered:
                detail = f"the body of a request may have {BODY_LIMIT} bytes"
                await problem(413, detail, "too_large")(scope, receive, send)

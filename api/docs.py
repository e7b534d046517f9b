"""The description of this API for programs, and Swagger UI, which shows it to people, from files of our own.

Swagger UI's files are those of `swagger-ui-dist` (static/swagger-ui/README.md says which and how they came).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from runicornfs.api.calls import Call

FILES = Path(__file__).parent / "static" / "swagger-ui"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>runicornfs: the control API</title>
<link rel="stylesheet" href="docs/files/swagger-ui.css">
<link rel="icon" href="docs/files/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/files/swagger-ui-bundle.js"></script>
<script src="docs/files/start.js"></script>
</body>
</html>
"""


def calls() -> list[Call]:
    return [
        Call("GET", "/openapi.json", openapi, answer=dict[str, Any]),
        Call("GET", "/docs", page, answer=str, media_type="text/html"),
    ]


def files() -> Mount:
    """What the page loads."""
    return Mount("/docs/files", StaticFiles(directory=FILES))


async def openapi(request: Request) -> Response:
    """Answers this description."""
    return JSONResponse(request.app.state.description())


async def page(request: Request) -> Response:
    """Shows this description to a person, who can also try the calls."""
    return HTMLResponse(PAGE)

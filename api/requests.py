"""What every endpoint needs of a request, and how an answer becomes a response."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from starlette.requests import Request
from starlette.responses import Response

from runicornfs.errors import InvalidInput
from runicornfs.workspace.workspace import Workspace

FLAG = TypeAdapter(bool)


def workspace_of(request: Request) -> Workspace:
    workspace = request.app.state.workspace
    assert isinstance(workspace, Workspace)
    return workspace


def flag(request: Request, name: str) -> bool:
    """A yes-or-no query parameter; absent is no. Raises InvalidInput that names it."""
    try:
        return FLAG.validate_python(request.query_params.get(name, "false"))
    except ValidationError:
        raise InvalidInput(f"{name} takes true or false") from None


def answer(value: Any) -> Response:
    """A model, a record, a list of them or any value of a store as valid JSON: NaN and infinity, which it has not,
    become null; text that is no Unicode, as names in odd encodings are, goes out with escapes."""
    plain = to_jsonable_python(value, inf_nan_mode="null")
    return Response(json.dumps(plain, allow_nan=False), media_type="application/json")

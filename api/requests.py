"""What every endpoint needs of a request, and how an answer becomes a response."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
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


def answer(model: BaseModel) -> Response:
    return answer_value(model.model_dump())


def answer_list(models: Sequence[BaseModel]) -> Response:
    return answer_value([model.model_dump() for model in models])


def answer_value(value: Any) -> Response:
    """Any value of a store as valid JSON: it has no NaN and no infinity (null stands for them), and text that is no
    Unicode, as names in odd encodings are, goes out with escapes."""
    return Response(json.dumps(_finite(value), allow_nan=False), media_type="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value

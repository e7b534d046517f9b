"""How requests are read, and how an answer becomes a response."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, TypeVar

import anyio
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError, to_jsonable_python
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from runicornfs.errors import Interrupted, InvalidInput
from runicornfs.store.fields import VERSION_LIMIT
from runicornfs.workspace.workspace import Workspace

Model = TypeVar("Model", bound=BaseModel)

# Seconds for a body: a megabyte over a slow line, and no more than a program that hangs should keep.
BODY_S = 30.0

# What a parameter is that was not given: nothing that could be written into an address.
Absent = SkipJsonSchema[None]


def _expanded(path: str) -> str:
    if "\0" in path:
        raise PydanticCustomError("path", "a path has no NUL in it")
    return os.path.expanduser(path)


# A path of this machine; `~` is the home of the account that runs this.
LocalPath = Annotated[str, Field(min_length=1), AfterValidator(_expanded)]


class OfType(BaseModel):
    """`type`: of artifacts; without it, or with an empty one, every type."""

    type: Annotated[str | Absent, AfterValidator(lambda type: type or None)] = None


class OfArtifact(OfType):
    """An artifact; `type` is needed where several types have one of that name."""

    name: str


class OfVersion(OfArtifact):
    """A version of an artifact; `type` is needed where several types have it."""

    version: Annotated[int, Field(ge=0, le=VERSION_LIMIT)]


def workspace_of(request: Request) -> Workspace:
    workspace = request.app.state.workspace
    assert isinstance(workspace, Workspace)
    return workspace


def read_parameters(request: Request, model: type[Model]) -> Model:
    """What path and query say; what the model does not know is left out. Raises InvalidInput that names the field."""
    try:
        return model.model_validate({**request.query_params, **request.path_params})
    except ValidationError as error:
        raise _named(error) from None


async def body_of(request: Request) -> bytes:
    """The whole body. It is waited for here, where that holds up nobody else, and no longer than BODY_S.

    Raises HTTPException (408) where it does not come, Interrupted where the client goes.
    """
    try:
        with anyio.fail_after(BODY_S):
            return await request.body()
    except TimeoutError:
        raise HTTPException(408) from None
    except ClientDisconnect:
        raise Interrupted("the client went in the middle of its request") from None


def read_body(text: bytes, model: type[Model]) -> Model:
    """What a JSON object asks for, whatever its Content-Type says; no body is an empty one.

    Raises InvalidInput that names the field.
    """
    try:
        return model.model_validate_json(text or b"{}")
    except ValidationError as error:
        raise _named(error) from None


def answer(value: Any) -> Response:
    """A model, a record, a list of them or any value of a store as valid JSON: NaN and infinity, which it has not,
    become null; text that is no Unicode, as names in odd encodings are, goes out with escapes."""
    plain = to_jsonable_python(value, inf_nan_mode="null")
    return Response(json.dumps(plain, allow_nan=False), media_type="application/json")


def _named(error: ValidationError) -> InvalidInput:
    """The first thing that is wrong; never the value, which may be a secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the body of the request"
    return InvalidInput(f"{field}: {first['msg']}")

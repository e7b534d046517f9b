"""The OpenAPI 3.1 description, made of the calls and of the JSON Schemas that pydantic makes of their models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

import runicornfs
from runicornfs.api.calls import JSON, Call
from runicornfs.api.problems import MEANINGS, Problem

REF_TEMPLATE = "#/components/schemas/{model}"
# `{version:digits}` of a path, which is `{version}` in the description.
CONVERTOR = re.compile(r":\w+\}")
# How any call may be refused: by who asks and how much is sent; one that takes something also by what it is given.
ALWAYS = (401, 403, 413)
MALFORMED = 422
LATE = 408  # a body that does not come

TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "Asked of everybody where the API is not on loopback; there it is asked of other accounts.",
}


class _Schemas(GenerateJsonSchema):
    """As pydantic makes them, but an answer always has all its fields, and None for *not given* is no default."""

    def field_is_required(
        self, field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField, total: bool
    ) -> bool:
        return self.mode == "serialization" or super().field_is_required(field, total)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        return {name: value for name, value in found.items() if name != "default" or value is not None}


def description_of(areas: Iterable[ModuleType]) -> dict[str, Any]:
    """The document. Each area has `calls()`, and becomes a tag that its docstring describes."""
    tags = {area.__name__.rpartition(".")[2]: area for area in areas}
    calls = [(tag, call) for tag, area in tags.items() for call in area.calls()]
    schemas = _Components([call for _, call in calls])
    paths: dict[str, dict[str, Any]] = {}
    for tag, call in calls:
        paths.setdefault(_path(call), {})[call.method.lower()] = _operation(tag, call, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "runicornfs",
            "version": runicornfs.__version__,
            "description": "The control API of runicornfs: connect to a store, look at it, fetch and manage.",
        },
        "tags": [{"name": tag, "description": _doc(area)[0]} for tag, area in tags.items()],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.shared,
            "responses": {
                str(status): {"description": meaning, **_content(JSON, schemas.of(Problem, "validation"))}
                for status, meaning in MEANINGS.items()
            },
            "securitySchemes": {"bearer": TOKEN},
        },
    }


class _Components:
    """The schemas of all bodies and answers; `shared` are those with a name, to which the others refer."""

    def __init__(self, calls: list[Call]) -> None:
        taken: set[Any] = {Problem} | {call.body for call in calls if call.body is not None}
        answered = {call.answer for call in calls}
        self._schemas, definitions = TypeAdapter.json_schemas(
            [
                *((type, "validation", TypeAdapter(type)) for type in taken),
                *((type, "serialization", TypeAdapter(type)) for type in answered),
            ],
            ref_template=REF_TEMPLATE,
            schema_generator=_Schemas,
        )
        self.shared = dict(sorted(definitions["$defs"].items()))

    def of(self, type: Any, mode: JsonSchemaMode) -> JsonSchemaValue:
        return self._schemas[type, mode]


def _operation(tag: str, call: Call, schemas: _Components) -> dict[str, Any]:
    summary, description = _doc(call.endpoint)
    operation: dict[str, Any] = {
        "operationId": f"{tag}.{call.endpoint.__name__}",
        "tags": [tag],
        "summary": summary,
        "description": description,
        "responses": {
            "200": {
                "description": "What was asked for.",
                **_content(call.media_type, schemas.of(call.answer, "serialization")),
            },
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in _refusals(call)},
        },
    }
    if call.parameters is not None:
        operation["parameters"] = list(_parameters(call.path, call.parameters))
        operation["description"] = "\n\n".join(filter(None, [description, inspect.getdoc(call.parameters)]))
    if call.body is not None:
        operation["requestBody"] = {
            "required": any(field.is_required() for field in call.body.model_fields.values()),
            **_content(JSON, schemas.of(call.body, "validation")),
        }
    return operation


def _parameters(path: str, model: type[BaseModel]) -> Iterable[dict[str, Any]]:
    schema = model.model_json_schema(schema_generator=_Schemas)
    for name, property in schema["properties"].items():
        in_path = f"{{{name}" in path
        yield {
            "name": name,
            "in": "path" if in_path else "query",
            "required": name in schema.get("required", ()),
            "schema": property,
        }


def _refusals(call: Call) -> list[int]:
    takes = () if call.parameters is None and call.body is None else (MALFORMED,)
    waits = () if call.body is None else (LATE,)
    return sorted({*ALWAYS, *takes, *waits, *call.refusals})


def _content(media_type: str, schema: JsonSchemaValue) -> dict[str, Any]:
    return {"content": {media_type: {"schema": schema}}}


def _path(call: Call) -> str:
    return CONVERTOR.sub("}", call.path)


def _doc(documented: object) -> tuple[str, str]:
    """The first line of a docstring, and the rest."""
    first, _, rest = (inspect.getdoc(documented) or "").partition("\n")
    return first, rest.strip()

"""The OpenAPI description: it is valid, it tells every call there is, and it promises what clients rely on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.routing import Mount, Route

import runicornfs
from runicornfs.api.app import AREAS, Admission, create_app
from runicornfs.api.openapi import description_of
from runicornfs.api.problems import MEANINGS, STATUSES
from runicornfs.workspace.connection import SshFiles
from runicornfs.workspace.opening import Keeping
from runicornfs.workspace.workspace import Workspace

# What clients rely on: of each call the fields of its answer, in JSON Schema's words. `[…]` is a list, `{…}` an object
# whose keys are names, `a.b` the field b of a, or of its items where it is a list.
ANSWERS = {
    "POST /api/remote/connect": """
        ok: boolean, status: string, host: string, username: string, remote_root: string, cache_dir: string,
        structure_verified: {boolean|null}, auto_sync: boolean, sync_interval_minutes: number""",
    "POST /api/remote/disconnect": "ok: boolean, status: string, message: string",
    "GET /api/remote/status": """
        mode: string, connected: boolean, status: string, sync_progress: object|null, stats: object|null,
        error: string|null, mounts: [string], offline: boolean,
        sync_progress.status: string, sync_progress.started_at: number|null, sync_progress.completed_at: number|null,
        sync_progress.total_files: integer, sync_progress.synced_files: integer, sync_progress.total_bytes: integer,
        sync_progress.synced_bytes: integer, sync_progress.current_file: string|null, sync_progress.errors: [string],
        sync_progress.progress_percent: number,
        stats.connected: boolean, stats.last_sync: number|null, stats.total_artifacts: integer,
        stats.cached_artifacts: integer, stats.cache_size_bytes: integer, stats.remote_size_bytes: integer,
        stats.sync_count: integer, stats.error_count: integer""",
    "GET /api/remote/verify": """
        connected: boolean, structure: {boolean|null}, adapter_status: string, error: string|null""",
    "GET /api/remote/mode": "mode: string, remote_available: boolean, remote_connected: boolean",
    "POST /api/remote/mode/switch": "ok: boolean, mode: string, message: string",
    "POST /api/remote/sync": "ok: boolean, message: string, info: string",
    "GET /api/artifacts": """
        [].name: string, [].type: string, [].num_versions: integer, [].latest_version: integer,
        [].size_bytes: integer, [].created_at: number, [].updated_at: number, [].aliases: {integer}""",
    "GET /api/artifacts/{name}/versions": """
        [].version: integer, [].created_at: number, [].created_by_run: string|null, [].size_bytes: integer,
        [].num_files: integer, [].status: string, [].aliases: [string]""",
    "GET /api/artifacts/{name}/v{version}": """
        name: string|null, type: string|null, version: integer|null, status: string|null, created_at: number|null,
        updated_at: number|null, created_by_run: string|null, created_by_user: string|null, size_bytes: integer|null,
        num_files: integer|null, num_references: integer|null, description: string|null, tags: [string]|null,
        metadata: object|null, parent_artifacts: []|null, aliases: [string]""",
    "GET /api/artifacts/{name}/v{version}/files": """
        artifact: string, files: [object], references: [object], total_size: integer, total_files: integer,
        total_references: integer, is_remote: boolean,
        files.path: string, files.size: integer, files.digest: string|null, files.modified_at: number|null,
        files.absolute_path: string|null, files.is_remote: boolean, files.cached_bytes: integer,
        files.mount_path: string|null""",
    "GET /api/artifacts/{name}/v{version}/lineage": """
        root_artifact: string, nodes: [object], edges: [object],
        nodes.node_type: string, nodes.node_id: string, nodes.label: string, nodes.metadata: object,
        edges.source: string, edges.target: string, edges.edge_type: string, edges.created_at: number""",
    "GET /api/artifacts/stats": """
        connected: boolean, last_sync: number|null, total_artifacts: integer, cached_artifacts: integer,
        cache_size_bytes: integer, remote_size_bytes: integer, sync_count: integer, error_count: integer,
        total_versions: integer, total_size_bytes: integer, total_files: integer, dedup_enabled: boolean,
        by_type: {object}, dedup_pool_size_bytes: integer, space_saved_bytes: integer, dedup_ratio: number""",
    "DELETE /api/artifacts/{name}/v{version}": "success: boolean, message: string",
    "POST /api/artifacts/{name}/v{version}/restore": "success: boolean, message: string",
    "POST /api/remote/artifacts/{name}/v{version}/alias": "ok: boolean, message: string",
    "DELETE /api/remote/artifacts/{name}/alias/{alias}": "ok: boolean, message: string",
    "POST /api/remote/artifacts/{name}/v{version}/tags": "ok: boolean, message: string",
    "DELETE /api/remote/artifacts/{name}/v{version}/tags/{tag}": "ok: boolean, message: string",
    "POST /api/remote/download/{name}/v{version}": "ok: boolean, task_id: string, artifact: string, message: string",
    "GET /api/remote/download/{task}/status": """
        task_id: string, artifact_name: string, artifact_type: string, artifact_version: integer,
        target_dir: string|null, total_files: integer, downloaded_files: integer, total_bytes: integer,
        downloaded_bytes: integer, progress_percent: number, status: string, error: string|null,
        bytes_per_second: number, eta_seconds: number|null, current_file: string|null, from_cache_bytes: integer""",
    "GET /api/remote/downloads": """
        downloads: [object], active_count: integer, total_count: integer,
        downloads.task_id: string, downloads.status: string, downloads.progress_percent: number,
        downloads.started_at: number, downloads.completed_at: number|null""",
    "DELETE /api/remote/download/{task}": "ok: boolean, message: string",
    "POST /api/remote/download/{task}/open": "path: string",
    "POST /api/prefetch": "ok: boolean, task_id: string, artifact: string, message: string",
    "POST /api/remote/cache/clear": "ok: boolean, message: string, freed_bytes: integer",
    "POST /api/remote/cache/cleanup": "ok: boolean, files_removed: integer, message: string, freed_bytes: integer",
    "POST /api/remote/cache/verify": "ok: boolean, message: string",
    "GET /api/remote/cache/files": """
        files: [object], files.sha256: string|null, files.path: string, files.size_bytes: integer,
        files.cached_bytes: integer, files.state: string, files.pinned: boolean, files.last_used: number,
        files.where: [string]""",
    "GET /api/remote/cache/pins": "pins: [object], pins.artifact: string",
    "POST /api/remote/cache/pins": "ok: boolean, message: string, artifact: string",
    "DELETE /api/remote/cache/pins": "ok: boolean, message: string",
    "GET /api/remote/cache": """
        size_bytes: integer, limit_bytes: integer, files: integer, partial_files: integer, verified_files: integer,
        hits: integer, misses: integer, hit_ratio: number, bytes_fetched: integer, bytes_served: integer,
        evictions: integer""",
    "GET /api/config": "user_root_dir: string, storage: string, config_file: string, cache_dir: string",
    "GET /api/health": "status: string, storage: string, version: string, cache: object",
    "GET /api/config/ssh_connections": """
        connections: [object], connections.key: string, connections.host: string, connections.port: integer,
        connections.username: string, connections.remote_root: string, connections.name: string,
        connections.auth: string, connections.auto_sync: boolean, connections.sync_interval_minutes: integer,
        connections.has_password: boolean, connections.has_private_key: boolean""",
    "POST /api/config/ssh_connections": "ok: boolean, message: string",
    "DELETE /api/config/ssh_connections/{key}": "ok: boolean, message: string",
    "GET /api/config/ssh_connections/{key}/details": "ok: boolean, connection: object, connection.key: string",
    "GET /api/runs": """
        [].id: string, [].run_dir: string, [].created_time: number, [].status: string, [].pid: integer|null,
        [].best_metric_value: number|null, [].best_metric_name: string|null, [].project: string, [].name: string,
        [].artifacts_created_count: integer, [].artifacts_used_count: integer, [].summary: object|null""",
    "GET /api/projects/{project}/names/{name}/runs": "[].id: string, [].project: string, [].name: string",
    "GET /api/runs/{id}": """
        id: string, status: string, pid: integer|null, run_dir: string, project: string, name: string, logs: string,
        metrics: string, metrics_step: string, artifacts_created_count: integer, artifacts_used_count: integer,
        summary: object|null, started_at: number|null, ended_at: number|null""",
    "GET /api/runs/{id}/artifacts": """
        created: [object], used: [object],
        created.name: string, created.type: string, created.version: integer, created.size_bytes: integer,
        created.created_at: number, created.description: string|null, created.aliases: [string], used.name: string""",
    "GET /api/projects": "projects: [string]",
    "GET /api/projects/{project}/names": "names: [string]",
    "GET /api/mounts": "mounts: [object], mounts.mountpoint: string",
    "POST /api/mounts": "ok: boolean, mountpoint: string, message: string",
    "DELETE /api/mounts": "ok: boolean, message: string",
}

# What they send: fields of the body, and parameters of the query.
BODIES = {
    "POST /api/remote/connect": """
        host: string, port: integer|null, username: string|null, password: string|null, private_key: string|null,
        private_key_path: string|null, passphrase: string|null, use_agent: boolean, remote_root: string,
        auto_sync: boolean, sync_interval_minutes: number, accept_host_key: string|null""",
    "POST /api/remote/mode/switch": "mode: string",
    "POST /api/remote/artifacts/{name}/v{version}/alias": "alias: string",
    "POST /api/remote/artifacts/{name}/v{version}/tags": "tags: [string]",
    "POST /api/remote/download/{name}/v{version}": "target_dir: string|null, overwrite: boolean",
    "POST /api/remote/cache/clear": "force: boolean",
    "POST /api/remote/cache/pins": "artifact: string",
    "DELETE /api/remote/cache/pins": "artifact: string|null",
    "POST /api/config/ssh_connections": """
        host: string, port: integer, username: string, remote_root: string, name: string, auth: string,
        auto_sync: boolean, sync_interval_minutes: integer""",
    "POST /api/mounts": "mountpoint: string",
    "DELETE /api/mounts": "mountpoint: string|null",
    "POST /api/prefetch": "artifact: string, paths: [string], check: boolean, evict: boolean",
}
QUERIES = {
    "POST /api/remote/sync": "full: boolean",
    "GET /api/artifacts": "type: string",
    "GET /api/artifacts/{name}/versions": "type: string, include_deleted: boolean",
    "GET /api/artifacts/{name}/v{version}": "type: string",
    "GET /api/artifacts/{name}/v{version}/files": "type: string",
    "GET /api/artifacts/{name}/v{version}/lineage": "type: string, max_depth: integer",
    "DELETE /api/artifacts/{name}/v{version}": "type: string, permanent: boolean",
    "POST /api/artifacts/{name}/v{version}/restore": "type: string",
    "POST /api/remote/artifacts/{name}/v{version}/alias": "type: string",
    "DELETE /api/remote/artifacts/{name}/alias/{alias}": "type: string",
    "POST /api/remote/artifacts/{name}/v{version}/tags": "type: string",
    "DELETE /api/remote/artifacts/{name}/v{version}/tags/{tag}": "type: string",
    "POST /api/remote/download/{name}/v{version}": "type: string",
    "GET /api/remote/cache/files": "sort: string, limit: integer",
    "DELETE /api/remote/cache/pins": "artifact: string, type: string",
    "DELETE /api/mounts": "mountpoint: string",
}
TEXTS = {
    "GET /api/events": "text/event-stream",
    "GET /metrics": "text/plain",
    "GET /docs": "text/html",
}
# Whatever the store's own JSON says stands here, and in the description of itself.
FREE_FORM = {"VersionAnswer", "Reference", "LineageGraph", "LineageNode", "RunDetail", "RunEntry"}

DESCRIPTION = description_of(AREAS)
SCHEMAS: dict[str, Any] = DESCRIPTION["components"]["schemas"]
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Starlette]:
    workspace = Workspace(Keeping(tmp_path, 2**20), SshFiles())
    yield create_app(workspace, Admission())
    workspace.close()


def alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """What a schema may be, without references and choices."""
    if "$ref" in schema:
        return alternatives(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return [found for choice in schema["anyOf"] for found in alternatives(choice)]
    return [schema]


def kind(schema: dict[str, Any]) -> str:
    """A schema as the lists above write it."""
    kinds = []
    for found in alternatives(schema):
        if found.get("type") == "array":
            kinds.append(f"[{kind(found['items'])}]")
        elif isinstance(found.get("additionalProperties"), dict) and "properties" not in found:
            kinds.append(f"{{{kind(found['additionalProperties'])}}}")
        else:
            kinds.append(found.get("type", ""))
    return "|".join(kinds)


def field(schema: dict[str, Any], path: list[str]) -> list[tuple[dict[str, Any], bool]]:
    """The schemas of a field, and whether it is always there: one of each alternative that has it."""
    found = []
    for choice in alternatives(schema):
        if choice.get("type") == "array":
            found += field(choice["items"], path[1:] if path[0] == "[]" else path)
        elif path[0] in choice.get("properties", {}):
            inner = choice["properties"][path[0]]
            required = path[0] in choice.get("required", [])
            found += field(inner, path[1:]) if path[1:] else [(inner, required)]
    return found


def fields_of(text: str) -> list[tuple[str, str]]:
    return [(name, wanted) for name, wanted in re.findall(r"([\w.\[\]]+): ([^,\s]+)", text)]


def body_of(operation: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = operation["content"]["application/json"]["schema"]
    return schema


def test_it_is_valid_openapi_3_1() -> None:
    assert DESCRIPTION["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(DESCRIPTION).validate()
    assert DESCRIPTION["info"]["version"] == runicornfs.__version__


def test_every_route_is_described_and_nothing_else_is(app: Starlette) -> None:
    routes = set()
    for route in app.routes:
        if isinstance(route, Mount):
            assert route.path == "/docs/files", "the files of a page need no description"
            continue
        assert isinstance(route, Route)
        path = re.sub(r":\w+}", "}", route.path)
        routes |= {f"{method} {path}" for method in route.methods or () if method != "HEAD"}
    assert routes == set(OPERATIONS)


def test_every_call_that_clients_rely_on_is_held_by_this_test() -> None:
    assert set(OPERATIONS) == set(ANSWERS) | set(TEXTS) | {"GET /openapi.json"}


@pytest.mark.parametrize("call", ANSWERS)
def test_every_answer_has_its_fields(call: str) -> None:
    schema = body_of(OPERATIONS[call]["responses"]["200"])
    for name, wanted in fields_of(ANSWERS[call]):
        found = field(schema, name.split("."))
        assert found, f"{name} is missing"
        assert {kind(one) for one, _ in found} == {wanted}, name
        assert all(required for _, required in found), f"{name} is not always there"


@pytest.mark.parametrize("call", OPERATIONS)
def test_a_body_takes_its_fields_and_only_those_are_expected(call: str) -> None:
    sent = OPERATIONS[call].get("requestBody")
    assert (sent is not None) == (call in BODIES)
    for name, wanted in fields_of(BODIES.get(call, "")):
        found = field(body_of(sent or {}), [name])
        assert [kind(one) for one, _ in found] == [wanted], name


@pytest.mark.parametrize("call", OPERATIONS)
def test_parameters_are_those_of_the_path_and_of_the_query(call: str) -> None:
    parameters = OPERATIONS[call].get("parameters", [])
    in_path = {one["name"] for one in parameters if one["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", call))
    assert all(one["required"] == (one["in"] == "path") for one in parameters)
    in_query = {one["name"]: kind(one["schema"]) for one in parameters if one["in"] == "query"}
    assert in_query == dict(fields_of(QUERIES.get(call, "")))


@pytest.mark.parametrize("call", TEXTS)
def test_what_is_no_json_is_described_as_text(call: str) -> None:
    content = OPERATIONS[call]["responses"]["200"]["content"]
    assert content == {TEXTS[call]: {"schema": {"type": "string"}}}


@pytest.mark.parametrize("call", OPERATIONS)
def test_every_call_says_in_a_sentence_what_it_does(call: str) -> None:
    assert OPERATIONS[call]["summary"].endswith(".")


@pytest.mark.parametrize("call", OPERATIONS)
def test_every_refusal_has_the_one_shape(call: str) -> None:
    responses = OPERATIONS[call]["responses"]
    assert {"200", "401", "403", "413"} <= responses.keys()
    for status in responses.keys() - {"200"}:
        assert responses[status] == {"$ref": f"#/components/responses/{status}"}
        assert body_of(DESCRIPTION["components"]["responses"][status]) == {"$ref": "#/components/schemas/Problem"}
    assert [kind(one) for one, _ in field({"$ref": "/Problem"}, ["host_key", "fingerprint"])] == ["string"]


def test_every_status_of_an_error_has_a_meaning() -> None:
    assert set(STATUSES.values()) - {500} <= set(MEANINGS)


def test_schemas_are_exact_and_have_plain_names() -> None:
    vague = {
        name
        for name, schema in SCHEMAS.items()
        for one in [schema, *schema.get("properties", {}).values()]
        for choice in [one, *one.get("anyOf", [])]
        if choice.get("additionalProperties") is True
    }
    assert vague == FREE_FORM
    assert all(name.isalnum() for name in SCHEMAS), "two models have one name"


def test_secrets_are_only_ever_sent() -> None:
    for secret in ("password", "private_key", "passphrase"):
        told = {name for name, schema in SCHEMAS.items() if secret in schema.get("properties", {})}
        assert told == {"ConnectRequest"}
        (choice, _) = SCHEMAS["ConnectRequest"]["properties"][secret]["anyOf"]
        assert choice["writeOnly"]

"""The live application against its own description, with requests that nobody would think of (schemathesis)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from runicornfs.api.app import AREAS
from runicornfs.api.openapi import description_of
from runicornfs.demo.sshd import PrivateSshd
from tests.mounts import Mounted, login_options, require_fuse, source_of

EXAMPLES = 10  # of every call, and as many that break its rules
DESCRIPTION = description_of(AREAS)
OPERATIONS: dict[str, Any] = {
    f"{method.upper()} {path}": operation
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
}
# Not called with what is made up, and why.
EXCLUDED = {
    "GET /api/events": "never ends; test_events.py looks at it",
    "POST /api/mounts": "would make folders anywhere on this machine",
    "DELETE /api/mounts": "would take the mount away",
    "POST /api/remote/download/{task}/open": "could open programs of the desktop",
}
# In this order, after all others: each takes something away.
LAST = [
    "DELETE /api/artifacts/{name}/v{version}",
    "POST /api/artifacts/{name}/v{version}/restore",
    "POST /api/remote/cache/clear",
    "POST /api/remote/mode/switch",
    "POST /api/remote/disconnect",
]
FIRST = sorted(OPERATIONS.keys() - EXCLUDED - set(LAST), key=lambda call: (call.startswith("DELETE"), call))
CALLED = FIRST + LAST


def takes(call: str) -> bool:
    """Whether there is anything to make up."""
    return bool(OPERATIONS[call].get("parameters")) or "requestBody" in OPERATIONS[call]


def has_rules(call: str) -> bool:
    """Whether a request can break any: every text is a name."""
    parameters = OPERATIONS[call].get("parameters", [])
    return "requestBody" in OPERATIONS[call] or any(one["schema"]["type"] != "string" for one in parameters)


# Requests for what there is, for what somebody made up, and such as break the rules.
REQUESTS = [
    *(("known", call) for call in FIRST),
    *(("made up", call) for call in CALLED if takes(call)),
    *(("broken", call) for call in CALLED if has_rules(call)),
    *(("known", call) for call in LAST),
]
# What is asked for cannot succeed here, and why.
UNSUCCESSFUL = {
    "POST /api/remote/connect": "no other server is there",
    "DELETE /api/remote/download/{task}": "the task has ended",
}
KEPT = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def served(sshd: PrivateSshd, _reference_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    require_fuse()
    folder = tmp_path_factory.mktemp("conformance")
    root = folder / "store" / "runicorn"
    shutil.copytree(_reference_store, root, symlinks=True)
    mounted = Mounted(folder, source_of(sshd, root), *login_options(sshd))
    try:
        mounted.wait()
        yield mounted
    finally:
        mounted.close()


@pytest.fixture(scope="module")
def known(served: Mounted) -> dict[str, Any]:
    """What there is, by the names of parameters and fields: without it every request would be for something unknown."""
    with httpx.Client(base_url=served.api, trust_env=False, timeout=30) as http:
        run = http.get("/api/runs").json()[0]
        task = http.post("/api/prefetch", json={"artifact": "model/resnet50:v3"}).json()["task_id"]
        saved = {"host": "127.0.0.1", "username": "ada", "remote_root": "/store"}
        assert http.post("/api/config/ssh_connections", json=saved).is_success
    return saved | {
        "name": "resnet50",
        "version": 3,
        "type": "model",
        "alias": "checked",
        "artifact": "model/resnet50:v3",
        "tag": "fine",
        "tags": ["fine"],
        "id": run["id"],
        "project": run["project"],
        "task": task,
        "key": "127.0.0.1:22@ada",
        "auth": "agent",
        "mode": "remote",
        "permanent": "false",
    }


@pytest.mark.parametrize(("kind", "call"), REQUESTS)
def test_every_answer_is_as_described(served: Mounted, known: dict[str, Any], kind: str, call: str) -> None:
    method, path = call.split()
    operation = schemathesis.openapi.from_dict(DESCRIPTION)[path][method]
    mode = GenerationMode.NEGATIVE if kind == "broken" else GenerationMode.POSITIVE
    statuses = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        if kind == "known":
            fill_in(case, known)
        keep_here(case)
        response = case.call(base_url=served.api, timeout=30)
        statuses.add(response.status_code)
        case.validate_response(response, checks=KEPT)

    check()
    if kind == "known" and call not in UNSUCCESSFUL:
        assert 200 in statuses


def fill_in(case: Any, known: dict[str, Any]) -> None:
    """Asks for what is there."""
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part.update({name: value for name, value in known.items() if name in part})
    case.query["type"] = known["type"]


def keep_here(case: Any) -> None:
    """No name is looked up in the network, and nothing is written outside of the daemon's own folders."""
    if not isinstance(case.body, dict):
        return
    case.body.pop("target_dir", None)
    if case.path == "/api/remote/connect":
        case.body.update(host="127.0.0.1", port=1)
        for name in ("private_key_path", "private_key", "password"):
            case.body.pop(name, None)


ODD_TEXTS = [
    "%00",
    "%ff%fe",
    "%ed%a0%80",
    "%F0%9F%92%A9",
    "%2e%2e",
    "..%2f..%2fetc",
    "%0d%0aX-Injected:%20yes",
    "'%22$(id)%60%3b",
    "v99999999999999999999",
    "-1",
    "0x10",
    "1e3",
    "NaN",
    "9" * 5000,
    "a" * 5000,
]


@pytest.mark.parametrize("call", CALLED)
def test_odd_names_and_numbers_are_refused_in_a_sentence(served: Mounted, call: str) -> None:
    method, path = call.split()
    parameters = OPERATIONS[call].get("parameters", [])
    with httpx.Client(base_url=served.api, trust_env=False, timeout=30) as http:
        for odd in ODD_TEXTS:
            digits = odd if odd.isdecimal() else "9" * 20
            filled = path.replace("{version}", digits)
            for parameter in parameters:
                filled = filled.replace("{" + parameter["name"] + "}", odd)
            query = "&".join(f"{one['name']}={odd}" for one in parameters if one["in"] == "query")
            look_at(http.request(method, f"{filled}?{query}"), call)


def odd_bodies(call: str) -> Iterator[bytes]:
    """What is no JSON, no object, or has odd values in the fields."""
    yield from [b"\xff\xfe", b"{", b"null", b"[]", b'"text"', b"NaN", b"[" * 100_000, b"{}garbage", b'{"a":' * 5000]
    reference = OPERATIONS[call]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    fields = DESCRIPTION["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
    odd = [
        "null",
        "NaN",
        "-Infinity",
        "1e400",
        "9" * 30,
        "9" * 5000,
        '"\\ud800"',
        '"\\u0000"',
        '"/\\u0000"',
        "[[]]",
        "{}",
        '""',
    ]
    for value in [*odd, '"' + "a" * 10_000 + '"', '["' + "a" * 10_000 + '"]', '["\\u0000"]']:
        named = (f'"{name}": {value}' for name in fields if name not in ("host", "port", "target_dir"))
        yield ("{" + ", ".join(['"host": "127.0.0.1"', '"port": 1', *named]) + "}").encode()


@pytest.mark.parametrize("call", [call for call in CALLED if "requestBody" in OPERATIONS[call]])
def test_odd_bodies_are_refused_in_a_sentence(served: Mounted, known: dict[str, Any], call: str) -> None:
    method, path = call.split()
    for name, value in known.items():
        path = path.replace("{" + name + "}", str(value))
    with httpx.Client(base_url=served.api, trust_env=False, timeout=30) as http:
        for body in odd_bodies(call):
            look_at(http.request(method, path, content=body), call)


@pytest.mark.parametrize(
    "path", ["/api/mounts", "/api/remote/download/resnet50/v3", "/api/remote/connect", "/api/config/ssh_connections"]
)
@pytest.mark.parametrize("text", ["\0", "/\0", "relative", "", "/" + "a" * 300, "~nobody-there/x", "/dev/null/x"])
def test_odd_folders_are_refused_in_a_sentence(served: Mounted, path: str, text: str) -> None:
    sent = {
        "/api/mounts": {"mountpoint": text},
        "/api/remote/download/resnet50/v3": {"target_dir": text},
        "/api/remote/connect": {"host": "127.0.0.1", "port": 1, "remote_root": "/x", "private_key_path": text},
        "/api/config/ssh_connections": {"host": "127.0.0.1", "username": "ada", "remote_root": text or "x"},
    }[path]
    with httpx.Client(base_url=served.api, trust_env=False, timeout=30) as http:
        refused = http.post(path, json=sent, params={"type": "model"})
        look_at(refused, f"POST {path.replace('resnet50/v3', '{name}/v{version}')}")
        if path != "/api/config/ssh_connections":
            assert refused.is_client_error or refused.status_code == 503, refused.text


def look_at(response: httpx.Response, call: str) -> None:
    """It is no answer that the description does not know, and no mistake of ours. Some paths lead nowhere."""
    assert str(response.status_code) in {*OPERATIONS[call]["responses"], "404"}, response.text
    assert response.status_code < 500 or call == "POST /api/remote/connect", response.text
    if response.is_error:
        assert response.json()["detail"]
        assert response.json()["code"]
    assert "x-injected" not in response.headers

"""`/docs`: Swagger UI, with nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.conftest import MountLocal


@pytest.fixture
def http(mount_local: MountLocal, sample_store: Path) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mount_local(sample_store).api, trust_env=False, timeout=30) as client:
        yield client


def test_the_description_is_served(http: httpx.Client) -> None:
    answer = http.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    OpenAPIV31SpecValidator(answer.json()).validate()


def test_the_page_loads_everything_from_here(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    kinds = {}
    for address in loaded:
        answer = http.get(str(httpx.URL("/docs").join(address))).raise_for_status()
        kinds[address.rpartition(".")[2]] = answer.headers["Content-Type"].partition(";")[0]
    assert kinds == {"css": "text/css", "js": "text/javascript", "png": "image/png"}
    assert 'url: "openapi.json"' in http.get("/docs/files/start.js").text


def test_the_page_may_run_no_script_but_its_own(http: httpx.Client) -> None:
    page = http.get("/docs")
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:", page.text), "a script in the page itself"


@pytest.mark.parametrize(
    "path", ["/docs/files/..%2f..%2fapp.py", "/docs/files/../../app.py", "/docs/files/", "/docs/files/x"]
)
def test_no_other_file_is_served(http: httpx.Client, path: str) -> None:
    refused = http.get(path)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


def test_a_call_that_is_not_there_and_one_with_another_method_are_told_apart(http: httpx.Client) -> None:
    missing = http.get("/api/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert "/openapi.json" in missing.json()["detail"]
    other = http.put("/api/health")
    assert (other.status_code, other.json()["code"]) == (405, "method_not_allowed")
    assert set(other.headers["Allow"].split(", ")) == {"GET", "HEAD"}

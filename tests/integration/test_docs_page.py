"""`/docs`: Swagger UI, with nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from runicornfs.api.headers import HEADERS, POLICY
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


def test_the_page_has_no_script_and_no_style_of_its_own(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["Content-Security-Policy"] == POLICY
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\s(on\w+|style)=|javascript:", page.text)


def test_a_browser_shows_the_page_under_the_policy_of_all_answers(http: httpx.Client, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("shows a page in Chromium, which is not installed")
    command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={tmp_path}", "--enable-logging=stderr"]
    if os.getuid() == 0:
        command.append("--no-sandbox")  # it refuses to start as root with one
    command += ["--virtual-time-budget=20000", "--dump-dom", str(http.base_url.join("/docs"))]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    operations = http.get("/openapi.json").json()["paths"]
    assert shown.stdout.count('class="opblock-summary-path"') >= len(operations) > 30
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []


def test_every_answer_tells_browsers_what_they_may_not_do(http: httpx.Client) -> None:
    for path in ("/docs", "/docs/files/start.js", "/api/health", "/metrics", "/openapi.json", "/nothing"):
        headers = http.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS, path
        assert "Server" not in headers, "nobody is told which server, and of which version, this is"


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

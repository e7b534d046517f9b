"""Who may call the control API from a browser."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from runicornfs.api.guard import refusal_of


@pytest.mark.parametrize("host", ["127.0.0.1:23300", "localhost:23300", "localhost", "[::1]:80", "LOCALHOST:1"])
def test_our_own_names_are_answered(host: str) -> None:
    assert refusal_of("GET", Headers({"host": host})) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:1", "", "127.0.0.1.evil.example", "[::1", "0.0.0.0"])
def test_a_name_that_was_rebound_to_us_is_refused(host: str) -> None:
    assert refusal_of("GET", Headers({"host": host})) is not None


def test_a_page_of_another_site_may_not_change_anything() -> None:
    headers = Headers({"host": "localhost:23300", "origin": "http://evil.example"})
    assert refusal_of("POST", headers) is not None
    assert refusal_of("DELETE", headers) is not None


def test_neither_may_one_of_another_port() -> None:
    assert refusal_of("POST", Headers({"host": "localhost:23300", "origin": "http://localhost:8000"})) is not None


def test_our_own_page_and_programs_without_origin_may() -> None:
    assert refusal_of("POST", Headers({"host": "localhost:23300", "origin": "http://localhost:23300"})) is None
    assert refusal_of("POST", Headers({"host": "localhost:23300"})) is None

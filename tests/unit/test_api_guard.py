"""Who may call the control API from a browser."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from runicornfs.api import guard
from runicornfs.api.guard import refusal_of


@pytest.mark.parametrize("host", ["127.0.0.1:23300", "localhost:23300", "localhost", "[::1]:80", "LOCALHOST:1"])
def test_our_own_names_are_answered(host: str) -> None:
    assert refusal_of("GET", Headers({"host": host})) is None


@pytest.mark.parametrize("host", ["evil.example", "evil.example:1", "", "127.0.0.1.evil.example", "[::1", "0.0.0.0"])
def test_a_name_that_was_rebound_to_us_is_refused(host: str) -> None:
    assert refusal_of("GET", Headers({"host": host})) is not None


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://localhost:8000", "http://localhost", "null", "", "localhost:23300", "http://[::1"],
)
def test_a_page_of_another_site_may_not_ask_anything(method: str, origin: str) -> None:
    assert refusal_of(method, Headers({"host": "localhost:23300", "origin": origin})) is not None


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("site", ["cross-site", "same-site", "something new"])
def test_neither_may_one_that_sends_no_origin(method: str, site: str) -> None:
    """As for an image, a frame or a script. A page on another port of this machine is of the same site."""
    for dest in ("image", "script", "iframe", "empty"):
        headers = Headers({"host": "localhost:23300", "sec-fetch-site": site, "sec-fetch-dest": dest})
        assert refusal_of(method, headers) is not None


def test_a_link_from_elsewhere_may_be_followed_but_no_form_sent() -> None:
    headers = Headers({"host": "localhost:23300", "sec-fetch-site": "cross-site", "sec-fetch-dest": "document"})
    assert refusal_of("GET", headers) is None
    assert refusal_of("POST", headers) is not None


def test_our_own_page_and_programs_without_origin_may() -> None:
    assert refusal_of("POST", Headers({"host": "localhost:23300", "origin": "http://localhost:23300"})) is None
    assert refusal_of("POST", Headers({"host": "localhost:23300"})) is None
    for site in ("same-origin", "none"):
        assert refusal_of("POST", Headers({"host": "localhost:23300", "sec-fetch-site": site})) is None


@pytest.mark.parametrize(
    "host", ["localhost.:1", "127.0.0.1.", "127.1", "[::ffff:127.0.0.1]", "localhost.evil.example"]
)
def test_what_only_resembles_our_name_is_not_ours(host: str) -> None:
    assert refusal_of("GET", Headers({"host": host})) is not None


def test_the_dns_is_asked_once_for_our_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request under any other name would wait for it, and all others with it."""
    asked: list[str] = []
    guard._names_here.cache_clear()

    def getfqdn() -> str:
        asked.append("fqdn")
        return "lab.example"

    monkeypatch.setattr("socket.getfqdn", getfqdn)
    for host in ("evil.example", "lab.example:23300", "192.0.2.1", "LAB.example"):
        assert (refusal_of("GET", Headers({"host": host}), frozenset()) is None) == (host != "evil.example")
    assert asked == ["fqdn"]
    guard._names_here.cache_clear()

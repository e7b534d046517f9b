"""Whatever a store holds becomes valid JSON."""

from __future__ import annotations

import json
import math

from runicornfs.api.requests import answer


def test_numbers_that_json_does_not_have_become_null() -> None:
    body = answer({"loss": math.nan, "all": [math.inf, -math.inf, 1.5]}).body
    assert json.loads(bytes(body), parse_constant=lambda word: 1 / 0) == {"loss": None, "all": [None, None, 1.5]}


def test_names_that_are_no_unicode_go_out_with_escapes() -> None:
    assert answer({"name": "odd\udcff"}).body == b'{"name": "odd\\udcff"}'

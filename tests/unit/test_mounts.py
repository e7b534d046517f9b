"""What counts as trouble in the log of a mounted daemon."""

from __future__ import annotations

import pytest

from tests.mounts import TROUBLE


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-22 22:11:02,123 WARNING runicornfs.sync: model/m/v1/manifest.json is no JSON",
        "2026-11-22 22:11:02,123 ERROR runicornfs.mount: read failed",
        "Traceback (most recent call last):",
        "/usr/lib/python3/x.py:1: ResourceWarning: unclosed file <_io.FileIO name=5>",
        "warning: model/m/v1/manifest.json is no JSON",
        "Fatal Python error: Aborted",
    ],
)
def test_this_is_trouble(line: str) -> None:
    assert TROUBLE.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "control API on http://127.0.0.1:40001",
        "synced 66 metadata files (38 kB) in 0.2 s",
        "2026-11-22 22:11:02,123 INFO runicornfs.sync: applied",
    ],
)
def test_this_is_not(line: str) -> None:
    assert not TROUBLE.search(line)

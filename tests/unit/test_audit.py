"""`scripts/audit`: what could not be looked up is never called sound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

VERDICT = Path(__file__).parents[2] / "scripts" / "audit_verdict.py"
SOUND = {"name": "anyio", "version": "4.16.0", "vulns": []}
BROKEN = {"name": "idna", "version": "3.6", "vulns": [{"id": "PYSEC-2024-60", "fix_versions": ["3.7"]}]}
SKIPPED = {"name": "attrs", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([SOUND], 0, "no vulnerability is known of the 1 packages"),
        ([SOUND, BROKEN], 1, "idna 3.6: PYSEC-2024-60, fixed in 3.7"),
        ([SOUND, SKIPPED], 75, "NOT AUDITED: 1 of 2 packages"),
        ([SKIPPED, BROKEN], 1, "NOT AUDITED: 1 of 2 packages"),
        ([], 75, ""),
    ],
)
def test_the_verdict(packages: list[object], status: int, said: str) -> None:
    verdict = subprocess.run(
        [sys.executable, VERDICT], input=json.dumps({"dependencies": packages}), capture_output=True, text=True
    )
    assert verdict.returncode == status
    assert said in verdict.stdout + verdict.stderr


@pytest.mark.parametrize("output", ["", "{}", "[]", "Traceback"])
def test_no_answer_is_no_verdict(output: str) -> None:
    verdict = subprocess.run([sys.executable, VERDICT], input=output, capture_output=True, text=True)
    assert verdict.returncode == 75
    assert "NOT AUDITED" in verdict.stderr

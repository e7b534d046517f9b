"""The short form of `scripts/soak`: everything at once, for less than a minute, with the same invariants."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.soaking.report import markdown
from scripts.soaking.soak import Plan, Soak
from tests.mounts import require_fuse

LOAD_MINUTES = 0.5  # about as long again goes to the beginning, the last checkpoint and the end


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_readers_changes_faults_and_restarts_at_once_break_no_invariant(tmp_path: Path) -> None:
    require_fuse()
    result = Soak(tmp_path, seed=1, plan=Plan.of(LOAD_MINUTES)).run()
    timeline = (tmp_path / "timeline").read_text()[-5000:]
    assert result.violation is None, f"{result.violation}\n{timeline}"
    assert result.passed, "it ended without having looked at anything"
    assert "no violation" in markdown(result)

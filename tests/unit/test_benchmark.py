"""The benchmark's arithmetic, and which workloads there are. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmark import report
from scripts.benchmark.measuring import Bar, Outcome, Series, percentile

TOP = Path(__file__).parents[2]

# What each workload that has a bar is called.
EXPECTED = {
    "cold-loopback": "cold sequential read of 1 GiB",
    "cold-50ms": "cold sequential read of 256 MiB",
    "cold-100mbit": "cold sequential read of 64 MiB",
    "first-byte": "time to first byte",
    "warm-read": "warm read of 1 GiB",
    "warm-random": "warm random 4 KiB reads",
    "walk-loopback": "20,000 files",
    "walk-50ms": "the same (50 ms)",
    "loads": "`torch.load`",
    "parts": "Parquet column",
    "first-sync": "200 artifacts",
    "sync-again": "nothing new / with one new version",
    "large-sync": "1 GB of metadata",
    "million": "1,000,000 files",
    "latency": "while a transfer runs",
    "download": "1,000 files of 100 kB",
    "readers": "8 readers",
}


def test_a_series_has_its_median_and_its_ends() -> None:
    reached = Series.of(3, 1, 100, 2)
    assert (reached.median, reached.low, reached.high) == (2.5, 1, 100)


def test_a_series_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Series(())


def test_a_ratio_is_taken_within_each_round() -> None:
    """The machine was twice as fast in the second round: the ratio of both is the same."""
    assert Series.of(30, 60).over(Series.of(10, 20)) == Series.of(3, 3)


def test_with_fewer_rounds_of_one_the_ratio_is_to_its_median() -> None:
    assert Series.of(10, 20, 30).over(Series.of(10)) == Series.of(1, 2, 3)
    assert Series.of(30).over(Series.of(10, 15, 30)) == Series.of(3, 2, 1)


def test_seconds_become_a_rate() -> None:
    assert Series.of(2, 4).inverse(100) == Series.of(50, 25)


@pytest.mark.parametrize(
    ("reached", "at_least", "met"),
    [(1.3, True, True), (1.29, True, False), (1.3, False, True), (1.31, False, False)],
)
def test_a_bar_is_met_where_the_median_reaches_it(reached: float, at_least: bool, met: bool) -> None:
    assert Bar("×", Series.of(0, reached, 99), 1.3, at_least).met is met


def test_a_bar_says_by_which_factor_it_is_missed() -> None:
    assert Bar("× sshfs", Series.of(0.5), 2).missed_by == 4
    assert Bar("s", Series.of(3), 2, at_least=False).missed_by == 1.5
    assert Bar("calls", Series.of(3), 0, at_least=False).missed_by == float("inf")


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1000, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [500, 990, 1000]
    assert percentile([7.0], 0.5) == 7


def row(name: str, outcome: Outcome | None, failure: str = "") -> report.Row:
    return report.Row(name, f"what {name} is", "loopback", False, "2026-11-25", 1.0, outcome, failure)


def test_the_report_has_numbers_bars_failures_and_the_machine() -> None:
    outcome = Outcome()
    ours = outcome.add("runicornfs", Series.of(390, 400, 500), "MB/s")
    outcome.at_least(1.3, "× sshfs", ours.over(Series.of(300, 200, 200)))
    outcome.at_least(10, "× rclone", ours.over(Series.of(100)))
    rows = [row("fast", outcome), row("broken", None, "it did not mount")]
    text = report.markdown(rows, {"kernel": "Linux 6"}, ["fast", "broken", "left out"])
    assert "runicornfs: 400 (390–500) MB/s" in text
    assert "2.00 (1.30–2.50) × sshfs; bar ≥ 1.3: met" in text
    assert "4.00 (3.90–5.00) × rclone; bar ≥ 10: **missed** by a factor of 2.50" in text
    assert "1 of 2 bars are met" in text
    assert "Not measured here: `left out`." in text
    assert "failed: it did not mount" in text
    assert "| kernel | Linux 6 |" in text


def test_the_json_has_every_round(tmp_path: Path) -> None:
    outcome = Outcome()
    outcome.at_most(3, "s", outcome.add("runicornfs", Series.of(1, 2, 3), "s"))
    report.save(tmp_path / "json", [row("sync", outcome)], {})
    (found,) = json.loads((tmp_path / "json").read_text())["rows"]
    assert found["outcome"]["measured"] == [{"who": "runicornfs", "reached": {"values": [1, 2, 3]}, "unit": "s"}]
    assert found["outcome"]["bars"][0]["met"] is True


def test_a_later_run_replaces_the_rows_that_it_measured(tmp_path: Path) -> None:
    """The whole takes long, so it may be measured in pieces; each row is of one run."""
    first, later = Outcome(notes=["first"]), Outcome(notes=["later"])
    report.save(tmp_path / "json", [row("sync", first), row("walk", first), row("gone", first)], {})
    rows = report.merged(
        report.load(tmp_path / "json"), [row("walk", later), row("read", later)], ["read", "sync", "walk"]
    )
    assert rows == [row("read", later), row("sync", first), row("walk", later)]
    assert report.load(tmp_path / "none") == []


def test_the_list_names_every_workload_that_has_a_bar() -> None:
    command = [sys.executable, "-m", "scripts.benchmark", "--list"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=50, check=True)
    listed = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert {name: listed[name] for name in EXPECTED if EXPECTED[name] not in listed[name]} == {}
    assert set(listed) - set(EXPECTED) == {"lines"}  # the lines themselves, which have no bar

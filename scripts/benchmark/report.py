"""What a run came to: as lines while it runs, as Markdown and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from scripts.benchmark.measuring import Bar, Measured, Outcome, Series

HEAD = """\
# Benchmarks

Written by `scripts/bench --write`: every workload against its peers, on one machine, one store and one SSH server, side
by side in one run. A number is the median, with the least and the most of its rounds in parentheses. A ratio is taken
in each round, between what was measured in that round; bars are judged by its median. The server lies on the same
machine, so both ends of every transfer share its cores; delay and bandwidth limit come from a relay
(`tests/relay.py`), whose own limits are the first row. Peers run with their defaults: `sshfs`, `rclone mount
--vfs-cache-mode full`, `ssh HOST cat FILE`, and Runicorn 0.4.1's client. Why a bar is missed:
[benchmarks-missed.md](benchmarks-missed.md).
"""


@dataclass(frozen=True)
class Row:
    """One workload and what it came to; `failure` says why there is no outcome. `day` is when it was measured."""

    name: str
    title: str
    line: str
    quick: bool
    day: str
    seconds: float
    outcome: Outcome | None
    failure: str = ""


_ROWS = TypeAdapter(list[Row])


def number(value: float) -> str:
    """Three digits are what a measurement is worth."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def series(reached: Series) -> str:
    """`443 (430–451)`; without the parentheses where there was one round."""
    if len(reached.values) == 1:
        return number(reached.median)
    return f"{number(reached.median)} ({number(reached.low)}–{number(reached.high)})"


def measured(line: Measured) -> str:
    return f"{line.who}: {series(line.reached)} {line.unit}"


def judged(bar: Bar) -> str:
    """`1.62 (1.5–1.7) × sshfs, bar ≥ 1.3: met`."""
    sign = "≥" if bar.at_least else "≤"
    verdict = "met" if bar.met else f"**missed** by a factor of {number(bar.missed_by)}"
    return f"{series(bar.reached)} {bar.what}; bar {sign} {bar.limit:g}: {verdict}"


def text(row: Row) -> str:
    """For the terminal."""
    lines = [f"\n{row.name}: {row.title} ({row.line}), {row.seconds:.0f} s"]
    if row.outcome is None:
        return "\n".join([*lines, f"  failed: {row.failure}"])
    lines += [f"  {measured(line)}" for line in row.outcome.measured]
    lines += [f"  → {judged(one).replace('**', '')}" for one in row.outcome.bars]
    lines += [f"  ({note})" for note in row.outcome.notes]
    return "\n".join(lines)


def markdown(rows: list[Row], machine: Mapping[str, str], order: Sequence[str]) -> str:
    """order: the names of all workloads; those without a row are named, too."""
    parts = [HEAD]
    named = {row.name for row in rows}
    if missing := [f"`{name}`" for name in order if name not in named]:
        parts.append(f"Not measured here: {', '.join(missing)}.\n")
    if any(row.quick for row in rows):
        parts.append("**With `--quick`: smaller sizes and fewer rounds. Not to be quoted.**\n")
    bars = [bar for row in rows if row.outcome is not None for bar in row.outcome.bars]
    parts.append(f"{sum(bar.met for bar in bars)} of {len(bars)} bars are met.\n")
    parts.append("| workload | line | measured | bars |\n|---|---|---|---|")
    parts += [_markdown_row(row) for row in rows]
    notes = [f"- {row.name}: {'. '.join(row.outcome.notes)}." for row in rows if row.outcome and row.outcome.notes]
    if notes:
        parts.append("\n## Notes\n\n" + "\n".join(notes))
    days = " and ".join(sorted({row.day for row in rows}))
    parts.append(f"\n## The machine\n\nMeasured on {days}.\n\n| | |\n|---|---|")
    parts += [f"| {what} | {value} |" for what, value in machine.items()]
    return "\n".join(parts) + "\n"


def _markdown_row(row: Row) -> str:
    what = f"{row.title} (`{row.name}`)"
    if row.outcome is None:
        return f"| {what} | {row.line} | failed: {row.failure.replace('|', '/')} | |"
    lines = "<br>".join(measured(line) for line in row.outcome.measured)
    return f"| {what} | {row.line} | {lines} | {'<br>'.join(judged(one) for one in row.outcome.bars)} |"


def today() -> str:
    return time.strftime("%Y-%m-%d")


def save(path: Path, rows: list[Row], machine: Mapping[str, str]) -> None:
    """As JSON: every round of everything."""
    found: list[dict[str, Any]] = _ROWS.dump_python(rows, mode="json")
    for entry, row in zip(found, rows, strict=True):
        if row.outcome is None:
            continue
        for about, one in zip(entry["outcome"]["bars"], row.outcome.bars, strict=True):
            about["met"] = one.met
    path.write_text(json.dumps({"machine": dict(machine), "rows": found}, indent=1, ensure_ascii=False), "utf-8")


def load(path: Path) -> list[Row]:
    """The rows of a file that `save` wrote; none where there is no file."""
    return _ROWS.validate_python(json.loads(path.read_text("utf-8"))["rows"]) if path.exists() else []


def merged(earlier: Iterable[Row], now: Iterable[Row], order: Sequence[str]) -> list[Row]:
    """One row for each workload, the newer one, in the order of the report."""
    rows = {row.name: row for row in (*earlier, *now)}
    return [rows[name] for name in order if name in rows]

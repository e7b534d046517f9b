"""Draws what `scripts/scale.py curve` has measured, as small diagrams with logarithmic axes in one SVG.

.venv/bin/python scripts/scale_plot.py docs/scale.json docs/scale.svg
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, MARGIN_LEFT, MARGIN_TOP, MARGIN_BOTTOM = 250, 170, 52, 30, 32  # pixels of one diagram
COLUMNS = 4


@dataclass(frozen=True)
class Curve:
    """One diagram. `scale`: what a measured value is multiplied with to be in `unit`."""

    title: str
    part: str
    key: str
    unit: str
    scale: float


CURVES = [
    Curve("mount from the cache", "catalogs", "mount", "s", 1),
    Curve("first ls -l of a folder", "catalogs", "ls", "ms", 1e3),
    Curve("lookup of one file", "catalogs", "lookup", "µs", 1e6),
    Curve("resident memory", "catalogs", "most_resident", "MB", 1e-6),
    Curve("sync: take in and apply", "catalogs", "synced", "s", 1),
    Curve("open the cache", "caches", "start", "ms", 1e3),
    Curve("evict half of the cache", "caches", "evict", "ms", 1e3),
    Curve("clear the other half", "caches", "clear", "ms", 1e3),
]


def spread_of(measured: dict[str, Any], key: str) -> tuple[float, float, float]:
    """Least, median, largest."""
    if key == "synced":
        whole = float(measured["stage"] + measured["apply"])
        return whole, whole, whole
    return float(measured[key]["min"]), float(measured[key]["median"]), float(measured[key]["max"])


def power(exponent: int) -> str:
    return f'10<tspan dy="-4" font-size="8">{exponent}</tspan>'


def diagram(curve: Curve, measured: list[dict[str, Any]], left: float, top: float) -> list[str]:
    points = [
        (math.log10(entry["files"]), *(v * curve.scale for v in spread_of(entry, curve.key))) for entry in measured
    ]
    low = math.floor(min(math.log10(least) for _, least, _, _ in points))
    high = max(math.ceil(max(math.log10(largest) for *_, largest in points)), low + 1)
    inner_width, inner_height = WIDTH - MARGIN_LEFT - 12, HEIGHT - MARGIN_TOP - MARGIN_BOTTOM

    def x(decade: float) -> float:
        return left + MARGIN_LEFT + (decade - 3) / 3 * inner_width

    def y(value: float) -> float:
        return top + MARGIN_TOP + (high - math.log10(value)) / (high - low) * inner_height

    bottom = y(10**low)
    drawn = [f'<text x="{x(3):.1f}" y="{top + 16}" font-weight="bold">{curve.title} ({curve.unit})</text>']
    for decade in range(low, high + 1):
        at = y(10**decade)
        drawn.append(f'<path class="grid" d="M{x(3):.1f} {at:.1f}H{x(6):.1f}"/>')
        drawn.append(f'<text x="{x(3) - 6:.1f}" y="{at + 4:.1f}" text-anchor="end">{10**decade:g}</text>')
    for decade in range(3, 7):
        drawn.append(f'<path class="grid" d="M{x(decade):.1f} {y(10**high):.1f}V{bottom:.1f}"/>')
        drawn.append(f'<text x="{x(decade):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{power(decade)}</text>')
    line = " ".join(f"{x(decade):.1f},{y(median):.1f}" for decade, _, median, _ in points)
    drawn.append(f'<polyline points="{line}"/>')
    for files, least, median, largest in points:
        drawn.append(f'<path class="spread" d="M{x(files):.1f} {y(least):.1f}V{y(largest):.1f}"/>')
        drawn.append(f'<circle cx="{x(files):.1f}" cy="{y(median):.1f}" r="2.5"/>')
    return drawn


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    measured = json.loads(source.read_text())["curve"]
    rows = -(-len(CURVES) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 16
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        '    font-family="sans-serif" font-size="11">',
        "<style>.grid{stroke:#ddd} .spread,polyline{stroke:#1f5fa8} polyline{fill:none} circle{fill:#1f5fa8}</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, curve in enumerate(CURVES):
        row, column = divmod(number, COLUMNS)
        drawn += diagram(curve, measured[curve.part], column * WIDTH, row * HEIGHT)
    drawn.append(f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">files</text></svg>')
    target.write_text("\n".join(drawn) + "\n")


if __name__ == "__main__":
    main()

"""The arithmetic of the report: what was measured, how two of them compare, and whether a bar is met.

Machines are noisy, so nothing is reported without its least and its most, and a ratio is only taken between what was
measured in the same round of the same run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Series:
    """What one contestant reached in each round. ValueError where there is none."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("nothing was measured")

    @classmethod
    def of(cls, *values: float) -> Series:
        return cls(values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def over(self, other: Series) -> Series:
        """The ratio in each round. Where one has fewer rounds than the other, all are compared with its median."""
        if len(self.values) == len(other.values):
            return Series(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))
        if len(other.values) < len(self.values):
            return self.scaled(1 / other.median)
        return Series(tuple(self.median / value for value in other.values))

    def scaled(self, factor: float) -> Series:
        return Series(tuple(value * factor for value in self.values))

    def inverse(self, numerator: float = 1.0) -> Series:
        """Seconds become a rate: `numerator` bytes, files or calls each."""
        return Series(tuple(numerator / value for value in self.values))


@dataclass(frozen=True)
class Bar:
    """What has to be reached. `what` reads after the number: `1.6 × sshfs`, `0.4 s`."""

    what: str
    reached: Series
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """By the median."""
        return self.reached.median >= self.limit if self.at_least else self.reached.median <= self.limit

    @property
    def missed_by(self) -> float:
        """The factor that is missing; at most 1 where it is met, infinite where nothing may be left and something is"""
        ours, limit = (self.limit, self.reached.median) if self.at_least else (self.reached.median, self.limit)
        if limit:
            return ours / limit
        return float("inf") if ours else 1.0


@dataclass(frozen=True)
class Measured:
    """One line of a report: who, what was reached, in which unit."""

    who: str
    reached: Series
    unit: str


@dataclass
class Outcome:
    """What one workload came to. `notes` are sentences that the reader of the numbers needs."""

    measured: list[Measured] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, who: str, reached: Series, unit: str) -> Series:
        self.measured.append(Measured(who, reached, unit))
        return reached

    def note(self, sentence: str) -> None:
        """What is said once is enough."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def at_least(self, limit: float, what: str, reached: Series) -> None:
        self.bars.append(Bar(what, reached, limit))

    def at_most(self, limit: float, what: str, reached: Series) -> None:
        self.bars.append(Bar(what, reached, limit, at_least=False))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below or at which `share` (0 to 1) of all values lie: one of them, nothing between two."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]

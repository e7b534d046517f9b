"""How long the server may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `connect` bounds each step of connecting, `read` every wait for progress afterwards."""

    connect: float = 10.0
    read: float = 15.0

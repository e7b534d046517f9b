"""What all workloads of one run share: a folder, a server, lines before it, stores on it.

Everything is made when it is first asked for, kept until the end of the run, and taken away by the `ExitStack` that
`Bench` is given. One thread uses it.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from scripts.benchmark import machine
from scripts.benchmark.measuring import Outcome, Series
from tests.relay import Relay

MIB = 1 << 20
MBIT = 1e6 / 8  # bytes a second
RTT_MS = 50.0


@dataclass(frozen=True)
class Line:
    """A way to the server: `port` leads there. Without `relay` it is the server's own port: loopback."""

    port: int
    rtt_ms: float = 0.0
    mbit: float = 0.0
    relay: Relay | None = None

    @property
    def bytes_per_s(self) -> float:
        return self.mbit * MBIT

    def received(self) -> int:
        """Bytes that have come from the server by now, of all connections: SSH's own are among them."""
        assert self.relay is not None, "nobody counts on loopback"
        return self.relay.stats().down


@dataclass(frozen=True)
class Workload:
    """One row of the report."""

    name: str
    title: str
    line: str
    measure: Callable[[Bench], Outcome]


class Bench:
    """quick: smaller sizes, one round."""

    def __init__(self, folder: Path, stack: ExitStack, quick: bool) -> None:
        self.quick = quick
        self.folder = folder
        self._stack = stack
        self._lines: dict[tuple[float, float], Line] = {}
        self._stores: dict[str, Path] = {}
        self._numbers = itertools.count()
        self.sshd = stack.enter_context(PrivateSshd(folder / "sshd"))

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def loopback(self) -> Line:
        return Line(self.sshd.port)

    def line(self, rtt_ms: float = RTT_MS, mbit: float = 0.0) -> Line:
        """A line with delay, and a limit in megabits a second unless that is 0."""
        key = (rtt_ms, mbit)
        if key not in self._lines:
            relay = self._stack.enter_context(Relay(self.sshd.port, rtt_ms=rtt_ms, mbit=mbit))
            self.sshd.trust(relay.port)
            self._lines[key] = Line(relay.port, rtt_ms, mbit, relay)
        return self._lines[key]

    def store(self, name: str, build: Callable[[StoreWriter], None]) -> Path:
        """The root of a store that `build` has written; workloads that name the same share it.

        All of it is in the server's memory, whatever was forgotten since: no contestant is the one that waits for the
        server's disk.
        """
        if name not in self._stores:
            root = self.folder / "stores" / name / "runicorn"
            root.mkdir(parents=True)
            build(StoreWriter(root))
            machine.settle()
            self._stores[name] = root
        machine.read_all(self._stores[name])
        return self._stores[name]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new folder, gone at the end."""
        path = self.folder / f"scratch-{next(self._numbers)}"
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path)


def alternate(rounds: int, contestants: Mapping[str, Callable[[], float]]) -> dict[str, Series]:
    """Each contestant once, then each again, …: what disturbs the machine for a while disturbs all of them."""
    reached: dict[str, list[float]] = {who: [] for who in contestants}
    for _ in range(rounds):
        for who, measure in contestants.items():
            machine.settle()
            reached[who].append(measure())
    return {who: Series(tuple(values)) for who, values in reached.items()}

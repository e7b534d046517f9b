"""One soak: makes the server, the line, the mounts and the actors, lets them do, checks, and takes everything away."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from runicornfs.demo.sshd import PrivateSshd
from scripts.soaking.callers import Actor, Downloads, Edits, Keepers, Syncs, Watcher, Writer
from scripts.soaking.daemons import Held, Slot
from scripts.soaking.faults import LineFaults, Restarts
from scripts.soaking.inspection import Inspector, left_behind
from scripts.soaking.ledger import Gate, Ledger, Violation
from scripts.soaking.readers import HANG_S, Reader
from scripts.soaking.store import KIB, MIB, SoakStore
from tests.mounts import login_options, source_of
from tests.relay import Relay

# All operations together end within this when nothing new begins: each of them has a bound of its own.
PAUSE_S = 2 * HANG_S
# A checkpoint takes some twenty seconds; each of its waits has a bound of its own.
CHECKPOINT_S = 600.0
SAY_EVERY_S = 60.0


@dataclass(frozen=True)
class Plan:
    """How much of everything. Times in seconds, sizes in bytes."""

    load_s: float  # until the last checkpoint
    checkpoint_s: float
    sizes: list[tuple[str, str, list[int]]]
    limit: int
    large: int
    readers: int
    fault_pause_s: float
    longest_fault_s: float
    restart_pause_s: float

    @classmethod
    def of(cls, minutes: float) -> Plan:
        if minutes <= 2:
            return cls(
                load_s=minutes * 60,
                checkpoint_s=minutes * 60,
                sizes=_store(small=40, middle=6, large=[16 * MIB]),
                limit=24 * MIB,
                large=2 * MIB,
                readers=3,
                fault_pause_s=3,
                longest_fault_s=3,
                restart_pause_s=8,
            )
        return cls(
            load_s=minutes * 60,
            checkpoint_s=min(300, minutes * 60 / 4),
            sizes=_store(small=250, middle=40, large=[64 * MIB, 64 * MIB, 16 * MIB, 16 * MIB, 16 * MIB]),
            limit=128 * MIB,
            large=8 * MIB,
            readers=5,
            fault_pause_s=20,
            longest_fault_s=20,
            restart_pause_s=40,
        )


def _store(small: int, middle: int, large: list[int]) -> list[tuple[str, str, list[int]]]:
    sizes = [
        ("dataset", "many files", [KIB * (1 + number % 64) for number in range(small)]),
        ("dataset", "middle", [MIB + 1234 * number for number in range(middle)]),
        ("config", "net", [0, 1, 700]),
        ("model", "net", [3 * MIB, 5000, 128 * KIB, 256 * KIB + 1]),
        ("custom", "Ünïcode 模型", [KIB, 2 * MIB]),
        *(("code", f"small {number}", [KIB, 40 * KIB]) for number in range(small // 20)),
        *(("dataset", f"pictures {number}", [MIB * middle // 7] * 3) for number in range(middle // 4)),
    ]
    return sizes + [("model", f"large {number}", [size, KIB]) for number, size in enumerate(large)]


@dataclass
class Result:
    """What a soak came to; times in seconds since its beginning."""

    seed: int
    seconds: float
    ledger: Ledger
    passed: dict[str, int]
    samples: dict[tuple[str, int], list[tuple[float, Held]]]
    at_rest: list[tuple[float, str, Held]]
    violation: Violation | None
    memory: list[str] = field(default_factory=list)


class Soak:
    """folder: where everything lies; it is the caller's."""

    def __init__(self, folder: Path, seed: int, plan: Plan) -> None:
        self._folder = folder
        self._seed = seed
        self._plan = plan
        self._ledger = Ledger(folder / "timeline")
        self._gate = Gate(self._ledger.stop)
        self._threads: list[threading.Thread] = []

    def run(self) -> Result:
        ledger = self._ledger
        passed: dict[str, int] = {}
        samples: dict[tuple[str, int], list[tuple[float, Held]]] = {}
        at_rest: list[tuple[float, str, Held]] = []
        memory: list[str] = []
        with ExitStack() as stack:
            try:
                inspector, watcher, slots = self._compose(stack)
                passed, samples, at_rest = inspector.passed, watcher.samples, inspector.at_rest
                self._load(inspector)
                if ledger.violation is None:
                    self._join()
                    memory = memory_of(samples)
                    self._end(slots, passed)
            except Violation as violation:
                ledger.fail(violation)
            except Exception as error:
                ledger.fail(Violation("the soak itself works", f"{type(error).__name__}: {error}"))
                ledger.note("soak", traceback.format_exc())
            finally:
                ledger.stop.set()
                self._gate.open()
        result = Result(
            self._seed, time.monotonic() - ledger.began, ledger, passed, samples, at_rest, ledger.violation, memory
        )
        ledger.close()
        return result

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")

    def _compose(self, stack: ExitStack) -> tuple[Inspector, Watcher, list[Slot]]:
        ledger, plan, gate = self._ledger, self._plan, self._gate
        store = SoakStore(self._folder / "server" / "runicorn", self._folder / "server" / "plain", ledger)
        store.fill(plan.sizes, 6, self._rng("store"))
        sshd = stack.enter_context(PrivateSshd(self._folder / "sshd"))
        relay = stack.enter_context(Relay(sshd.port, rtt_ms=4, mbit=400))
        sshd.trust(relay.port)
        source = source_of(sshd, store.root, relay.port)

        def slot(name: str, cache: str) -> Slot:
            options = [*login_options(sshd), "--cache-size", str(plan.limit), "--min-free", "0"]
            options += ["--cache-dir", str(self._folder / f"cache-{cache}")]
            made = Slot(name, cache, self._folder / name, source, options, ledger)
            stack.callback(made.close)
            made.start()
            return made

        slots = [slot("first", "shared"), slot("second", "shared"), slot("steady", "own")]
        stack.callback(self._join)
        pair, caches = slots[:2], {"shared": plan.limit, "own": plan.limit}
        downloads = self._folder / "downloads"
        watcher = Watcher("watcher", slots, store, ledger, gate, self._rng("watcher"), 1.0)
        syncs = Syncs("syncs", slots, store, ledger, gate, self._rng("syncs"), 3.0)
        actors: list[Actor] = [
            Writer(store, ledger, gate, self._rng("writer"), 1.0, plan.large),
            syncs,
            Edits("edits", slots, store, ledger, gate, self._rng("edits"), 3.0),
            Keepers("keepers", slots, store, ledger, gate, self._rng("keepers"), 3.0, limit=plan.limit),
            Downloads("downloads", slots, store, ledger, gate, self._rng("downloads"), 3.0, folder=downloads),
            LineFaults(relay, sshd, slots, ledger, gate, self._rng("line"), plan.fault_pause_s, plan.longest_fault_s),
            Restarts(pair, ledger, gate, self._rng("restarts"), plan.restart_pause_s),
            watcher,
        ]
        for one in slots:
            if not syncs.sync(one):
                raise Violation("a sync fails only for a reason", f"{one.name}: there was none, at the beginning")
        large = threading.Lock()
        for number in range(plan.readers):
            name = f"reader {number}"
            reader = Reader(name, slots, store, ledger, gate, self._rng(name), large)
            self._start(name, reader.run)
        for actor in actors:
            self._start(actor.name, actor.run)
        return Inspector(slots, store, syncs, ledger, caches), watcher, slots

    def _start(self, name: str, run: Callable[[], None]) -> None:
        def work() -> None:
            try:
                run()
            except Violation as violation:
                self._ledger.fail(violation)
            except Exception as error:
                self._ledger.note(name, traceback.format_exc())
                self._ledger.fail(Violation("the soak itself works", f"{name}: {type(error).__name__}: {error}"))

        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _join(self) -> None:
        self._ledger.stop.set()
        self._gate.open()
        for thread in self._threads:
            thread.join(PAUSE_S)

    def _load(self, inspector: Inspector) -> None:
        """The load, with a checkpoint now and then and one at the end."""
        ledger = self._ledger
        last = time.monotonic() + self._plan.load_s
        said = time.monotonic()
        while time.monotonic() < last and not ledger.stop.is_set():
            due = min(last, time.monotonic() + self._plan.checkpoint_s)
            while time.monotonic() < due and not ledger.stop.wait(0.5):
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    print(self._status(), flush=True)
            if not ledger.stop.is_set():
                self._checkpoint(inspector)

    def _checkpoint(self, inspector: Inspector) -> None:
        began = time.monotonic()
        if left := self._gate.shut(PAUSE_S):
            raise Violation("nothing hangs", f"{', '.join(left)} did not end within {PAUSE_S:.0f} s")
        if self._ledger.stop.is_set():
            return
        watchdog = threading.Timer(CHECKPOINT_S, inspector.abort)  # who waits for a mount gets no signal
        watchdog.start()
        try:
            inspector.inspect()
        finally:
            watchdog.cancel()
        self._ledger.took("checkpoint", time.monotonic() - began)
        self._gate.open()

    def _end(self, slots: list[Slot], passed: dict[str, int]) -> None:
        for slot in slots:
            slot.stop()
            if trouble := slot.new_trouble():
                raise Violation("a daemon's log has no trouble in it", f"{slot.name}: {trouble[0]}")
        if left := left_behind(slots, ["shared", "own"]):
            raise Violation("nothing is left behind", "; ".join(left[:5]))
        passed["at the end nothing is left: mounts, processes, files"] = 1

    def _status(self) -> str:
        counts = self._ledger.counts
        minutes = (time.monotonic() - self._ledger.began) / 60
        faults = sum(number for name, number in counts.items() if name.startswith("line:"))
        restarts = sum(number for name, number in counts.items() if name.startswith("mounts "))
        read = counts["bytes read and compared"] / 2**30
        return (
            f"{minutes:5.1f} min: {read:.1f} GiB compared, {counts['sync']} syncs, {counts['download']} downloads,"
            f" {faults} line faults, {restarts} restarts, {counts['checkpoint']} checkpoints"
        )


# The steady mount's resident memory may be this much larger in the last quarter than in the second (medians).
GROWTH = 1.15
GROWTH_BYTES = 24 * MIB
# What a daemon may hold at any moment: 80 MB at rest, 64 MiB of transfers, a sync.
MOST_RESIDENT = 450 * MIB


def memory_of(samples: dict[tuple[str, int], list[tuple[float, Held]]]) -> list[str]:
    """Sentences on the memory of each process. Raises Violation where it is not flat."""
    said = []
    for (name, pid), curve in samples.items():
        resident = [held.resident for _, held in curve]
        if max(resident, default=0) > MOST_RESIDENT:
            raise Violation("memory is flat", f"{name} (process {pid}) had {max(resident) >> 20} MiB")
        if len(resident) < 120:
            continue  # too short a life for a trend
        quarter = len(resident) // 4
        early, late = _median(resident[quarter : 2 * quarter]), _median(resident[-quarter:])
        said.append(f"{name}: {early >> 20} MiB in the second quarter, {late >> 20} MiB in the last (medians)")
        if late > early * GROWTH and late > early + GROWTH_BYTES:
            raise Violation("memory is flat", said[-1])
    return said


def _median(values: list[int]) -> int:
    return sorted(values)[len(values) // 2]

"""What goes wrong on purpose: the line, the server, and the daemons themselves. Every fault is undone by its actor."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import httpx

from runicornfs.demo.sshd import PrivateSshd
from scripts.soaking.callers import Actor
from scripts.soaking.daemons import Refusal, Slot
from scripts.soaking.judging import CUT, HANDOVER, LINE
from scripts.soaking.ledger import Gate, Ledger, Violation
from scripts.soaking.store import MIB
from tests.relay import Relay

# A server that is back is noticed after half a minute at most; the rest is for a busy machine.
BACK_S = 90.0
POLL_S = 0.2
# How long another process may take to keep the cache and to be connected.
HANDOVER_S = 60.0


def is_connected(slot: Slot) -> bool:
    try:
        return bool(slot.ask("GET", "/api/remote/status", timeout_s=30)["connected"])
    except (Refusal, httpx.TransportError):
        return False


def wait_for_line(slots: Sequence[Slot], ledger: Ledger) -> None:
    """Until every mount that runs says that it is connected. Raises Violation."""
    deadline = time.monotonic() + BACK_S
    for slot in slots:
        while not ledger.stop.is_set() and slot.running and not is_connected(slot):
            if ledger.troubled(slot.scope, time.monotonic()):
                deadline = max(deadline, time.monotonic() + BACK_S)  # it is being started again
            if time.monotonic() > deadline:
                raise Violation("the connection comes back by itself", f"{slot.name} has none after {BACK_S:.0f} s")
            time.sleep(POLL_S)


class LineFaults(Actor):
    """The line, and the server behind it. It alone steers the relay and owns the server."""

    def __init__(
        self,
        relay: Relay,
        sshd: PrivateSshd,
        slots: Sequence[Slot],
        ledger: Ledger,
        gate: Gate,
        rng: random.Random,
        pause_s: float,
        longest_s: float,
    ) -> None:
        super().__init__("line", ledger, gate, rng, pause_s)
        self._relay = relay
        self._sshd = sshd
        self._slots = slots
        self._longest_s = longest_s

    def turn(self) -> None:
        faults: list[tuple[str, Callable[[], None]]] = [
            (CUT, self._drop),
            (CUT, self._drop_after),
            (CUT, self._sessions_end),
            (LINE, self._stall),
            (LINE, self._refuse),
            (LINE, self._trickle),
            (LINE, self._server_restarts),
        ]
        scope, fault = self.rng.choice(faults)
        name = fault.__name__.strip("_").replace("_", " ")
        self.ledger.note(self.name, name)
        with self.ledger.trouble(scope):
            fault()
            wait_for_line(self._slots, self.ledger)
        self.ledger.note(self.name, f"{name}: over")
        self.ledger.count(f"line: {name}")

    def _last(self) -> None:
        self.ledger.stop.wait(self.rng.uniform(0.5, self._longest_s))

    def _drop(self) -> None:
        self._relay.drop()

    def _drop_after(self) -> None:
        self._relay.drop_after(self.rng.randrange(1, 4 * MIB))
        self.ledger.stop.wait(2)
        self._relay.drop_after(1 << 60)  # where nothing was read, nothing was cut

    def _sessions_end(self) -> None:
        self._sshd.drop_sessions()

    def _stall(self) -> None:
        self._relay.stall()
        self._last()
        self._relay.resume()

    def _refuse(self) -> None:
        self._relay.refuse()
        self._last()
        self._relay.accept()

    def _trickle(self) -> None:
        self._relay.trickle(self.rng.choice([8_000, 64_000, 500_000]))
        self._last()
        self._relay.trickle(0)

    def _server_restarts(self) -> None:
        if self.rng.random() < 0.5:
            self._sshd.kill()
        else:
            self._sshd.stop()
        self._last()
        self._sshd.start()


class Restarts(Actor):
    """Ends and kills mounts, and starts them again on the same folder."""

    def __init__(self, slots: Sequence[Slot], ledger: Ledger, gate: Gate, rng: random.Random, pause_s: float) -> None:
        super().__init__("restarts", ledger, gate, rng, pause_s)
        self._slots = slots

    def turn(self) -> None:
        slot = self.rng.choice(self._slots)
        gently = self.rng.random() < 0.4
        how = "ended" if gently else "killed"
        self.ledger.note(self.name, f"{slot.name} is {how}")
        with ExitStack() as stack:
            stack.enter_context(self.ledger.trouble(HANDOVER))
            with self.ledger.trouble(slot.scope):
                if gently:
                    slot.stop()
                else:
                    slot.kill()
                self.ledger.stop.wait(self.rng.choice([0.0, 1.0, 5.0]))
                slot.start()
            self.ledger.note(self.name, f"{slot.name} is back")
            wait_for_line(self._slots, self.ledger)
        self.ledger.count(f"mounts {how}")

"""Who reads: processes that read through the mounts, and that are killed now and then."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from scripts.soaking.daemons import Slot
from scripts.soaking.judging import judge
from scripts.soaking.ledger import Gate, Ledger, Violation
from scripts.soaking.store import MIB, SoakStore, Target

# The longest that one call may take without a byte: the read time-out, a reconnect, another owner, a busy machine.
HANG_S = 120.0
KINDS = ["read_all"] * 4 + ["read_random"] * 3 + ["read_mapped"] * 3 + ["read_part"] * 3 + ["walk", "stat_often"]
KILLED = 0.05  # share of the reads whose reader is killed
DIE_S = 30.0  # what a killed process may take to be gone
# One reader at a time reads files larger than this, so that what is open always leaves room in the cache.
LARGE = 8 * MIB


class ReaderProcess:
    """One process, made again when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def begin(self, job: dict[str, Any]) -> None:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._rest = b""
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-m", "scripts.soaking.reading"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, within_s: float) -> dict[str, Any] | None:
        """Its next line, None if there is none in that time; `{"died": returncode}` where it has died."""
        assert self._process is not None
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + within_s
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                return None
            data = os.read(fd, 65536)
            if not data:
                return {"died": self._process.wait(DIE_S)}
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """Raises subprocess.TimeoutExpired where it does not die."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DIE_S)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


class Reader:
    """An actor."""

    def __init__(
        self,
        name: str,
        slots: Sequence[Slot],
        store: SoakStore,
        ledger: Ledger,
        gate: Gate,
        rng: random.Random,
        large: threading.Lock,
    ) -> None:
        self.name = name
        self._slots = slots
        self._store = store
        self._ledger = ledger
        self._gate = gate
        self._rng = rng
        self._large = large
        self._process = ReaderProcess()

    def run(self) -> None:
        try:
            while not self._ledger.stop.is_set():
                with self._gate.passed(self.name):
                    if not self._ledger.stop.is_set():
                        self._turn()
                self._ledger.stop.wait(self._rng.random() * 0.2)
        finally:
            self._process.end()

    def _turn(self) -> None:
        has_large = self._large.acquire(blocking=False)
        try:
            target = self._store.target(self._rng, 1 << 40 if has_large else LARGE)
            self._read(self._rng.choice(self._slots), self._rng.choice(KINDS), target)
        finally:
            if has_large:
                self._large.release()

    def _read(self, slot: Slot, kind: str, target: Target) -> None:
        start = time.monotonic()
        path = target.path
        if kind == "walk":
            path = self._rng.choice(["artifacts", "soak", os.path.dirname(path)])
        what = f"{kind} {slot.name} {path}"
        job = {"kind": kind, "path": str(slot.mountpoint / path), "plain": target.plain}
        self._process.begin(job | {"growing": target.growing, "seed": self._rng.getrandbits(32)})
        kill_at = start + self._rng.random() * 2 if self._rng.random() < KILLED else None
        answer = self._wait(slot, what, kill_at)
        if answer is None:
            self._ledger.note(self.name, f"{what}: killed")
            self._ledger.count("readers killed")
            return
        taken = time.monotonic() - start
        settled = kind != "walk" and self._store.settled(slot.cache, target.version, start)
        if "died" in answer:
            self._ledger.note(self.name, f"{what}: died with {answer['died']}")
            judge(self._ledger, slot, what, answer["died"], start, settled)
        elif answer["wrong"]:
            raise Violation("no byte is ever wrong", f"{what}: {answer['wrong']}")
        elif answer["errno"]:
            self._ledger.note(self.name, f"{what}: errno {answer['errno']} after {taken:.1f} s")
            judge(self._ledger, slot, what, answer["errno"], start, settled)
        else:
            self._ledger.note(self.name, f"{what}: {answer['bytes']} bytes, {taken:.2f} s")
            self._ledger.took(kind, taken)
        self._ledger.count("calls of readers", answer.get("calls", 0))
        self._ledger.count("bytes read and compared", answer.get("bytes", 0))

    def _wait(self, slot: Slot, what: str, kill_at: float | None) -> dict[str, Any] | None:
        """The last answer; None where the reader was killed. Raises Violation where it hangs."""
        while True:
            patience = HANG_S if kill_at is None else max(0.0, kill_at - time.monotonic())
            answer = self._process.answer(patience)
            if answer is not None and "at" not in answer:
                return answer
            if answer is None and kill_at is None:
                slot.abort()
                raise Violation("nothing hangs", f"{what}: no byte for {HANG_S:.0f} s, see the log")
            if answer is None:
                try:
                    self._process.kill()
                except subprocess.TimeoutExpired:
                    slot.abort()
                    raise Violation("a reader that is killed dies", what) from None
                return None

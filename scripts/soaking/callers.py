"""Who changes the store and who asks the daemons: the writer on the server, and people with the API."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from scripts.soaking.daemons import CALL_S, Held, Refusal, Slot
from scripts.soaking.judging import CODES_AWAY, CODES_LEAVING, CUT, HANDOVER, LINE
from scripts.soaking.ledger import Gate, Ledger, Violation
from scripts.soaking.store import DELETED, GONE, KIB, MIB, READY, Artifact, SoakStore, Version

# The longest that a sync, a download or a check may take while nothing gets worse.
TASK_S = 240.0
POLL_S = 0.1
ANSWER_S = 30.0  # status and metrics answer whatever the line does, on a machine that is very busy
WATCH_S = 1.0
# Versions above this many are deleted more than saved, so that an hour's store stays of a size.
VERSIONS = 120
SAVED_BYTES = 8 * MIB  # of the largest file of a new version
PINNED_SHARE = 16  # of the cache's limit, for one version
NOTHING: dict[str, Any] = {}
DOWNLOADED = 24 * MIB  # a version that is larger is read and not downloaded: it would fill the cache


class Actor:
    """Does something again and again, with pauses up to `pause_s` seconds."""

    def __init__(self, name: str, ledger: Ledger, gate: Gate, rng: random.Random, pause_s: float) -> None:
        self.name = name
        self.ledger = ledger
        self.rng = rng
        self._gate = gate
        self._pause_s = pause_s

    def run(self) -> None:
        while not self.ledger.stop.wait(self.rng.random() * self._pause_s):
            with self._gate.passed(self.name):
                if not self.ledger.stop.is_set():
                    self.turn()

    def turn(self) -> None:
        raise NotImplementedError


class Writer(Actor):
    """The SDK and the viewer on the server."""

    def __init__(
        self, store: SoakStore, ledger: Ledger, gate: Gate, rng: random.Random, pause_s: float, large: int
    ) -> None:
        super().__init__("writer", ledger, gate, rng, pause_s)
        self._store = store
        self._large = large

    def turn(self) -> None:
        if self.rng.random() < 0.4:
            run = self.rng.choice(self._store.runs)
            self._store.grow(run, self.rng)
            self.ledger.count("logs that grew")
            return
        artifact = self.rng.choice(self._store.artifacts)
        with self._store.edited(artifact) as mine:
            if mine:
                self._edit(artifact)

    def _edit(self, artifact: Artifact) -> None:
        ready, deleted = artifact.in_state(READY), artifact.in_state(DELETED)
        total = sum(len(other.in_state(READY)) for other in self._store.artifacts)
        what = self.rng.choice(["save", "save", "save", "soft", "restore", "alias", "permanent"])
        if what == "save" and total < VERSIONS:
            sizes = [self.rng.choice([0, 1, KIB, 60 * KIB, 300 * KIB]) for _ in range(self.rng.randrange(1, 12))]
            if self.rng.random() < 0.2:
                sizes.append(self.rng.randrange(self._large))
            self._store.save(artifact, sizes, self.rng)
        elif what == "soft" and len(ready) > 1:
            self._store.delete_softly(artifact, self.rng.choice(ready))
        elif what == "restore" and deleted:
            self._store.restore(artifact, self.rng.choice(deleted))
        elif what == "alias" and ready:
            self._store.set_alias(artifact, self.rng.choice(["production", "best"]), self.rng.choice(ready))
        elif len(ready) > 2 and (what == "permanent" or total >= VERSIONS):
            self._store.delete_permanently(artifact, self.rng.choice(ready[1:]))
        else:
            return
        self.ledger.count(f"on the server: {what}")
        self.ledger.note(self.name, f"{what} {artifact.path}")


class Caller(Actor):
    """Somebody with the API of the mounts."""

    def __init__(
        self,
        name: str,
        slots: Sequence[Slot],
        store: SoakStore,
        ledger: Ledger,
        gate: Gate,
        rng: random.Random,
        pause_s: float,
    ) -> None:
        super().__init__(name, ledger, gate, rng, pause_s)
        self.slots = slots
        self.store = store

    def ask(
        self,
        slot: Slot,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        allow: set[str] | None = None,
        timeout_s: float = CALL_S,
    ) -> Any:
        """The answer; None where a fault kept it away, so that nobody knows what was done; NOTHING where it was refused
        with one of the codes of `allow`, which are right at any time, so that nothing was done."""
        start = time.monotonic()
        what = f"{method} {slot.name} {path} {body or ''}"
        try:
            answer = slot.ask(method, path, body, timeout_s)
        except httpx.TimeoutException:
            if self.ledger.troubled(slot.scope, start):
                return None
            slot.abort()
            raise Violation("nothing hangs", f"{what}: no answer for {timeout_s:.0f} s") from None
        except httpx.TransportError as error:
            if self.ledger.troubled(slot.scope, start):
                return None
            raise Violation("the API answers", f"{what}: {error!r}") from None
        except Refusal as refusal:
            self.ledger.note(self.name, f"{what}: {refusal}")
            self.ledger.count(f"calls refused with {refusal.code}, as they may")
            if refusal.code in (allow or set()):
                return NOTHING
            if refusal.code in CODES_AWAY and self.shaken(slot, start):
                return None
            raise Violation("a call fails only for a reason", f"{what}: {refusal}") from None
        return answer

    def shaken(self, slot: Slot, start: float) -> bool:
        """Whether a fault may have reached a call since then."""
        scopes = [LINE, CUT, slot.scope] + ([HANDOVER] if slot.cache == "shared" else [])
        return any(self.ledger.troubled(scope, start) for scope in scopes)

    def wait_for(self, slot: Slot, what: str, done: Callable[[], bool | None]) -> bool:
        """Until `done()`; False where it cannot be said any more. Raises Violation where that takes too long."""
        start = time.monotonic()
        while True:
            answer = done()
            if answer is None or self.ledger.stop.is_set():
                return False
            if answer:
                return True
            if time.monotonic() - start > TASK_S:
                slot.abort()
                raise Violation("nothing hangs", f"{what} on {slot.name} has not ended for {TASK_S:.0f} s")
            time.sleep(POLL_S)

    def sync(self, slot: Slot) -> bool:
        """Whether a sync ended well. Raises Violation where it failed without a reason."""
        start = time.monotonic()
        if self.ask(slot, "POST", "/api/remote/sync") is None:
            return False
        progress: dict[str, Any] = {}

        def ended() -> bool | None:
            status = self.ask(slot, "GET", "/api/remote/status")
            if status is None or status["sync_progress"] is None:
                return None
            progress.update(status["sync_progress"])
            return bool(progress["status"] != "running")

        if not self.wait_for(slot, "a sync", ended):
            return False
        if progress["status"] != "completed":
            if self.shaken(slot, start):
                self.ledger.count("syncs that failed, as they may")
                return False
            raise Violation("a sync fails only for a reason", f"{slot.name}: {progress['errors']}")
        if self.shaken(slot, start):
            return False
        # It may have joined one that was under way before, and that had looked at some artifacts already.
        began = time.monotonic() - (time.time() - progress["started_at"])
        self.store.synced(slot.cache, min(start, began))
        self.ledger.took("sync", time.monotonic() - start)
        return True


class Syncs(Caller):
    def turn(self) -> None:
        self.sync(self.rng.choice(self.slots))


class Edits(Caller):
    """Deletes, restores, aliases and tags through the API."""

    def turn(self) -> None:
        slot = self.rng.choice(self.slots)
        artifact = self.rng.choice(self.store.artifacts)
        with self.store.edited(artifact) as mine:
            if mine:
                self._edit(slot, artifact)

    def _edit(self, slot: Slot, artifact: Artifact) -> None:
        ready, deleted = artifact.in_state(READY), artifact.in_state(DELETED)
        what = self.rng.choice(["alias", "tag", "soft", "restore", "permanent"])
        of_version = f"/api/artifacts/{artifact.name}/v{{}}"
        remote = f"/api/remote/artifacts/{artifact.name}/v{{}}"
        if what == "restore" and deleted:
            version = self.rng.choice(deleted)
            path = f"{of_version}/restore?type={artifact.type}".format(version.number)
            if self._moves(slot, artifact, version, READY, "POST", path):
                self.store.came_back(version)
        elif what in ("soft", "permanent") and len(ready) > 2:
            version, goal = self.rng.choice(ready[1:]), GONE if what == "permanent" else DELETED
            permanent = "true" if goal == GONE else "false"
            path = f"{of_version}?type={artifact.type}&permanent={permanent}".format(version.number)
            version.leaving = time.monotonic()
            if self._moves(slot, artifact, version, goal, "DELETE", path) and goal == GONE:
                self.store.read_aliases(artifact)
        elif what == "alias" and ready:
            version, alias = self.rng.choice(ready), self.rng.choice(["production", "best", "stage"])
            path = f"{remote}/alias?type={artifact.type}".format(version.number)
            if self._done(slot, artifact, "POST", path, {"alias": alias}):
                artifact.aliases[alias] = version.number
        elif what == "tag" and ready:
            version, tag = self.rng.choice(ready), f"tag{self.rng.randrange(9)}"
            path = f"{remote}/tags?type={artifact.type}".format(version.number)
            if self._done(slot, artifact, "POST", path, {"tags": [tag]}):
                artifact.tags[version.number] |= {tag}
        else:
            return
        self.ledger.note(self.name, f"{what} {artifact.path} through {slot.name}")

    def _moves(self, slot: Slot, artifact: Artifact, version: Version, goal: str, method: str, path: str) -> bool:
        """Whether a version is in another state now; it may be in either where nobody knows."""
        before = version.states
        version.states = before | {goal}
        done = self._done(slot, artifact, method, path, None)
        if not artifact.uncertain:
            version.states = {goal} if done else before
            if not done and before == {READY}:
                version.leaving = None
        return done

    def _done(self, slot: Slot, artifact: Artifact, method: str, path: str, body: dict[str, Any] | None) -> bool:
        """Where nobody knows whether it was done, the artifact is left alone until a checkpoint has looked."""
        start = time.monotonic()
        # What the catalog does not know yet it cannot change.
        answer = self.ask(slot, method, path, body, allow={"not_found", "conflict"})
        artifact.uncertain = answer is None
        if not answer:
            return False
        self.ledger.took("edit through the API", time.monotonic() - start)
        return True


class Keepers(Caller):
    """Pins, cleans up, clears, verifies, and prefetches."""

    def __init__(self, *arguments: Any, limit: int) -> None:
        super().__init__(*arguments)
        self._limit = limit
        self._pinned: dict[str, list[str]] = {}  # by cache

    def turn(self) -> None:
        slot = self.rng.choice(self.slots)
        getattr(self, "_" + self.rng.choice(["pin", "pin", "unpin", "cleanup", "clear", "verify", "prefetch", "list"]))(
            slot
        )

    def _pin(self, slot: Slot) -> None:
        pinned = self._pinned.setdefault(slot.cache, [])
        artifact, version = self.store.any_version(self.rng)
        if len(pinned) >= 2 or version.size > self._limit // PINNED_SHARE:
            return
        name = f"{artifact.type}/{artifact.name}:v{version.number}"
        pinned.append(name)
        codes = CODES_LEAVING | {"invalid_input"}
        if self.ask(slot, "POST", "/api/remote/cache/pins", {"artifact": name}, allow=codes):
            self.ledger.count("pins")

    def _unpin(self, slot: Slot) -> None:
        pinned = self._pinned.setdefault(slot.cache, [])
        if pinned and self._let_go(slot, pinned[0]):
            pinned.pop(0)

    def _let_go(self, slot: Slot, name: str) -> bool:
        answer = self.ask(slot, "DELETE", "/api/remote/cache/pins", {"artifact": name}, allow={"not_found"})
        return answer is not None

    def _cleanup(self, slot: Slot) -> None:
        if self.ask(slot, "POST", "/api/remote/cache/cleanup") is not None:
            self.ledger.count("cache cleanups")

    def _clear(self, slot: Slot) -> None:
        if self.rng.random() < 0.5:
            return
        if self.ask(slot, "POST", "/api/remote/cache/clear") is not None:
            self.ledger.count("cache clears")

    def _verify(self, slot: Slot) -> None:
        if self.ask(slot, "POST", "/api/remote/cache/verify") is None:
            return
        last: dict[str, Any] = {}

        def ended() -> bool | None:
            status = self.ask(slot, "GET", "/api/remote/cache")
            if status is None:
                return None
            last.update(status["verify"])
            return bool(last["status"] != "running")

        start = time.monotonic()
        if self.wait_for(slot, "a check of the cache", ended):
            if last["corrupt_files"]:
                raise Violation("no byte in the cache is ever wrong", f"cache verify on {slot.name} says {last}")
            if last["status"] == "failed" and not self.shaken(slot, start):
                raise Violation("a call fails only for a reason", f"cache verify on {slot.name} says {last}")
            self.ledger.took("cache verify", time.monotonic() - start)

    def _prefetch(self, slot: Slot) -> None:
        artifact, version = self.store.any_version(self.rng)
        if version.size > DOWNLOADED:
            return
        body: dict[str, Any] = {"artifact": f"{artifact.type}/{artifact.name}:v{version.number}"}
        how = self.rng.choice(["", "", "check", "evict"])
        if how:
            body[how] = True
        if self.ask(slot, "POST", "/api/prefetch", body, allow=CODES_LEAVING):
            self.ledger.count(f"prefetches {how}".strip())

    def _list(self, slot: Slot) -> None:
        for path in ("/api/remote/cache/files", "/api/remote/cache/pins", "/api/artifacts", "/api/runs"):
            self.ask(slot, "GET", path)
            self.ledger.count("lists asked for")


class Downloads(Caller):
    """Downloads versions into folders, compares what has come, and changes its mind now and then."""

    def __init__(self, *arguments: Any, folder: Path) -> None:
        super().__init__(*arguments)
        self._folder = folder
        self._number = 0

    def turn(self) -> None:
        slot = self.rng.choice(self.slots)
        artifact, version = self.store.any_version(self.rng)
        if version.size > DOWNLOADED:
            return
        self._number += 1
        target = self._folder / str(self._number)
        path = f"/api/remote/download/{artifact.name}/v{version.number}?type={artifact.type}"
        start = time.monotonic()
        begun = self.ask(slot, "POST", path, {"target_dir": str(target)}, allow=CODES_LEAVING)
        if not begun:
            return
        task = begun["task_id"]
        if self.rng.random() < 0.3:
            time.sleep(self.rng.random())
            self.ask(slot, "DELETE", f"/api/remote/download/{task}", allow={"not_found"})
            self.ledger.count("downloads cancelled")
        last: dict[str, Any] = {}

        def ended() -> bool | None:
            status = self.ask(slot, "GET", f"/api/remote/download/{task}/status", allow={"not_found"})
            if not status:
                return None
            last.update(status)
            return status["status"] in ("completed", "failed", "cancelled")

        if self.wait_for(slot, f"the download of {artifact.path}/v{version.number}", ended):
            self._look(slot, artifact, version, target, last, start)
        shutil.rmtree(target, ignore_errors=True)

    def _look(
        self, slot: Slot, artifact: Artifact, version: Version, target: Path, last: dict[str, Any], start: float
    ) -> None:
        what = f"the download of {artifact.path}/v{version.number} by {slot.name}"
        self.ledger.note(self.name, f"{what}: {last['status']} {last['error'] or ''}")
        settled = self.store.settled(slot.cache, version, start)
        if last["status"] == "completed":
            self.ledger.took("download", time.monotonic() - start)
            for path, digest in version.files.items():
                there = target / path
                if settled and (not there.exists() or there.read_bytes() != (self.store.plain / digest).read_bytes()):
                    raise Violation("no byte is ever wrong", f"{what}: {path}")
        elif last["status"] == "failed" and settled and not self.shaken(slot, start):
            raise Violation("a download fails only for a reason", f"{what}: {last['error']}")
        parts = [str(path) for path in target.rglob("*") if path.is_file() and _is_part(path, version, target)]
        if last["status"] != "failed" and parts and settled:
            raise Violation("a download leaves nothing but its files", f"{what}, {last['status']}: {parts[:3]}")


def _is_part(path: Path, version: Version, target: Path) -> bool:
    return str(path.relative_to(target)) not in version.files


class Watcher(Caller):
    """Asks how everything is, which must be answered at any time; and looks at what the daemons hold."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.samples: dict[tuple[str, int], list[tuple[float, Held]]] = {}

    def turn(self) -> None:
        for slot in self.slots:
            start = time.monotonic()
            for path in ("/api/remote/status", "/metrics"):
                if self.ask(slot, "GET", path, timeout_s=ANSWER_S) is not None:
                    self.ledger.took(path, time.monotonic() - start)
                start = time.monotonic()
            if trouble := slot.new_trouble():
                raise Violation("a daemon's log has no trouble in it", f"{slot.name}: {trouble[0]}")
            try:
                held = Held.by(slot.pid)
            except (OSError, AssertionError):
                continue  # it is being started again
            if slot.running and os.path.exists(f"/proc/{slot.pid}"):
                self.samples.setdefault((slot.name, slot.pid), []).append((time.monotonic(), held))

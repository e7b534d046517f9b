"""The checkpoint: everything rests, the line is whole, and what is left of the load is looked at."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from runicornfs.content.blocks import ABSENT, BLOCK, unpack
from scripts.soaking.callers import Syncs
from scripts.soaking.daemons import Held, Slot
from scripts.soaking.faults import wait_for_line
from scripts.soaking.ledger import AFTERMATH_S, Ledger, Violation
from scripts.soaking.store import HEARD_S, SoakStore, sha256_of
from tests.waiting import wait_until

# What a rest may take: the kernel gives files back, connections that were cut are closed, read-ahead comes in.
REST_S = 45.0
# Gauges that say what is under way have these in their names; at rest they are zero.
UNDER_WAY = ("queue", "flight", "active", "waiting", "pending", "open")
# A file takes whole blocks of the file system, and now and then one for its extents.
ALLOCATED = 2 * 4096
# A daemon at rest holds no more than this of each kind; what leaks passes it soon. Of index.db there are at most 17
# connections, of records.db two; sockets are the line's, the API's, those of guests and some pairs that wake threads.
AT_REST = {
    "content": 0,
    "deleted file": 0,
    "socket": 24,
    "pipe": 12,
    "anon_inode": 6,
    "/dev/fuse": 12,
    "file index.db": 19,
    "file index.db-wal": 19,
    "file index.db-shm": 2,
    "file records.db": 2,
    "file records.db-wal": 2,
    "file records.db-shm": 1,
    "file": 8,
}
UNNAMED = 4  # of any other kind
THREADS_AT_REST = 64
CHILDREN_AT_REST = 8


class Inspector:
    """limits: of the caches, in bytes, by name."""

    def __init__(
        self, slots: Sequence[Slot], store: SoakStore, syncs: Syncs, ledger: Ledger, limits: dict[str, int]
    ) -> None:
        self._slots = slots
        self._store = store
        self._syncs = syncs
        self._ledger = ledger
        self._limits = limits
        self.at_rest: list[tuple[float, str, Held]] = []
        self.passed = Counter[str]()

    def inspect(self) -> None:
        """Raises Violation. Nobody else does anything meanwhile."""
        self._ledger.note("checkpoint", "begins")
        wait_for_line(self._slots, self._ledger)
        self._ledger.stop.wait(AFTERMATH_S)
        self._tasks_end()
        self._store.check()
        self.passed["the server holds what the actors did, and nothing else"] += 1
        for slot in self._slots:
            if not self._syncs.sync(slot):
                raise Violation("a sync fails only for a reason", f"{slot.name}: there was none, at rest")
        for slot in self._slots:
            self._tree(slot)
        for slot in self._slots:
            self._rests(slot)
        self._strays()
        for cache in self._limits:
            owner = next(slot for slot in self._slots if slot.cache == cache)
            self._cache(cache, owner)
        self._ledger.note("checkpoint", "passed")

    def abort(self) -> None:
        """It does not come to its end."""
        self._ledger.note("checkpoint", "aborted")
        for slot in self._slots:
            slot.abort()

    def _tasks_end(self) -> None:
        """Downloads and prefetches that somebody has begun come to their end."""
        for slot in self._slots:

            def idle(slot: Slot = slot) -> bool:
                return bool(slot.ask("GET", "/api/remote/downloads")["active_count"] == 0)

            if not self._syncs.wait_for(slot, "what was asked of the downloads", idle):
                return

    def _tree(self, slot: Slot) -> None:
        shown = self._store.shown()
        problems: list[str] = []

        def is_right() -> bool:
            problems[:] = _differences(shown, slot.mountpoint)
            return not problems

        try:
            wait_until(is_right, "the tree", HEARD_S)
        except AssertionError:
            raise Violation("the mount shows what the store has", f"{slot.name}: {'; '.join(problems[:5])}") from None
        self.passed["the mount shows what the store has, byte for byte"] += 1

    def _rests(self, slot: Slot) -> None:
        excess: list[str] = []

        def at_rest() -> bool:
            excess[:] = self._excess(slot)
            return not excess

        try:
            wait_until(at_rest, "rest", REST_S)
        except AssertionError:
            raise Violation("at rest nothing is held", f"{slot.name}: {'; '.join(excess)}") from None
        self.at_rest.append((time.monotonic() - self._ledger.began, slot.name, Held.by(slot.pid)))
        self.passed["at rest nothing is held: descriptors, threads, children, gauges"] += 1

    def _excess(self, slot: Slot) -> list[str]:
        held = Held.by(slot.pid)
        found = [
            f"{held.descriptors[kind]} of {kind}" for kind, most in AT_REST.items() if held.descriptors[kind] > most
        ]
        if held.threads > THREADS_AT_REST:
            found.append(f"{held.threads} threads")
        if held.children > CHILDREN_AT_REST:
            found.append(f"{held.children} children")
        gauges = slot.gauges()
        found += [
            f"{name} is {value:.0f}" for name, value in gauges.items() if value and any(w in name for w in UNDER_WAY)
        ]
        if gauges["connected"] != 1 or gauges["mounts"] != 1:
            found.append(f"connected: {gauges['connected']:.0f}, mounts: {gauges['mounts']:.0f}")
        return found

    def _strays(self) -> None:
        """Processes and mounts that belong to nobody: those of daemons that were ended or killed before."""
        problems: list[str] = []

        def is_clean() -> bool:
            expected = {slot.pid for slot in self._slots}
            strays = {pid: said for pid, said in processes_of(self._slots).items() if pid not in expected}
            problems[:] = [f"process {pid}: {said}" for pid, said in strays.items() if parent_of(pid) not in expected]
            if len(mounts_of(self._slots)) != len(self._slots):
                problems.append(f"mounts: {mounts_of(self._slots)}")
            return not problems

        try:
            wait_until(is_clean, "strays", REST_S)
        except AssertionError:
            raise Violation("no process and no mount is left", "; ".join(problems[:5])) from None
        self.passed["no process and no mount is left of those that were ended or killed"] += 1

    def _cache(self, cache: str, owner: Slot) -> None:
        """The index, the files and the status say the same; every block is what it should be."""
        problems: list[str] = []

        def agrees() -> bool:
            problems[:] = self._disagreements(cache, owner)
            return not problems

        try:
            wait_until(agrees, "the cache to agree with itself", REST_S)
        except AssertionError:
            raise Violation("the cache holds what its index says", f"{cache}: {'; '.join(problems[:5])}") from None
        self.passed["the cache holds what its index says, byte for byte, within its limit"] += 1

    def _disagreements(self, cache: str, owner: Slot) -> list[str]:
        status = owner.ask("GET", "/api/remote/cache")  # brings everything into the index
        size = status["size_bytes"]
        self._ledger.reached(f"evictions, cache {cache}", status["evictions"])
        self._ledger.reached(f"MiB fetched, cache {cache}", status["bytes_fetched"] >> 20)
        folder = cache_folder(self._slots, cache)
        rows = _records(folder / "content" / "records.db")
        blocks = folder / "content" / "blocks"
        found: list[str] = []
        names = {path.name for path in blocks.iterdir()}
        if strangers := names - {row[1] for row in rows}:
            found.append(f"files without a record: {sorted(strangers)[:3]}")
        if lost := {row[1] for row in rows if row[3]} - names:
            found.append(f"records without a file: {sorted(lost)[:3]}")
        indexed = sum(row[3] for row in rows)
        if indexed != size:
            found.append(f"the index has {indexed} bytes, the status says {size}")
        if size > self._limits[cache]:
            found.append(f"{size} bytes are more than {self._limits[cache]}")
        taken = sum(path.stat().st_blocks * 512 for path in blocks.iterdir())
        if not indexed <= taken <= indexed + len(rows) * ALLOCATED:
            found.append(f"{len(rows)} files take {taken} bytes, the index has {indexed}")
        for key, file, length, _, packed, verified, path in rows:
            if file in names:
                found += self._wrong_blocks(key, blocks / file, length, packed, bool(verified), path)
        return found

    def _wrong_blocks(self, key: str, file: Path, length: int, packed: bytes, verified: bool, path: str) -> list[str]:
        plain = self._store.plain / key
        if not plain.exists():
            plain = self._store.root / path
        states = unpack(packed, -(-length // BLOCK))
        if verified and (ABSENT in states or sha256_of(file) != key):
            return [f"{file.name} is called verified and does not have the sha256 {key}"]
        with open(plain, "rb") as right, open(file, "rb") as cached:
            for number, state in enumerate(states):
                if state == ABSENT:
                    continue
                offset = number * BLOCK
                count = min(BLOCK, length - offset)
                if os.pread(cached.fileno(), count, offset) != os.pread(right.fileno(), count, offset):
                    return [f"block {number} of {file.name} ({path}) is wrong"]
        return []


def _differences(shown: dict[str, Callable[[str], bool]], mountpoint: Path) -> list[str]:
    found = set()
    for here, folders, files in os.walk(mountpoint):
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        found |= {os.path.relpath(os.path.join(here, name), mountpoint) for name in (*files, *links)}
    problems = [f"{path} is {'shown' if path in found else 'missing'}" for path in sorted(found ^ shown.keys())]
    same = [path for path in shown if path in found]
    return problems + [f"{path} is another" for path in same if not shown[path](str(mountpoint / path))]


def cache_folder(slots: Sequence[Slot], cache: str) -> Path:
    """The folder of the one store in a cache."""
    (found,) = (slots[0].folder.parent / f"cache-{cache}").iterdir()
    return found


def _records(path: Path) -> list[tuple[str, str, int, int, bytes, int, str]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT key, file, size, cached_bytes, blocks, verified, path FROM contents"
        rows = connection.execute(query).fetchall()
    finally:
        connection.close()
    return [(*row[:6], os.fsdecode(row[6])) for row in rows]


def processes_of(slots: Sequence[Slot]) -> dict[int, str]:
    """What each process is called that runs in the home of a mount: its daemon, and what that has started."""
    homes = {f"HOME={slot.folder / 'home'}".encode() for slot in slots}
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            if not homes.isdisjoint(environment):
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry)] = command.decode(errors="replace")[:200]
        except OSError:
            continue  # it has ended, or it is somebody else's
    return found


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def mounts_of(slots: Sequence[Slot]) -> list[str]:
    places = {str(slot.mountpoint) for slot in slots}
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [place for line in lines if (place := line.split()[1]) in places]


def left_behind(slots: Sequence[Slot], caches: Sequence[str]) -> list[str]:
    """What the daemons have left when all of them have ended in order: nothing but the caches themselves."""
    found = [f"{place} is mounted" for place in mounts_of(slots)]
    found += [f"process {pid}: {said}" for pid, said in processes_of(slots).items()]
    for slot in slots:
        for place in ("run/runicornfs", "tmp"):
            left = [str(path) for path in (slot.folder / place).iterdir()]
            if len(left) > slot.killed:  # who was killed has left a file that says that it runs, and an empty folder
                found += left
    for cache in caches:
        folder = cache_folder(slots, cache)
        usual = {"index.db", "metadata", "content", "store.json", "lock", "downloads", "downloads.db"}
        found += [str(path) for path in folder.iterdir() if path.name not in usual]
        found += [str(path) for path in folder.rglob("*") if path.name.endswith((".part", ".tmp", "-wal"))]
    return found

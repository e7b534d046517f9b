"""The cache against a plain model: whatever happens in whatever order, readers get the server's bytes or an error."""

from __future__ import annotations

import errno
import random
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from runicornfs import errors
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.identity import Identity
from runicornfs.content.reader import CachedReader
from runicornfs.content.wishes import Rank
from tests.fake_transfers import FakeTransfers, Fault, content_of, copy_as_killed, counted, disk_bytes
from tests.waiting import wait_until

# Larger than each content but the largest, smaller than two of them together.
LIMIT = 10 * BLOCK
CONTENTS = {
    "tiny": content_of(100, 1),
    "small": content_of(3 * BLOCK + 17, 2),
    "middle": content_of(9 * BLOCK, 3),
    "large": content_of(25 * BLOCK + 1, 4),
    "log": content_of(5 * BLOCK + 5, 5),
}
WITHOUT_DIGEST = ("log",)
FAULTS = [
    errors.ConnectionLost("lost"),
    errors.TimedOut("late"),
    errors.AccessDenied("no"),
    errors.StaleFile("no"),
    OSError(errno.ENOSPC, "full"),
    None,
]
READERS = [Rank.DEMAND, Rank.PREFETCH, Rank.DOWNLOAD]
# What a read may end with, whatever is wrong.
REFUSALS = (errors.ServerError, errors.NoSpace)


@pytest.fixture(autouse=True)
def _quiet_log() -> None:
    """Instead of the one for all tests: here mismatches are expected, and logged."""


class Open:
    """A reader and what it has been given so far.

    Only the first byte of a file ever comes wrong (`FakeTransfers.corrupt`). A reader that gets it wrong must not get
    all the others, too, unless blocks had to go in between for lack of room: such contents are never whole.
    """

    def __init__(self, name: str, reader: CachedReader) -> None:
        self.name = name
        self.reader = reader
        self.forget()

    def forget(self) -> None:
        self.generation = self.reader._generation
        self.wrong = False
        self.seen = bytearray(len(CONTENTS[self.name]))

    def read(self, offset: int, size: int) -> None:
        right = CONTENTS[self.name][offset : offset + size]
        data = self.reader.read(offset, size)
        assert len(data) == len(right)
        if self.reader._generation != self.generation:
            self.forget()
        if offset == 0:
            self.wrong |= data[0] != right[0]
            assert not (self.wrong and self.name in WITHOUT_DIGEST)
        assert data[offset == 0 :] == right[offset == 0 :]
        self.seen[offset : offset + len(data)] = b"\1" * len(data)
        assert not (self.wrong and all(self.seen))


class CacheMachine(RuleBasedStateMachine):
    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="content-"))
        self.server = FakeTransfers(self.folder / "server")
        self.identities: dict[str, Identity] = {
            name: self.server.add(name, content, digest=name not in WITHOUT_DIGEST)
            for name, content in CONTENTS.items()
        }
        self.pinned: set[str] = set()
        self.stays: dict[str, int] = {}  # bytes of what is pinned that nothing may take any more
        self.here = self.folder / "cache 0"
        self.life = 0
        self.cache = self.start()

    def start(self) -> ContentCache:
        self.mismatches = 0
        return ContentCache(self.here, self.server, LIMIT, 0)

    @rule(target=readers, name=st.sampled_from(sorted(CONTENTS)), rank=st.sampled_from(READERS))
    def open(self, name: str, rank: Rank) -> Open:
        reader = self.cache.open(self.identities[name])
        if rank is not Rank.DEMAND:
            reader.stand_back(rank)
        return Open(name, reader)

    @rule(reader=readers, place=st.floats(0, 1), size=st.integers(1, 3 * BLOCK))
    def read(self, reader: Open, place: float, size: int) -> None:
        try:
            reader.read(int(place * len(CONTENTS[reader.name])), size)
        except REFUSALS:
            return

    @rule(reader=readers, place=st.floats(0, 1), size=st.integers(1, 3 * BLOCK))
    def give_up(self, reader: Open, place: float, size: int) -> None:
        """Reads, and waits no longer than the first thing that happens."""
        offset = int(place * len(CONTENTS[reader.name]))
        try:
            reader.reader.read(offset, size, lambda: True)
        except (*REFUSALS, errors.Interrupted):
            return

    @rule(reader=readers, start=st.integers(0, 25), step=st.integers(-4, 4))
    def read_in_steps(self, reader: Open, start: int, step: int) -> None:
        blocks = [start + step * number for number in range(8)]
        try:
            for block in blocks:
                if 0 <= block * BLOCK < len(CONTENTS[reader.name]):
                    reader.read(block * BLOCK, BLOCK)
        except REFUSALS:
            return

    @rule(reader=readers)
    def read_all(self, reader: Open) -> None:
        try:
            for offset in range(0, len(CONTENTS[reader.name]), 2 * BLOCK):
                reader.read(offset, 2 * BLOCK)
        except REFUSALS:
            return

    @rule(name=st.sampled_from(sorted(CONTENTS)))
    def read_anew(self, name: str) -> None:
        reader = self.cache.open(self.identities[name])
        self.read_all(Open(name, reader))
        reader.close()

    @rule(reader=consumes(readers))
    def close(self, reader: Open) -> None:
        reader.reader.close()

    @rule(fault=st.sampled_from(FAULTS), after=st.integers(0, 4), times=st.integers(1, 5))
    def fail(self, fault: Exception | None, after: int, times: int) -> None:
        self.server.faults = [Fault(fault, after * BLOCK)] * times

    @rule(name=st.sampled_from(sorted(set(CONTENTS) - set(WITHOUT_DIGEST))), times=st.integers(1, 3))
    def corrupt(self, name: str, times: int) -> None:
        self.server.corrupt[name] = times

    @rule(name=st.sampled_from(sorted(CONTENTS)), read=st.booleans())
    def pin(self, name: str, read: bool) -> None:
        sizes = [len(CONTENTS[pinned]) for pinned in self.pinned | {name}]
        try:
            self.cache.pin(name, {self.identities[name].key: len(CONTENTS[name])})
        except errors.NoSpace:
            assert sum(sizes) > LIMIT
        else:
            assert sum(sizes) <= LIMIT
            self.pinned.add(name)
            if read:
                self.read_anew(name=name)

    @rule(name=st.sampled_from(sorted(CONTENTS)))
    def unpin(self, name: str) -> None:
        try:
            self.cache.unpin(name)
        except errors.NotFound:
            assert name not in self.pinned
        else:
            self.pinned.remove(name)
            self.stays.pop(name, None)

    @rule()
    def cleanup(self) -> None:
        self.cache.cleanup()

    @rule()
    def clear(self) -> None:
        at_rest = {identity.key for identity in self.identities.values()} - {
            entry.key for entry in self.cache._table.entries()
        }
        self.cache.clear()
        assert not any(size for size, _ in self.cache.cached_bytes(list(at_rest)).values())
        self.stays.clear()

    @rule(flush=st.booleans())
    def kill(self, flush: bool) -> None:
        """The program ends in the middle of what it does; the next one finds its folder."""
        if flush:
            self.cache._flusher.flush()
        else:
            self.stays.clear()
        self.life += 1
        there = self.folder / f"cache {self.life}"
        copy_as_killed(self.cache, self.here, there)
        self.cache.close()
        self.here = there
        self.cache = self.start()

    @rule()
    def restart(self) -> None:
        self.cache.close()
        self.cache = self.start()
        self.stays.clear()  # what was cleared while it was open has gone with its readers

    @invariant()
    def what_is_pinned_stays(self) -> None:
        assert [pin.label for pin in self.cache.pins()] == sorted(self.pinned)
        cleared = {entry.key for entry in self.cache._table.entries() if entry.cleared}
        keys = {name: self.identities[name].key for name in self.pinned}
        here = self.cache.cached_bytes(list(keys.values()))
        if self.cache.status().mismatches != self.mismatches:
            self.mismatches = self.cache.status().mismatches
            self.stays.clear()
        for name, key in keys.items():
            if key not in cleared:
                assert here[key][0] >= self.stays.get(name, 0)
                self.stays[name] = here[key][0]

    @invariant()
    def what_is_counted_is_there(self) -> None:
        assert self.cache._room.used <= LIMIT
        wait_until(self._adds_up, "what is on its way to be there")

    def _adds_up(self) -> bool:
        used, held = counted(self.cache)
        # The disk counts in blocks of its own, so the end of a content takes up to one of them more.
        return used == held and disk_bytes(self.here) <= used + 4096 * len(CONTENTS)

    def teardown(self) -> None:
        self.cache.close()
        shutil.rmtree(self.folder)


CacheMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


TestAnyOrder = CacheMachine.TestCase


def test_readers_on_many_threads_get_right_bytes_or_errors(tmp_path: Path) -> None:
    server = FakeTransfers(tmp_path / "server")
    identities = [server.add(name, content, name not in WITHOUT_DIGEST) for name, content in CONTENTS.items()]
    cache = ContentCache(tmp_path / "cache", server, 30 * BLOCK, 0)
    wrong = threading.Event()

    def work(seed: int) -> int:
        dice = random.Random(seed)
        good = 0
        for _ in range(40):
            identity = dice.choice(identities)
            content = CONTENTS[identity.path]
            reader = cache.open(identity)
            if dice.random() < 0.3:
                reader.stand_back(dice.choice(READERS))
            offset = dice.randrange(len(content))
            for _ in range(dice.randrange(10)):
                size = dice.randrange(1, 2 * BLOCK)
                try:
                    data = reader.read(offset, size, lambda: dice.random() < 0.1)
                except (*REFUSALS, errors.Interrupted):
                    break
                if data != content[offset : offset + size]:
                    wrong.set()
                good += 1
                offset = dice.choice([offset + len(data), dice.randrange(len(content))])
                if dice.random() < 0.05:
                    server.faults.append(Fault(dice.choice(FAULTS), dice.randrange(3 * BLOCK)))
            reader.close()
        return good

    with ThreadPoolExecutor(12) as threads:
        good = sum(threads.map(work, range(12)))
    assert not wrong.is_set()
    assert good > 500
    wait_until(lambda: not cache._table.entries(), "what is on its way")
    assert counted(cache)[0] == counted(cache)[1] <= 30 * BLOCK
    cache.close()

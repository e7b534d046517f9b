"""Several contents at once: who goes first, and that everybody gets on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.content import scheduler
from runicornfs.content.blocks import ABSENT, BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Interruption, never
from runicornfs.content.entry import Entry
from runicornfs.content.fetch import FILLS
from runicornfs.content.identity import Identity
from runicornfs.content.reader import CachedReader
from runicornfs.content.wishes import Rank
from runicornfs.errors import Interrupted
from tests.fake_transfers import DEPTH, Caches, FakeTransfers
from tests.waiting import wait_until

MIB = 1 << 20


class World:
    """A server that answers nothing until it is told to, and readers that wait for it on threads of their own."""

    def __init__(self, server: FakeTransfers, cache: ContentCache) -> None:
        self.server = server
        self.cache = cache
        self._threads: list[threading.Thread] = []
        self._readers: list[CachedReader] = []

    def content(self, path: str, size: int) -> Identity:
        """Zeros, which take no room on the disk."""
        file = self.server.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as opened:
            opened.truncate(size)
        return Identity(path, path, size, None, 1)

    def open(self, path: str, size: int = 2 * MIB, rank: Rank = Rank.DEMAND) -> CachedReader:
        reader = self.cache.open(self.content(path, size))
        if rank is not Rank.DEMAND:
            reader.stand_back(rank)
        self._readers.append(reader)
        return reader

    def read(self, reader: CachedReader, start: int, stop: int, interrupted: Interruption = never) -> None:
        """Reads these bytes in order, on a thread."""

        def work() -> None:
            try:
                for offset in range(start, stop, BLOCK):
                    reader.read(offset, BLOCK, interrupted)
            except (ValueError, Interrupted):
                return  # closed, or given up

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def ask(self, path: str, rank: Rank = Rank.DEMAND) -> CachedReader:
        """Somebody waits for one block in the middle of a content."""
        reader = self.open(path, rank=rank)
        self.read(reader, MIB, MIB + BLOCK)
        wait_until(lambda: self.entry(path).rank is rank or self.asked(path), f"{path} to be queued or asked for")
        return reader

    def entry(self, path: str) -> Entry:
        return next(entry for entry in self.cache._table.entries() if entry.paths == [path])

    def asked(self, path: str) -> int:
        """Bytes."""
        return sum(length for name, _, length in list(self.server.asked) if name == path)

    def order(self) -> list[str]:
        """The contents in the order in which something of them was asked for first."""
        return list(dict.fromkeys(path for path, _, _ in list(self.server.asked)))

    def want_all(self, path: str, rank: Rank = Rank.DEMAND) -> CachedReader:
        """A reader waits for the first block, and will want all the others: as fast as the line is."""
        reader = self.open(path, 64 * MIB, rank)
        entry = self.entry(path)
        with entry.condition:
            entry.look_ahead(1, entry.count, reader)
        self.read(reader, 0, BLOCK)
        wait_until(lambda: entry.waiting, "it to wait")
        return reader

    def occupy(self, rank: Rank = Rank.DEMAND, places: int = FILLS) -> list[CachedReader]:
        """That many places serve readers of whole files; nothing is answered from now on."""
        self.server.hold()
        readers = [self.want_all(f"busy {number}", rank) for number in range(places)]
        wait_until(lambda: len(self.server.asked) == places * DEPTH, "all these places to be taken")
        return readers

    def answer(self, ranges: int) -> None:
        """Returns when this many more have been answered."""
        self.server.hold(after=ranges)
        with self.server._lock:
            self.server._lock.notify_all()
        wait_until(lambda: self.server._allowed == 0, f"{ranges} ranges to be answered")

    def end(self) -> None:
        for reader in self._readers:
            reader.close()
        self.server.release()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    server = FakeTransfers(tmp_path / "server")
    with Caches(tmp_path / "cache", server) as caches:
        world = World(server, caches.open())
        yield world
        world.end()


def test_eight_readers_of_eight_files_get_on_alike(world: World) -> None:
    world.server.hold()
    paths = [f"file {number}" for number in range(8)]
    for path in paths:
        world.want_all(path)
    world.answer(200)
    shares = [world.asked(path) for path in paths]
    assert min(shares) > 10 * MIB
    assert max(shares) <= 1.5 * min(shares)


def test_eight_readers_of_one_file_fetch_it_once(world: World) -> None:
    readers = [world.open("file", 16 * MIB + 17) for _ in range(8)]
    for number, reader in enumerate(readers):
        world.read(reader, number * MIB, 16 * MIB + 17)  # each from another place
    for thread in world._threads:
        thread.join()
    readers[0].read(0, MIB)
    assert Counter(block for block in range(129) if world.server.times_asked("file", block) != 1) == {}


def test_a_reader_who_waits_goes_before_the_read_ahead_of_others(world: World) -> None:
    world.occupy()
    world.answer(FILLS * 4)  # those who waited have their blocks
    world.ask("wanted")
    asked = len(world.server.asked)
    world.answer(FILLS * (DEPTH + 3))
    wait_until(lambda: world.asked("wanted"), "the read's turn")
    between = [path for path, _, _ in list(world.server.asked)][asked:].index("wanted")
    assert between <= 3 * FILLS  # who has not had a share yet takes that, and one range may be just about to be taken


def test_a_program_goes_before_a_prefetch_and_that_before_a_download(world: World) -> None:
    world.occupy()
    world.ask("download", Rank.DOWNLOAD)
    world.ask("prefetch", Rank.PREFETCH)
    world.ask("program")
    for reader in world._readers[:FILLS]:
        reader.close()
    world.server.release()
    wait_until(lambda: world.asked("download"), "all of them")
    assert world.order()[FILLS:] == ["program", "prefetch", "download"]


def test_downloads_stand_still_while_a_program_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "PATIENCE_S", 1e9)
    (program,) = world.occupy(places=1)
    world.ask("download", Rank.DOWNLOAD)
    world.answer(20)
    assert world.asked("busy 0") >= 20 * MIB
    assert not world.asked("download")
    program.close()
    world.server.release()
    wait_until(lambda: world.asked("download"), "the download's turn")


def test_downloads_do_not_stand_still_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "PATIENCE_S", 0.0)
    world.occupy(places=1)
    world.ask("download", Rank.DOWNLOAD)
    wait_until(lambda: world.asked("download"), "the download's turn")


def test_a_download_that_runs_ends_its_turn_when_a_program_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "PATIENCE_S", 1e9)
    world.occupy(Rank.DOWNLOAD, 1)
    world.want_all("program")
    wait_until(lambda: world.asked("program"), "the program's turn")
    before = world.asked("busy 0")
    world.answer(20)
    assert world.asked("program") >= 15 * MIB
    assert world.asked("busy 0") <= before + MIB  # it may have been just about to take its next range


def test_downloads_always_leave_a_place_for_a_program(world: World) -> None:
    world.server.hold()
    for number in range(FILLS):
        world.ask(f"download {number}", Rank.DOWNLOAD)
    wait_until(lambda: world.server.running == FILLS - 1, "all but one place to be taken")
    world.ask("program")
    wait_until(lambda: world.asked("program"), "the program's turn")
    assert sum(world.asked(f"download {number}") > 0 for number in range(FILLS)) == FILLS - 1


def test_what_a_reader_waited_for_is_not_fetched_once_it_has_given_up(world: World) -> None:
    world.occupy()
    stop = threading.Event()
    reader = world.open("given up")
    world.read(reader, MIB, MIB + BLOCK, stop.is_set)
    wait_until(lambda: world.entry("given up").rank is Rank.DEMAND, "it to be queued")
    stop.set()
    wait_until(lambda: world.entry("given up").rank is Rank.NOTHING, "it to be struck off")
    assert world.entry("given up").states.count(ABSENT) == world.entry("given up").count
    last = world.ask("last")
    for busy in world._readers[:FILLS]:
        busy.close()
    world.server.release()
    wait_until(lambda: world.asked("last"), "the last one")
    last.close()
    assert not world.asked("given up")


def test_what_two_wait_for_is_fetched_when_one_gives_up(world: World) -> None:
    world.occupy()
    stop = threading.Event()
    first, second = world.open("both"), world.open("both")
    world.read(first, MIB, MIB + 2 * BLOCK, stop.is_set)
    world.read(second, MIB + BLOCK, MIB + 2 * BLOCK)
    wait_until(lambda: len(world.entry("both").waiting) == 2, "both to wait")
    stop.set()
    wait_until(lambda: len(world.entry("both").waiting) == 1, "one to give up")
    for busy in world._readers[:FILLS]:
        busy.close()
    world.server.release()
    wait_until(lambda: second.bytes_served == BLOCK, "the other to be served")


def test_a_closed_reader_gives_its_place_to_who_waits(world: World) -> None:
    """Its queue goes; of what is on its way at most the ranges that are come."""
    busy = world.occupy()
    world.ask("next")
    asked = [world.asked(f"busy {number}") for number in range(FILLS)]
    for reader in busy:
        reader.close()
    world.server.release()
    wait_until(lambda: world.asked("next"), "its turn")
    wait_until(lambda: world.server.running == 0, "the line to be idle")
    assert all(world.asked(f"busy {n}") <= before + MIB for n, before in enumerate(asked))

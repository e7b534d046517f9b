"""Contents whose owner changes: what is open goes on, byte for byte, and nothing waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from runicornfs.content import handover as handover_module
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Contents
from runicornfs.content.guest import GuestContents
from runicornfs.content.handover import HandoverContents
from runicornfs.content.owner import OwnerSocket
from runicornfs.errors import ContentMismatch, Interrupted, Unreachable
from tests.fake_transfers import Caches, FakeTransfers, content_of, read_on
from tests.waiting import wait_until

FILE = content_of(20 * BLOCK + 100)


class Owners:
    """Owners of one cache folder, one after the other."""

    def __init__(self, folder: Path, server: FakeTransfers) -> None:
        self.folder = folder
        self.server = server
        self.cache: ContentCache
        self._stack = ExitStack()

    def begin(self) -> GuestContents:
        """Another owner; a guest of it."""
        self.cache = ContentCache(self.folder, self.server, 1 << 40, 0)
        self._stack.callback(self.cache.close)
        self._stack.callback(OwnerSocket(self.folder, self.cache, {}).close)
        guest = GuestContents(self.folder)
        self._stack.callback(guest.close)
        return guest

    def end(self) -> None:
        self._stack.close()


@pytest.fixture
def server(tmp_path: Path) -> FakeTransfers:
    return FakeTransfers(tmp_path / "server")


@pytest.fixture
def owners(tmp_path: Path, server: FakeTransfers) -> Iterator[Owners]:
    owners = Owners(tmp_path / "cache", server)
    yield owners
    server.release()
    owners.end()


@pytest.fixture
def contents(owners: Owners) -> Iterator[HandoverContents]:
    with closing(HandoverContents(owners.begin())) as contents:
        yield contents


def _drop(cache: ContentCache, key: str) -> None:
    (entry,) = (entry for entry in cache._table.entries() if entry.key == key)
    with entry.condition:
        cache._verifier._drop(entry, ContentMismatch("not what it should be"), again=False)
    cache._verifier._announce(entry)


def test_every_method_of_contents_is_passed_on() -> None:
    assert {name for name in vars(Contents) if not name.startswith("_")} <= set(vars(HandoverContents))


def test_a_partial_content_goes_on_with_the_next_owner(
    contents: HandoverContents, owners: Owners, server: FakeTransfers
) -> None:
    with closing(contents.open(server.add("a", FILE))) as reader:
        assert reader.read(17 * BLOCK, BLOCK) == FILE[17 * BLOCK : 18 * BLOCK]
        owners.end()
        contents.lost()
        contents.switch(owners.begin())
        assert read_on(reader, len(FILE)) == FILE
    assert server.times_asked("a", 17) == 1


def test_a_read_waits_for_the_next_owner(contents: HandoverContents, owners: Owners, server: FakeTransfers) -> None:
    with closing(contents.open(server.add("a", FILE))) as reader, ThreadPoolExecutor(8) as threads:
        server.hold()
        reads = [threads.submit(reader.read, block * BLOCK, BLOCK) for block in range(8)]
        wait_until(lambda: server.running, "the reads to wait for the server")
        server.release()
        owners.end()
        wait_until(lambda: contents._lost_at is not None or all(read.done() for read in reads), "the loss")
        contents.switch(owners.begin())
        assert b"".join(read.result() for read in reads) == FILE[: 8 * BLOCK]


def test_the_guest_may_become_the_owner(
    contents: HandoverContents, owners: Owners, server: FakeTransfers, tmp_path: Path
) -> None:
    with closing(contents.open(server.add("a", FILE))) as reader:
        reader.read(0, 10)
        owners.end()
        with Caches(tmp_path / "cache", server) as caches:
            contents.switch(caches.open())
            assert read_on(reader, len(FILE)) == FILE
            assert contents.status().files == 1
            reader.close()


def test_what_is_open_is_open_at_the_next_owner_too(
    contents: HandoverContents, owners: Owners, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    with closing(contents.open(identity)) as reader:
        read_on(reader, len(FILE))
        owners.end()
        contents.switch(owners.begin())
        assert [entry.key for entry in owners.cache._table.entries()] == [identity.key]
    wait_until(lambda: not owners.cache._table.entries(), "it to be closed")


def test_a_whole_content_is_read_while_there_is_no_owner(
    contents: HandoverContents, owners: Owners, server: FakeTransfers
) -> None:
    with closing(contents.open(server.add("log", FILE, digest=False))) as reader:
        reader.read(0, BLOCK)
        read_on(reader, len(FILE))
        owners.end()
        contents.lost()
        assert read_on(reader, len(FILE)) == FILE


def test_who_waits_for_an_owner_that_does_not_come_is_told(
    contents: HandoverContents, owners: Owners, server: FakeTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover_module, "PATIENCE_S", 0.1)
    with closing(contents.open(server.add("a", FILE))) as reader:
        owners.end()
        for ask in (contents.status, contents.pins, lambda: reader.read(0, 10)):
            with pytest.raises(Unreachable, match="no other has taken its place"):
                ask()
        contents.switch(owners.begin())
        assert reader.read(0, 10) == FILE[:10]


def test_who_waits_for_an_owner_can_be_interrupted(
    contents: HandoverContents, owners: Owners, server: FakeTransfers
) -> None:
    with closing(contents.open(server.add("a", FILE))) as reader:
        owners.end()
        with pytest.raises(Interrupted):
            reader.read(0, 10, lambda: True)


def test_who_waits_for_an_owner_ends_with_the_contents(
    contents: HandoverContents, owners: Owners, server: FakeTransfers
) -> None:
    reader = contents.open(server.add("a", FILE))
    owners.end()
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(reader.read, 0, 10)
        wait_until(lambda: contents._lost_at is not None, "the loss")
        contents.close()
        with pytest.raises(Unreachable):
            read.result()
    reader.close()


def test_what_is_asked_is_asked_of_the_next_owner(contents: HandoverContents, owners: Owners) -> None:
    owners.end()
    with ThreadPoolExecutor(1) as thread:
        status = thread.submit(contents.status)
        wait_until(lambda: contents._lost_at is not None, "the loss")
        contents.switch(owners.begin())
        assert status.result().files == 0


def test_callbacks_survive_the_owner(contents: HandoverContents, owners: Owners, server: FakeTransfers) -> None:
    identity = server.add("a", FILE)
    dropped: list[str] = []
    contents.on_dropped(dropped.append)
    with closing(contents.open(identity)) as reader:
        read_on(reader, len(FILE))
        owners.end()
        contents.switch(owners.begin())
        _drop(owners.cache, identity.key)
        wait_until(lambda: dropped == [identity.key], "the drop to be told")
        with pytest.raises(ContentMismatch):
            reader.read(0, 10)


def test_bytes_of_an_earlier_owner_that_prove_wrong_end_the_reader(
    contents: HandoverContents, owners: Owners, server: FakeTransfers, caplog: pytest.LogCaptureFixture
) -> None:
    server.corrupt["a"] = 1
    with closing(contents.open(server.add("a", FILE))) as reader:
        server.hold(after=1)
        assert reader.read(0, 10) != FILE[:10]
        server.release()
        owners.end()
        contents.switch(owners.begin())
        with pytest.raises(ContentMismatch):
            read_on(reader, len(FILE))


def test_a_reader_of_what_was_dropped_does_not_go_on_with_the_next_owner(
    contents: HandoverContents, owners: Owners, server: FakeTransfers
) -> None:
    identity = server.add("a", FILE)
    dropped: list[str] = []
    contents.on_dropped(dropped.append)
    with closing(contents.open(identity)) as reader:
        reader.read(0, 10)
        _drop(owners.cache, identity.key)
        wait_until(lambda: dropped == [identity.key], "the drop to be told")
        owners.end()
        contents.switch(owners.begin())
        with pytest.raises(ContentMismatch):
            reader.read(0, 10)


def test_a_reader_reads_no_more_after_it_was_closed(contents: HandoverContents, server: FakeTransfers) -> None:
    reader = contents.open(server.add("a", FILE))
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(0, 10)

"""Real processes on one cache folder: the first owns it, the others read through it, and any of them may be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from runicornfs.content.blocks import BLOCK
from tests.fake_transfers import FakeTransfers, content_of
from tests.shared_cache import Failure, Guest, ImpatientGuest, Owner, Process, QuickOwner
from tests.waiting import wait_until

FILE = content_of(40 * BLOCK + 100)


class Sharing:
    """A server, a cache folder, and processes that end with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.server = FakeTransfers(folder / "server")
        self.folder = folder / "cache"
        self._stack = stack

    def owner(self, limit: int = 1 << 40) -> Process:
        return self._stack.enter_context(Process(Owner, self.folder, self.server.root, limit))

    def guest(self) -> Process:
        return self._stack.enter_context(Process(Guest, self.folder))

    def quick(self) -> tuple[Process, Process]:
        """An owner and a guest that notices soon when it is stopped."""
        owner = self._stack.enter_context(Process(QuickOwner, self.folder, self.server.root))
        return owner, self._stack.enter_context(Process(ImpatientGuest, self.folder))


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Sharing]:
    with ExitStack() as stack:
        yield Sharing(tmp_path, stack)


def _becomes_direct(guest: Process, path: str) -> None:
    """Its next reads are without the owner, who may still be checking the content."""
    wait_until(lambda: guest.do("read", path, 0, 1) and guest.do("direct", path), "the descriptor")


@pytest.mark.parametrize("guests", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.promise("C8")
@pytest.mark.promise("R9")
def test_what_several_processes_read_at_once_is_fetched_once(sharing: Sharing, guests: int) -> None:
    identity = sharing.server.add("a", FILE)
    owner = sharing.owner()
    processes = [sharing.guest() for _ in range(guests)]
    for process in processes:
        process.do("open", identity)
    for process in processes:
        process.start("read_on", identity)
    assert all(process.result() == FILE for process in processes)
    assert owner.do("read", identity) == FILE
    assert owner.do("bytes_asked") == len(FILE)


def test_a_guest_that_is_killed_while_it_reads_leaves_nothing_behind(sharing: Sharing) -> None:
    waited, whole = sharing.server.add("a", FILE), sharing.server.add("log", FILE, digest=False)
    owner, other = sharing.owner(), sharing.guest()
    other.do("open", whole)
    other.do("read_on", whole)
    other.do("read", "log", 0, 1)
    before = owner.do("used")
    guest = sharing.guest()
    guest.do("open", whole)
    guest.do("read", "log", 0, 1)
    guest.do("open", waited)
    owner.do("hold", 0)
    guest.start("read_on", waited, 4)
    wait_until(lambda: owner.do("used")[1] >= before[1] + 4, "the reads to wait")
    guest.kill()
    owner.do("release")
    wait_until(lambda: owner.do("used") == before, "the owner to give everything back")
    assert other.do("read_on", whole) == FILE


def test_readers_go_on_when_the_owner_was_killed(sharing: Sharing) -> None:
    partial, whole = sharing.server.add("a", FILE), sharing.server.add("log", FILE, digest=False)
    owner, guest = sharing.owner(), sharing.guest()
    guest.do("open", whole)
    guest.do("read_on", whole)
    _becomes_direct(guest, "log")
    guest.do("open", partial)
    owner.do("hold", 5)
    guest.start("read_on", partial, 4)
    wait_until(lambda: owner.do("bytes_asked") > len(FILE), "the fetch to begin")
    owner.kill()
    another = sharing.owner()
    assert guest.result() == FILE
    assert guest.do("lost") == 1
    assert guest.do("read_on", whole) == FILE
    assert another.do("read", whole) == FILE
    assert another.do("bytes_asked") <= len(FILE)


def test_a_whole_content_is_read_while_there_is_no_owner(sharing: Sharing) -> None:
    identity = sharing.server.add("log", FILE, digest=False)
    owner, guest = sharing.owner(), sharing.guest()
    guest.do("open", identity)
    guest.do("read_on", identity)
    _becomes_direct(guest, "log")
    owner.kill()
    wait_until(lambda: guest.do("lost"), "the guest to know")
    assert guest.do("read_on", identity) == FILE


@pytest.mark.parametrize("digest", [True, False])
def test_a_file_that_a_killed_owner_shared_is_not_changed_by_the_next(sharing: Sharing, digest: bool) -> None:
    identity = sharing.server.add("a", FILE, digest)
    owner, guest = sharing.owner(), sharing.guest()
    guest.do("open", identity)
    guest.do("read", "a", 0, len(FILE))
    _becomes_direct(guest, "a")
    owner.kill()  # the flusher has had no time to record what has come
    kept = guest.do("keep", "a")
    another = sharing.owner()
    assert guest.do("kept", kept, len(FILE)) == FILE
    assert another.do("read", identity) == FILE
    assert another.do("bytes_asked") == 0


def test_owners_are_killed_again_and_again_under_readers(sharing: Sharing) -> None:
    identities = [sharing.server.add(f"file{number}", content_of(40 * BLOCK, seed=number)) for number in range(3)]
    owner = sharing.owner()
    guests = [sharing.guest() for _ in identities]
    for guest, identity in zip(guests, identities, strict=True):
        guest.do("open", identity)
        guest.start("read_on", identity, 3)
    for allowed in (2, 5, 9):
        owner.kill()
        owner = sharing.owner()
        owner.do("hold", allowed)
        wait_until(lambda: owner.do("bytes_asked"), "the reads to go on")  # noqa: B023
    owner.do("release")
    for number, guest in enumerate(guests):
        assert guest.result() == content_of(40 * BLOCK, seed=number)


def test_an_owner_that_is_stopped_holds_up_no_content_that_is_whole(sharing: Sharing) -> None:
    identity = sharing.server.add("log", FILE, digest=False)
    owner, guest = sharing.owner(), sharing.guest()
    guest.do("open", identity)
    guest.do("read_on", identity)
    _becomes_direct(guest, "log")
    os.kill(owner.pid, signal.SIGSTOP)
    assert guest.do("read_on", identity) == FILE
    os.kill(owner.pid, signal.SIGCONT)


def stop(pid: int) -> None:
    """Returns when no thread of it runs any more: each goes on until it notices."""
    os.kill(pid, signal.SIGSTOP)
    stats = [task / "stat" for task in Path(f"/proc/{pid}/task").iterdir()]
    wait_until(lambda: all(stat.read_text().rpartition(") ")[2][0] == "T" for stat in stats), "the process to stop")


@pytest.mark.promise("A6")
def test_folders_are_listed_while_the_owner_is_stopped(sharing: Sharing) -> None:
    identity = sharing.server.add("a", FILE, digest=False)
    owner, guest = sharing.quick()
    assert owner.do("read", identity) == FILE
    wait_until(lambda: guest.do("look", identity.key)[:2] == (len(FILE), "cached"), "an answer in time")
    stop(owner.pid)
    assert guest.do("look", identity.key) == (0, "remote", 0)
    os.kill(owner.pid, signal.SIGCONT)
    wait_until(lambda: guest.do("look", identity.key)[:2] == (len(FILE), "cached"), "the owner to be heard again")


def test_an_owner_that_is_stopped_is_waited_for_once(sharing: Sharing) -> None:
    """Each wait costs three seconds here: all of them would take longer than this test may."""
    identity = sharing.server.add("a", FILE)
    owner, guest = sharing.quick()
    stop(owner.pid)
    assert guest.do("unanswered", identity, 200) == 200
    os.kill(owner.pid, signal.SIGCONT)
    wait_until(lambda: not guest.do("unanswered", identity, 1), "the owner to be heard again")
    guest.do("open", identity)
    assert guest.do("read_on", identity) == FILE


def test_a_guest_that_is_stopped_holds_up_no_other(sharing: Sharing) -> None:
    first, second = sharing.server.add("a", FILE), sharing.server.add("b", content_of(5 * BLOCK, seed=1))
    owner, stopped, other = sharing.owner(), sharing.guest(), sharing.guest()
    stopped.do("open", first)
    owner.do("hold", 0)
    stopped.start("read_on", first, 8)
    wait_until(lambda: owner.do("bytes_asked"), "the reads to wait")
    os.kill(stopped.pid, signal.SIGSTOP)
    owner.do("release")
    other.do("open", second)
    other.do("open", first)
    assert other.do("read_on", second) == content_of(5 * BLOCK, seed=1)
    assert other.do("read_on", first) == FILE
    os.kill(stopped.pid, signal.SIGCONT)
    assert stopped.result() == FILE


def test_a_content_larger_than_the_cache_passes_through_it_to_all(sharing: Sharing) -> None:
    content = content_of(60 * BLOCK + 7, seed=3)
    identity = sharing.server.add("large", content)
    owner = sharing.owner(24 * BLOCK)
    guests = [sharing.guest() for _ in range(2)]
    for guest in guests:
        guest.do("open", identity)
        guest.start("read_on", identity, 2)
    assert [guest.result() == content for guest in guests] == [True, True]
    assert owner.do("size_bytes") <= 24 * BLOCK


@pytest.mark.promise("C2")
def test_what_guests_read_without_the_owner_is_not_evicted(sharing: Sharing) -> None:
    kept = sharing.server.add("kept", FILE)
    others = [sharing.server.add(f"other{number}", content_of(10 * BLOCK, seed=number)) for number in range(3)]
    owner, guest = sharing.owner(55 * BLOCK), sharing.guest()
    guest.do("open", kept)
    guest.do("read_on", kept)
    _becomes_direct(guest, "kept")
    for other in others:
        owner.do("read", other)
    assert owner.do("evictions") > 0
    assert guest.do("read_on", kept) == FILE
    guest.do("close", "kept")
    asked = owner.do("bytes_asked")
    assert owner.do("read", kept) == FILE
    assert owner.do("bytes_asked") == asked


def test_what_is_cleared_stays_with_those_who_have_it_open(sharing: Sharing) -> None:
    identity = sharing.server.add("a", FILE)
    owner, guest = sharing.owner(), sharing.guest()
    guest.do("open", identity)
    guest.do("read_on", identity)
    guest.do("clear")
    assert guest.do("read_on", identity) == FILE
    guest.do("close", "a")
    assert owner.do("size_bytes") == 0


def test_a_byte_that_flips_on_the_disk_is_found_and_ends_its_readers(sharing: Sharing) -> None:
    identity = sharing.server.add("a", FILE)
    owner, guest, other = sharing.owner(), sharing.guest(), sharing.guest()
    for process in (guest, other):
        process.do("open", identity)
        assert process.do("read_on", identity) == FILE
        _becomes_direct(process, "a")
    (file,) = (sharing.folder / "blocks").iterdir()
    with file.open("r+b") as stored:
        stored.seek(7 * BLOCK)
        stored.write(bytes([FILE[7 * BLOCK] ^ 1]))
    other.do("verify")
    wait_until(lambda: other.do("corrupt_files") == 1, "the check")
    for process in (guest, other):
        wait_until(lambda: process.do("heard") == [identity.key], "the guest to hear of it")  # noqa: B023
        with pytest.raises(Failure, match="ContentMismatch"):
            process.do("read", "a", 0, 10)
        process.do("close", "a")
        process.do("open", identity)
        assert process.do("read_on", identity) == FILE
    assert owner.do("bytes_asked") == 2 * len(FILE)

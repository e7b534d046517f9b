"""Many small files over one session, against a server in memory that does all that the protocol allows, and more."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import (
    AccessDenied,
    ConnectionLost,
    MissingOnServer,
    ProtocolError,
    ServerError,
    StaleFile,
    UnsafePath,
)
from runicornfs.remote import batch as batches
from runicornfs.remote.batch import Batch
from runicornfs.remote.line import Line
from runicornfs.remote.packets import Code, Kind, packet, string, uint32
from runicornfs.remote.sftp import SftpSession
from runicornfs.store.files import Job, RemoteFile
from tests.fake_sftp import FakeChannel

_FILES = {f"f{number}": random.Random(number).randbytes(1000 + 7000 * number) for number in range(20)}


class Turns(FakeChannel):
    """Counts how often the other side waits: nothing is answered before it does."""

    waits = 0

    def recv(self, nbytes: int) -> bytes:
        if not self._stream and self.requests:
            self.waits += 1
            answers = b"".join(b"".join(self.tamper(*answer)) for answer in self._answers)
            self._answers, self._stream = [], answers
        return super().recv(nbytes)


class World:
    """Files below /root on a server in memory, a session to it, and a local file for each of them."""

    def __init__(self, files: dict[str, bytes], **how: object) -> None:
        self.files = files
        there = {f"/root/{path}".encode(): content for path, content in files.items()}
        self.channel = Turns(there, **how)  # type: ignore[arg-type]
        self.line = Line()
        self.received: list[tuple[str, int, int]] = []
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.targets = {path: os.open(f"{folder}/{path}", os.O_RDWR | os.O_CREAT) for path in files}
        for fd in self.targets.values():
            self._stack.callback(os.close, fd)
        self.session = SftpSession(self.channel, self.line)
        self.session.start()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *reason: object) -> None:
        self._stack.close()

    def job(self, path: str, spans: list[tuple[int, int]] | None = None, asked: str | None = None) -> Job:
        """By default all of the file."""
        size = len(self.files[path])
        return Job(
            RemoteFile(asked or path, size, None),
            [(0, size)] if spans is None else spans,
            self.targets[path],
            lambda *span: self.received.append((path, *span)),
        )

    def batch(self, jobs: list[Job] | None = None) -> Batch:
        return Batch(self.session, "/root", [self.job(path) for path in self.files] if jobs is None else jobs)

    def here(self, path: str) -> bytes:
        return os.pread(self.targets[path], 1 << 20, 0)

    def arrived(self) -> set[str]:
        """The files that are here, each as it is there."""
        return {path for path, content in self.files.items() if self.here(path) == content}


@pytest.fixture
def world() -> Iterator[World]:
    with World(_FILES) as world:
        yield world


def test_all_files_come_in_two_round_trips(world: World) -> None:
    waits = world.channel.waits
    batch = world.batch()
    batch.run()
    assert world.channel.waits - waits == 2
    assert world.arrived() == set(_FILES)
    assert sorted(world.received) == sorted((path, 0, len(content)) for path, content in _FILES.items())
    assert (batch.opens, batch.reads, batch.bytes) == (20, 20, sum(map(len, _FILES.values())))
    assert batch.errors == [None] * 20
    assert not batch.left
    assert not world.channel.open_handles
    assert world.line.sent(0, 1.0).alone  # nothing counts as on its way any more


def test_the_session_can_be_used_afterwards(world: World) -> None:
    world.batch().run()
    assert world.session.stat(b"/root/f3").size == len(_FILES["f3"])


@given(data=st.data(), order=st.integers(0, 2**32).map(random.Random))
def test_short_and_disordered_answers_put_every_byte_in_its_place(data: st.DataObject, order: random.Random) -> None:
    sizes = data.draw(st.lists(st.integers(1, 300_000), min_size=1, max_size=4))
    files = {str(number): order.randbytes(size) for number, size in enumerate(sizes)}
    limits = data.draw(st.sampled_from([None, 4096, 100_000, 255 << 10]))
    with World(
        files,
        limits=limits,
        short=lambda length: order.randint(max(1, length // 4), length),
        piece=lambda: order.choice([1000, 1 << 20]),
        shuffle=order,
        handles=data.draw(st.integers(2, 10)) if limits else 100,
    ) as world:
        jobs, wanted = [], []
        for path, content in files.items():
            cuts = sorted({0, len(content), *data.draw(st.lists(st.integers(0, len(content)), max_size=2))})
            spans = [(start, end - start) for start, end in zip(cuts, cuts[1:], strict=False)]
            jobs.append(world.job(path, spans))
            wanted += [(path, *span) for span in spans]
        batch = world.batch(jobs)
        batch.run()
        assert batch.errors == [None] * len(files)
        assert world.arrived() == set(files)
        assert sorted(world.received) == sorted(wanted)
        assert batch.bytes == sum(sizes)


def test_what_goes_wrong_with_a_file_concerns_no_other() -> None:
    with World(_FILES, refuses={b"/root/f1": Code.PERMISSION_DENIED}) as world:
        del world.channel.files[b"/root/f2"]
        world.channel.files[b"/root/f3"] += b"x"
        world.channel.files[b"/root/f4/"] = world.channel.files.pop(b"/root/f4")
        jobs = [world.job(path) for path in _FILES]
        jobs[5] = world.job("f5", asked="../f5")
        batch = world.batch(jobs)
        batch.run()
        kinds = [type(error) for error in batch.errors]
        assert kinds[:6] == [type(None), AccessDenied, MissingOnServer, StaleFile, StaleFile, UnsafePath]
        assert kinds[6:] == [type(None)] * 14
        assert world.arrived() == set(_FILES) - {"f1", "f2", "f3", "f4", "f5"}
        assert world.session.is_open
        world.session.stat(b"/root/f7")  # by now all that were opened are closed
        assert not world.channel.open_handles


def test_a_file_that_ends_too_early_is_stale(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = world.batch([world.job("f3"), world.job("f4")])
    sent = world.channel.send

    def send(s: bytes) -> int:
        size = sent(s)
        world.channel.files[b"/root/f3"] = _FILES["f3"][:500]  # it was opened with all of it
        return size

    monkeypatch.setattr(world.channel, "send", send)
    batch.run()
    assert isinstance(batch.errors[0], StaleFile)
    assert "ends before" in str(batch.errors[0])
    assert batch.errors[1] is None
    assert world.arrived() == {"f4"}


@pytest.mark.parametrize(
    "answer",
    [
        lambda id_, data: packet(Kind.DATA, id_, string(data + b"x")),
        lambda id_, data: packet(Kind.DATA, id_, string(b"")),
        lambda id_, data: packet(Kind.DATA, id_ + 1000, string(data)),
        lambda id_, data: packet(Kind.DATA, id_, uint32(2**31), data),
        lambda id_, data: packet(Kind.HANDLE, id_, string(data)),
        lambda id_, data: packet(Kind.STATUS, id_, b""),
        lambda id_, data: b"\xff" * 100,
    ],
)
def test_an_answer_that_is_not_allowed_ends_batch_and_session(
    world: World, answer: Callable[[int, bytes], bytes]
) -> None:
    data = iter(range(3))

    def tamper(kind: Kind, id_: int, body: bytes) -> list[bytes]:
        if kind == Kind.DATA and next(data, None) is None:
            return [answer(id_, body[4:])]
        return [packet(kind, id_, body)]

    world.channel.tamper = tamper
    batch = world.batch()
    with pytest.raises(ProtocolError):
        batch.run()
    assert not world.session.is_open
    assert batch.left == set(range(3, 20))
    assert world.arrived() == {"f0", "f1", "f2"}
    assert world.line.sent(0, 1.0).alone


def test_a_handle_of_any_length_is_not_taken(world: World) -> None:
    world.channel.tamper = lambda kind, id_, body: [
        packet(kind, id_, string(b"h" * 1000) if kind == Kind.HANDLE else body)
    ]
    batch = world.batch()
    with pytest.raises(ProtocolError):
        batch.run()
    assert batch.left == set(range(20))


def test_a_line_that_is_cut_keeps_what_has_come(world: World) -> None:
    data = iter(range(7))
    world.channel.ends = True
    world.channel.tamper = lambda kind, id_, body: (
        [packet(kind, id_, body)] if kind != Kind.DATA or next(data, None) is not None else []
    )
    batch = world.batch()
    with pytest.raises(ConnectionLost):
        batch.run()
    assert batch.left == set(range(7, 20))
    assert world.arrived() == {f"f{number}" for number in range(7)}
    assert world.line.sent(0, 1.0).alone


def test_a_write_that_fails_concerns_its_file(world: World) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    try:
        bad = world.job("f3")._replace(fd=full)
        batch = world.batch([world.job("f2"), bad, world.job("f4")])
        batch.run()
    finally:
        os.close(full)
    assert [type(error) for error in batch.errors] == [type(None), OSError, type(None)]
    assert isinstance(batch.errors[1], OSError)
    assert batch.errors[1].errno == errno.ENOSPC
    assert world.arrived() == {"f2", "f4"}
    assert world.session.is_open


def test_no_more_handles_are_taken_than_half_of_what_the_server_has() -> None:
    with World(_FILES, handles=10) as world:
        world.batch().run()
        assert world.arrived() == set(_FILES)
        assert world.channel.most_handles == 5


def test_who_may_only_have_had_no_handle_is_told_apart() -> None:
    with World(_FILES, handles=3, says_handles=100) as world:
        batch = world.batch()
        batch.run()
        assert len(batch.crowded) == 17
        assert {type(batch.errors[number]) for number in batch.crowded} == {ServerError}
        assert len(world.arrived()) == 3


def test_only_so_many_bytes_are_on_their_way_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 200_000)
    world.batch().run()
    assert world.arrived() == set(_FILES)
    assert world.channel.largest_queue <= 200_000


def test_a_file_that_is_larger_than_that_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 10)
    with World(_FILES) as world:
        world.batch().run()
        assert world.arrived() == set(_FILES)
        assert world.channel.most_handles == 1


def test_nothing_to_do_asks_for_nothing(world: World) -> None:
    asked = len(world.channel.requests)
    world.batch([]).run()
    assert len(world.channel.requests) == asked

"""The loop that reads ranges, against a server in memory that does all that the protocol allows, and more."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import AccessDenied, ConnectionLost, ProtocolError, ServerError, StaleFile, TimedOut
from runicornfs.remote.line import MIN_WINDOW, Line
from runicornfs.remote.packets import Code, Kind, packet, string, uint32
from runicornfs.remote.sftp import SftpSession
from runicornfs.remote.transfer import Transfer
from tests.fake_sftp import FakeChannel

_CONTENT = random.Random(1).randbytes(3 << 20)  # three windows


class Fetch:
    """One transfer from `channel` into a file, and what came of it."""

    def __init__(self, channel: FakeChannel, fd: int) -> None:
        self.channel = channel
        self.line = Line()
        self.session = SftpSession(channel, self.line)
        self.session.start()
        self.handle = self.session.open(b"/f").handle
        self.received: list[tuple[int, int]] = []
        self.fd = fd

    def run(self, wanted: Iterator[tuple[int, int]]) -> Transfer:
        transfer = Transfer(self.session, b"/f", self.handle, self.fd, self._note)
        transfer.run(wanted)
        return transfer

    def _note(self, offset: int, length: int) -> None:
        self.received.append((offset, length))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def ranges(total: int, size: int) -> list[tuple[int, int]]:
    return [(offset, min(size, total - offset)) for offset in range(0, total, size)]


@pytest.mark.parametrize("limits", [None, 4096, 100_000, 255 << 10])
def test_a_whole_file_arrives(target: int, limits: int | None) -> None:
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}, limits=limits), target)
    wanted = ranges(len(_CONTENT), 1 << 20)
    transfer = fetch.run(iter(wanted))
    assert os.pread(target, len(_CONTENT) + 1, 0) == _CONTENT
    assert sorted(fetch.received) == wanted
    assert transfer.bytes == len(_CONTENT)
    assert transfer.reads == len(fetch.channel.reads)
    assert fetch.session.is_open


@given(data=st.data(), order=st.integers(0, 2**32).map(random.Random))
def test_short_and_disordered_answers_put_every_byte_in_its_place(data: st.DataObject, order: random.Random) -> None:
    content = order.randbytes(data.draw(st.integers(1, 300_000)))
    spans = st.tuples(st.integers(0, len(content) - 1), st.integers(1, 100_000))
    wanted = [(offset, min(length, len(content) - offset)) for offset, length in data.draw(st.lists(spans))]
    channel = FakeChannel(
        {b"/f": content},
        limits=data.draw(st.sampled_from([None, 4096, 10_000, 255 << 10])),
        short=lambda length: order.randint(length // 3, length),
        piece=lambda: order.randint(1, 50_000),
        shuffle=order,
    )
    fd = os.memfd_create("target")
    try:
        fetch = Fetch(channel, fd)
        fetch.run(iter(wanted))
        assert sorted(fetch.received) == sorted(wanted)
        for offset, length in wanted:
            assert os.pread(fd, length, offset) == content[offset : offset + length]
    finally:
        os.close(fd)


def test_a_range_is_announced_only_when_all_of_it_has_been_written(target: int) -> None:
    channel = FakeChannel({b"/f": _CONTENT}, limits=4096, shuffle=random.Random(3))
    fetch = Fetch(channel, target)
    written: list[bool] = []

    def note(offset: int, length: int) -> None:
        written.append(os.pread(target, length, offset) == _CONTENT[offset : offset + length])

    Transfer(fetch.session, b"/f", fetch.handle, target, note).run(iter(ranges(1 << 20, 100_000)))
    assert written == [True] * 11


def test_a_megabyte_is_split_evenly(target: int) -> None:
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    fetch.run(iter([(0, 1 << 20)]))
    lengths = [length for _, length in fetch.channel.reads]
    assert len(lengths) == 5
    assert max(lengths) - min(lengths) <= 5 * 4096
    assert all(offset % 4096 == 0 for offset, _ in fetch.channel.reads)


def test_ranges_are_taken_only_when_there_is_room_for_them(target: int) -> None:
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    behind: list[int] = []

    def wanted() -> Iterator[tuple[int, int]]:
        for taken, (offset, length) in enumerate(ranges(len(_CONTENT), 128 << 10)):
            behind.append(taken - len(fetch.received))
            yield offset, length

    fetch.run(wanted())
    assert max(behind) < 1 + 2 * MIN_WINDOW // (
        128 << 10
    )  # the line is empty and infinitely fast: one doubling at most
    assert behind[8] > 0


def test_nothing_is_drained_between_ranges(target: int) -> None:
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    fetch.run(iter(ranges(len(_CONTENT), 128 << 10)))
    assert fetch.channel.largest_queue >= MIN_WINDOW


def test_nothing_wanted_asks_for_nothing(target: int) -> None:
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    fetch.run(iter([]))
    assert fetch.channel.reads == []


def test_a_file_that_ends_too_early_is_stale(target: int) -> None:
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    fetch.channel.files[b"/f"] = _CONTENT[:1_500_000]
    with pytest.raises(StaleFile, match="ends before"):
        fetch.run(iter(ranges(len(_CONTENT), 1 << 20)))
    assert fetch.received == [(0, 1 << 20)]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda id_, data: packet(Kind.DATA, id_, string(data + b"x")), ProtocolError),
        (lambda id_, data: packet(Kind.DATA, id_, string(b"")), ProtocolError),
        (lambda id_, data: packet(Kind.DATA, id_ + 1000, string(data)), ProtocolError),
        (lambda id_, data: packet(Kind.DATA, id_, string(data)) * 2, ProtocolError),
        (lambda id_, data: packet(Kind.DATA, id_, uint32(2**31), data), ProtocolError),
        (lambda id_, data: packet(Kind.DATA, id_, uint32(1), data), ProtocolError),
        (lambda id_, data: packet(Kind.HANDLE, id_, string(data)), ProtocolError),
        (lambda id_, data: packet(Kind.STATUS, id_, uint32(Code.PERMISSION_DENIED)), AccessDenied),
        (lambda id_, data: packet(Kind.STATUS, id_, uint32(Code.OK)), ServerError),
        (lambda id_, data: packet(Kind.STATUS, id_, b""), ProtocolError),
        (lambda id_, data: b"\xff" * 100, ProtocolError),
        (lambda id_, data: b"", TimedOut),
    ],
)
def test_an_answer_that_is_not_allowed_ends_transfer_and_session(
    target: int, answer: object, error: type[ServerError]
) -> None:
    assert callable(answer)
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    fetch.channel.tamper = lambda kind, id_, body: [
        answer(id_, body[4:]) if kind == Kind.DATA else packet(kind, id_, body)
    ]
    with pytest.raises(error):
        fetch.run(iter(ranges(len(_CONTENT), 1 << 20)))
    assert not fetch.session.is_open
    assert fetch.line.sent(0, 1.0).alone  # nothing counts as on its way any more


# Bytes of an answer to READ in front of the file's: its length, kind, id, and how many they are.
HEAD_OF_DATA = 13


@given(
    answers=st.integers(3, 40),
    torn=st.integers(0, 32 << 10),
    order=st.none() | st.integers(0, 2**32).map(random.Random),
    silent=st.booleans(),
)
@pytest.mark.promise("A4")
def test_of_a_range_that_breaks_off_its_start_is_told_as_far_as_it_came(
    answers: int, torn: int, order: random.Random | None, silent: bool
) -> None:
    """`torn`: bytes that still come of the answer in which the line breaks."""
    channel = FakeChannel({b"/f": _CONTENT}, limits=32 << 10)
    fd = os.memfd_create("target")
    try:
        fetch = Fetch(channel, fd)
        left = iter([*[1 << 20] * answers, torn])
        channel._shuffle = order
        channel.ends = not silent
        channel.tamper = lambda kind, id_, body: [packet(kind, id_, body)[: next(left, 0)]]
        with pytest.raises(TimedOut if silent else ConnectionLost):
            fetch.run(iter(ranges(2 << 20, 1 << 20)))
        for offset, length in fetch.received:
            assert os.pread(fd, length, offset) == _CONTENT[offset : offset + length]
        if order is None:
            came = answers * (32 << 10) + max(0, torn - HEAD_OF_DATA)
            assert sum(length for _, length in fetch.received) == came, "nothing is asked for twice"
    finally:
        os.close(fd)


def test_a_write_that_fails_is_the_error_and_the_session_is_not_used_again(
    target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    with pytest.raises(OSError, match="No space left"):
        fetch.run(iter(ranges(len(_CONTENT), 1 << 20)))
    assert fetch.received == []
    assert not fetch.session.is_open


def test_a_write_that_takes_only_a_part_is_continued(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, views, offset: whole(fd, b"".join(views)[:1000], offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, bytes(data[:50_000]), offset))
    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    fetch.run(iter(ranges(len(_CONTENT), 1 << 20)))
    assert os.pread(target, len(_CONTENT), 0) == _CONTENT


def test_what_the_asker_raises_comes_back_to_it(target: int) -> None:
    class GivenUpError(Exception):
        pass

    def wanted() -> Iterator[tuple[int, int]]:
        yield 0, 1000
        raise GivenUpError

    fetch = Fetch(FakeChannel({b"/f": _CONTENT}), target)
    with pytest.raises(GivenUpError):
        fetch.run(wanted())
    assert not fetch.session.is_open

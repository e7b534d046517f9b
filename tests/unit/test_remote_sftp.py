"""SFTP packets and sessions against a server in memory: what is allowed is handled, what is not is refused."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import AccessDenied, ConnectionLost, MissingOnServer, ProtocolError, ServerError, TimedOut
from runicornfs.remote import sftp
from runicornfs.remote.line import Line
from runicornfs.remote.packets import (
    LARGEST_PACKET,
    Attributes,
    Code,
    Fields,
    Kind,
    PacketReader,
    packet,
    string,
    uint32,
)
from runicornfs.remote.sftp import DEFAULT_READ, LARGEST_READ, SftpSession
from tests.fake_sftp import FakeChannel


def session_on(channel: FakeChannel) -> SftpSession:
    session = SftpSession(channel, Line())
    session.start()
    return session


class Feed:
    """Hands out bytes in pieces, then ends."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = data
        self._sizes = sizes

    def __call__(self) -> bytes:
        if not self._data:
            raise ConnectionLost("the end")
        size = self._sizes.pop() if self._sizes else len(self._data)
        part, self._data = self._data[:size], self._data[size:]
        return part


@given(
    st.lists(st.tuples(st.sampled_from([Kind.DATA, Kind.STATUS, Kind.HANDLE]), st.integers(0, 2**32 - 1), st.binary())),
    st.lists(st.integers(1, 20)),
)
def test_packets_are_cut_out_of_the_stream_however_it_is_chopped(
    packets: list[tuple[Kind, int, bytes]], sizes: list[int]
) -> None:
    stream = b"".join(packet(kind, id_, string(body)) for kind, id_, body in packets)
    reader = PacketReader(Feed(stream, sizes))
    for kind, id_, body in packets:
        got = reader.next()
        assert (got.kind, got.id) == (kind, id_)
        assert b"".join(got.body) == (body if kind == Kind.DATA else string(body))
        assert got.size == sum(map(len, got.body))
    with pytest.raises(ConnectionLost):
        reader.next()


@given(st.binary(max_size=200), st.lists(st.integers(1, 20)))
def test_any_bytes_are_packets_or_refused(stream: bytes, sizes: list[int]) -> None:
    reader = PacketReader(Feed(stream, sizes))
    with pytest.raises((ProtocolError, ConnectionLost)):
        for _ in iter(reader.next, None):
            pass


@given(st.binary(max_size=100))
def test_any_body_is_attributes_or_refused(body: bytes) -> None:
    for take in (Fields.attributes, Fields.names, Fields.pairs, Fields.limits, Fields.string):
        with contextlib.suppress(ProtocolError):
            take(Fields(body))


@pytest.mark.parametrize("length", [0, 4, LARGEST_PACKET + 1, 2**32 - 1])
def test_a_packet_of_an_impossible_length_is_refused_before_it_is_received(length: int) -> None:
    reader = PacketReader(Feed(struct.pack(">IBI", length, Kind.DATA, 1), []))
    with pytest.raises(ProtocolError, match="impossible length"):
        reader.next()


@pytest.mark.parametrize(("announced", "sent"), [(5, 4), (3, 4), (2**32 - 1, 4)])
def test_file_data_of_another_length_than_announced_is_refused(announced: int, sent: int) -> None:
    reader = PacketReader(Feed(packet(Kind.DATA, 1, uint32(announced), bytes(sent)), []))
    with pytest.raises(ProtocolError, match="announced"):
        reader.next()


def test_data_is_handed_on_without_a_copy() -> None:
    received = packet(Kind.DATA, 1, string(bytes(1000)))
    views = PacketReader(Feed(received, [])).next().body
    assert [view.obj is received for view in views] == [True]


@pytest.mark.parametrize(
    ("limits", "used"),
    [(None, DEFAULT_READ), (0, DEFAULT_READ), (100_000, 100_000), (2**40, LARGEST_READ), (1, 4096)],
)
def test_the_read_limit_is_what_the_server_says_within_reason(limits: int | None, used: int) -> None:
    assert session_on(FakeChannel({}, limits=limits)).read_limit == used


def test_attributes_of_a_file_and_of_a_folder() -> None:
    session = session_on(FakeChannel({b"/d/": b"", b"/d/f": b"abc"}))
    assert session.stat(b"/d/f") == Attributes(3, 0o100644, 1_700_000_000, (0, 0))
    assert session.stat(b"/d").is_directory


def test_attributes_that_the_server_leaves_out_are_unknown() -> None:
    assert Fields(uint32(0)).attributes() == Attributes(None, None, None)
    assert Fields(uint32(0x80000000) + uint32(1) + string(b"a@b") + string(b"c")).attributes() == Attributes()


def test_the_attributes_of_an_open_file() -> None:
    session = session_on(FakeChannel({b"/f": b"abc"}))
    assert session.fstat(session.open(b"/f").handle).size == 3


def test_a_folder_is_listed_without_its_dots() -> None:
    session = session_on(FakeChannel({b"/d/": b"", b"/d/f": b"abc", b"/d/e/": b"", b"/d/e/g": b""}))
    assert [(name, entry.is_directory) for name, entry in session.list_folder(b"/d")] == [(b"e", True), (b"f", False)]


def test_opening_takes_one_round_trip_and_asks_for_the_attributes_with_it() -> None:
    channel = FakeChannel({b"/f": b"abc"})
    opened = session_on(channel).open(b"/f")
    assert channel.requests[-2:] == [Kind.LSTAT, Kind.OPEN]
    assert opened.attributes.size == 3


def test_a_file_that_is_open_is_not_opened_again() -> None:
    channel = FakeChannel({b"/f": b"abc"})
    session = session_on(channel)
    assert session.open(b"/f").handle == session.open(b"/f").handle
    assert session.holds(b"/f")
    assert channel.requests.count(Kind.OPEN) == 1
    assert session.opens == 1


def test_a_file_that_was_opened_for_one_content_is_not_read_for_another() -> None:
    """The same path, the same size, the same second: a version number had come back with other bytes."""
    channel = FakeChannel({b"/f": b"abc"})
    session = session_on(channel)
    first = session.open(b"/f", "one").handle
    assert session.open(b"/f", "one").handle == first
    assert session.open(b"/f", "two").handle != first
    assert list(channel.open_handles) == [b"handle 2"]


def test_no_more_than_sixteen_files_stay_open() -> None:
    channel = FakeChannel({b"/%d" % number: b"" for number in range(20)})
    session = session_on(channel)
    for number in range(20):
        session.open(b"/%d" % number)
    assert len(channel.open_handles) == 16
    assert session.holds(b"/19")
    assert not session.holds(b"/3")
    session.stat(b"/0")  # the answers to CLOSE do not confuse what is asked next


def test_a_file_that_cannot_be_looked_at_does_not_stay_open() -> None:
    channel = FakeChannel({b"/f": b"abc"})
    session = session_on(channel)
    channel.tamper = lambda kind, id_, body: [
        packet(Kind.STATUS, id_, uint32(Code.PERMISSION_DENIED)) if kind == Kind.ATTRS else packet(kind, id_, body)
    ]
    with pytest.raises(AccessDenied, match="/f"):
        session.open(b"/f")
    assert channel.open_handles == {}


@pytest.mark.parametrize(
    ("code", "error", "stays_open"),
    [
        (Code.NO_SUCH_FILE, MissingOnServer, True),
        (Code.PERMISSION_DENIED, AccessDenied, True),
        (Code.CONNECTION_LOST, ConnectionLost, False),
        (4, ServerError, True),
        (77, ServerError, True),
    ],
)
def test_a_refusal_of_the_server_is_an_error_of_its_kind(code: int, error: type[ServerError], stays_open: bool) -> None:
    channel = FakeChannel({b"/f": b""})
    session = session_on(channel)
    channel.tamper = lambda kind, id_, body: [packet(Kind.STATUS, id_, uint32(code) + string(b"no \x1b[31m\xff"))]
    with pytest.raises(error) as refusal:
        session.stat(b"/f")
    assert type(refusal.value) is error
    assert "\x1b" not in str(refusal.value)
    assert session.is_open == stays_open


@pytest.mark.parametrize(
    "nonsense",
    [
        packet(Kind.ATTRS, 999, uint32(0)),
        packet(Kind.ATTRS, 2, b""),
        packet(Kind.NAME, 2, uint32(0)),
        packet(Kind.STATUS, 2, b"\0"),
        packet(Kind.STATUS, 2, uint32(4) + uint32(1000)),
        struct.pack(">IBI", 2**31, 1, 1),
        b"Welcome to this server!",
    ],
)
def test_nonsense_is_refused_and_ends_the_session(nonsense: bytes) -> None:
    channel = FakeChannel({b"/f": b""}, limits=None)
    session = session_on(channel)
    channel.tamper = lambda kind, id_, body: [nonsense]
    session.next_id()
    with pytest.raises(ProtocolError):
        session.stat(b"/f")
    assert not session.is_open
    assert channel.closed


def test_an_answer_that_comes_twice_is_refused() -> None:
    channel = FakeChannel({b"/f": b""})
    session = session_on(channel)
    channel.tamper = lambda kind, id_, body: [packet(kind, id_, body)] * 2
    with pytest.raises(ProtocolError, match="not made"):
        session.open(b"/f")


def test_a_server_that_is_no_sftp_server_is_refused() -> None:
    channel = FakeChannel({}, tamper=lambda kind, id_, body: [b"This service allows no SFTP.\n"])
    with pytest.raises(ProtocolError):
        SftpSession(channel, Line()).start()


def test_an_older_protocol_is_refused() -> None:
    channel = FakeChannel({}, tamper=lambda kind, id_, body: [packet(Kind.VERSION, 2)])
    with pytest.raises(ProtocolError, match="version 3"):
        SftpSession(channel, Line()).start()


def test_silence_is_a_time_out_and_ends_the_session() -> None:
    channel = FakeChannel({b"/f": b""})
    session = session_on(channel)
    channel.tamper = lambda kind, id_, body: []
    with pytest.raises(TimedOut):
        session.stat(b"/f")
    assert not session.is_open


def test_the_end_of_the_stream_is_a_lost_connection() -> None:
    channel = FakeChannel({b"/f": b""})
    session = session_on(channel)
    channel.tamper = lambda kind, id_, body: []
    channel.ends = True
    with pytest.raises(ConnectionLost):
        session.stat(b"/f")
    assert not session.is_open


def test_a_closed_channel_is_a_lost_connection() -> None:
    channel = FakeChannel({b"/f": b""})
    session = session_on(channel)
    channel.close()
    with pytest.raises(ConnectionLost):
        session.stat(b"/f")


@given(st.randoms(use_true_random=False), st.lists(st.sampled_from([b"/a", b"/b", b"/c"]), max_size=8))
def test_answers_in_any_order_reach_their_requests(order: random.Random, paths: list[bytes]) -> None:
    files = {b"/a": b"1", b"/b": b"22", b"/c": b"333"}
    session = session_on(FakeChannel(files, shuffle=order, piece=lambda: order.randint(1, 9)))
    answers = session.ask_all(*((Kind.STAT, string(path)) for path in paths))
    assert [answer.fields().attributes().size for answer in answers] == [len(files[path]) for path in paths]


def test_a_folder_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "_MOST_NAMES", 3)
    session = session_on(FakeChannel({b"/d/": b"", **{b"/d/%d" % number: b"" for number in range(4)}}))
    with pytest.raises(ServerError, match="more than 3"):
        session.list_folder(b"/d")

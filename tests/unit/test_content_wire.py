"""Frames over a Unix socket, and errors that come out as they went in."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.content import wire
from runicornfs.content.wire import Connection, connect, described, error_of, listen
from runicornfs.errors import (
    AmbiguousName,
    ConnectionLost,
    HostKeyChanged,
    NoSpace,
    OwnerGone,
    ProtocolError,
    Refused,
    TimedOut,
)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Connection]]:
    ends = socket.socketpair()
    left, right = Connection(ends[0]), Connection(ends[1])
    yield left, right
    left.close()
    right.close()


@given(st.lists(st.tuples(st.dictionaries(st.text(), st.integers() | st.text()), st.binary(max_size=5000)), max_size=5))
def test_what_is_sent_is_received(frames: list[tuple[dict[str, object], bytes]]) -> None:
    ends = socket.socketpair()
    left, right = Connection(ends[0]), Connection(ends[1])
    for header, body in frames:
        left.send(header, body)
        assert right.receive() == (header, body, None)
    left.close()
    assert right.receive() is None
    right.close()


def test_a_frame_larger_than_the_sockets_buffer_arrives_whole(pair: tuple[Connection, Connection]) -> None:
    left, right = pair
    body = os.urandom(3 << 20)
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(left.send, {"n": 1}, body)
        frame = right.receive()
        sending.result()
    assert frame == ({"n": 1}, body, None)


def test_a_descriptor_comes_along_and_is_not_inherited(pair: tuple[Connection, Connection], tmp_path: Path) -> None:
    left, right = pair
    (tmp_path / "a").write_bytes(b"abc")
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    left.send({}, b"body", fd)
    os.close(fd)
    frame = right.receive()
    assert frame is not None
    assert frame.fd is not None
    assert os.pread(frame.fd, 10, 0) == b"abc"
    assert not os.get_inheritable(frame.fd)
    os.close(frame.fd)


def test_a_descriptor_that_comes_with_a_broken_frame_is_closed() -> None:
    ends = socket.socketpair()
    right = Connection(ends[1])
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(ends[0], [struct.pack("!II", 3, 0) + b"{]}"], [0])
    with pytest.raises(ProtocolError):
        right.receive()
    assert len(os.listdir("/proc/self/fd")) == before
    ends[0].close()
    right.close()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!II", 2, 0) + b"[]",
        struct.pack("!II", 2, 0) + b"\xff\xff",
        struct.pack("!II", wire.MAX_HEADER + 1, 0),
        struct.pack("!II", 2, wire.MAX_BODY + 1) + b"{}",
        struct.pack("!II", 200_000, 0) + b"[" * 200_000,
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    ends = socket.socketpair()
    right = Connection(ends[1])
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(ends[0].sendall, data)
        with pytest.raises(ProtocolError):
            right.receive()
        sending.result()
    ends[0].close()
    right.close()


def test_a_frame_that_breaks_off_is_a_lost_connection() -> None:
    ends = socket.socketpair()
    right = Connection(ends[1])
    ends[0].sendall(struct.pack("!II", 10, 0) + b"{")
    ends[0].close()
    with pytest.raises(ConnectionLost):
        right.receive()
    right.close()


def test_a_frame_that_does_not_go_on_is_not_waited_for_for_ever(
    pair: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "STALL_S", 0.05)
    left, right = pair
    with pytest.raises(TimedOut):
        left.send({}, bytes(8 << 20))
    with pytest.raises(TimedOut):
        right.receive()


def test_what_is_too_long_is_not_sent(pair: tuple[Connection, Connection]) -> None:
    left, right = pair
    with pytest.raises(ProtocolError):
        left.send({"a": "a" * wire.MAX_HEADER})
    left.send({"a": 1})
    assert right.receive() == ({"a": 1}, b"", None)


def test_who_takes_nothing_holds_nobody_up(pair: tuple[Connection, Connection]) -> None:
    left, _ = pair
    posted = 0
    while left.post({"event": "x" * 1000}):
        posted += 1
    assert posted > 0
    left.beat()


def test_the_end_of_the_other_side_is_seen(pair: tuple[Connection, Connection]) -> None:
    left, right = pair
    assert not left.gone()
    right.close()
    assert left.gone()
    with pytest.raises(ConnectionLost):
        left.send({})


def test_a_folder_may_be_deeper_than_the_path_of_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 150) / ("b" * 150)
    folder.mkdir(parents=True)
    with listen(folder) as listener:
        connection = connect(folder)
        accepted, _ = listener.accept()
        assert wire.is_ours(accepted)
        accepted.close()
        connection.close()
    assert (folder / wire.SOCKET_NAME).stat().st_mode & 0o777 == 0o600


def test_what_an_earlier_owner_has_left_is_replaced(tmp_path: Path) -> None:
    listen(tmp_path).close()
    with pytest.raises(OwnerGone):
        connect(tmp_path)
    with listen(tmp_path):
        connect(tmp_path).close()


def test_what_is_no_socket_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / wire.SOCKET_NAME).write_text("mine")
    with pytest.raises(Refused):
        listen(tmp_path)
    assert (tmp_path / wire.SOCKET_NAME).read_text() == "mine"


def test_a_folder_without_a_socket_has_no_owner(tmp_path: Path) -> None:
    with pytest.raises(OwnerGone):
        connect(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        NoSpace("there is no room"),
        AmbiguousName("which one", ["model", "dataset"]),
        HostKeyChanged("not the same", "ed25519", "SHA256:abc"),
        OSError(errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_an_error_comes_out_as_it_went_in(pair: tuple[Connection, Connection], error: Exception) -> None:
    left, right = pair
    left.send(described(error))
    frame = right.receive()
    assert frame is not None
    again = error_of(frame.header)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_what_is_unexpected_travels_without_its_text() -> None:
    assert "secret" not in str(error_of(described(ZeroDivisionError("secret"))))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_an_owner_that_is_another_user_is_not_talked_to(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / wire.SOCKET_NAME))
        os.seteuid(65534)
        try:
            listener.listen()  # whoever does this is the other end to the kernel
        finally:
            os.seteuid(0)
        with pytest.raises(Refused, match="another user"):
            wire.connect(tmp_path)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1) == b"", "nothing was said"

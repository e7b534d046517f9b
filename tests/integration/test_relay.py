"""The relay does to a connection what its commands say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.relay import Relay
from tests.waiting import wait_until


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(echo: int) -> Iterator[Relay]:
    with Relay(echo) as relay:
        yield relay


def connect(line: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=10)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_bytes_pass_both_ways_and_are_counted(line: Relay) -> None:
    with connect(line) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5, socket.MSG_WAITALL) == b"hello"
        stats = line.stats()
    assert (stats.up, stats.down, stats.connections, stats.open) == (5, 5, 1, 1)


def test_the_end_of_a_stream_passes_too(line: Relay) -> None:
    with connect(line) as connection:
        connection.sendall(b"last")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(10, socket.MSG_WAITALL) == b"last"
    wait_until(lambda: line.stats().open == 0, "the connection to end")


def test_drop_closes_what_is_open_and_lets_new_ones_in(line: Relay) -> None:
    with connect(line) as connection:
        connection.sendall(b"x")
        connection.recv(1)
        line.drop()
        assert is_closed(connection)
    with connect(line) as connection:
        connection.sendall(b"y")
        assert connection.recv(1) == b"y"


def test_drop_after_lets_so_many_bytes_come_and_no_more(line: Relay) -> None:
    with connect(line) as connection:
        line.drop_after(3)
        connection.sendall(b"hello")
        wait_until(lambda: line.stats().connections == 1 and line.stats().open == 0, "the drop")
        assert line.stats().down == 3


def test_refuse_turns_away_until_accept(line: Relay) -> None:
    line.refuse()
    with connect(line) as connection:
        assert is_closed(connection)
    line.accept()
    with connect(line) as connection:
        connection.sendall(b"y")
        assert connection.recv(1) == b"y"


def test_stall_holds_bytes_back_and_resume_lets_them_go(line: Relay) -> None:
    with connect(line) as connection:
        line.stall()
        connection.sendall(b"x")
        assert line.stats().up == 0
        line.resume()
        assert connection.recv(1) == b"x"


def test_trickle_lets_little_through_until_it_is_taken_back(line: Relay) -> None:
    with connect(line) as connection:
        line.trickle(1)
        connection.sendall(b"hello" * 1000)
        assert line.stats().up == 0
        line.trickle(0)
        assert connection.recv(5000, socket.MSG_WAITALL) == b"hello" * 1000


def test_a_server_that_is_not_there_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Relay(port) as line, connect(line) as connection:
        assert is_closed(connection)

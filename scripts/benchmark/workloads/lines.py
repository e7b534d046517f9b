"""The lines themselves: what they let through, so that nobody takes a limit of the relay for one of a contestant."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.benchmark import peers
from scripts.benchmark.bench import MIB, RTT_MS, Bench, Workload
from scripts.benchmark.measuring import Outcome, Series
from scripts.benchmark.workloads import large
from tests.relay import Relay

PINGS = 20
CHUNK = 1 << 20  # what a plain TCP sender gives the kernel at a time


@contextmanager
def _server(serve_bytes: int) -> Iterator[int]:
    """The port of a TCP server that sends so many bytes to whoever connects, then sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(serve_bytes // CHUNK):
                connection.sendall(bytes(CHUNK))
            while data := connection.recv(64):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def round_trip_s(rtt_ms: float) -> Series:
    """What one byte takes there and back through an idle relay."""
    with _server(0) as port, Relay(port, rtt_ms=rtt_ms) as relay, _connected(relay) as connection:
        return Series(tuple(_ping(connection) for _ in range(PINGS)))


def _ping(connection: socket.socket) -> float:
    start = time.perf_counter()
    connection.sendall(b"x")
    connection.recv(1)
    return time.perf_counter() - start


def _tcp_mb_s(size: int, rtt_ms: float, mbit: float) -> float:
    """What a plain TCP connection brings through a relay."""
    with _server(size) as port, Relay(port, rtt_ms=rtt_ms, mbit=mbit) as relay, _connected(relay) as connection:
        start, left = time.perf_counter(), size
        buffer = bytearray(CHUNK)
        while left:
            left -= connection.recv_into(buffer)
        return size / (time.perf_counter() - start) / 1e6


def _connected(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port))


def _measure(bench: Bench) -> Outcome:
    outcome = Outcome()
    rounds = bench.pick(3, 1)
    root, file = large.root(bench), large.path("medium")
    size = large.sizes(bench)["medium"]
    plain = {"no delay": (0.0, 0.0, 1), "50 ms": (RTT_MS, 0.0, 1), "50 ms, 100 Mbit/s": (RTT_MS, 100.0, 8)}
    for what, (rtt_ms, mbit, share) in plain.items():
        rates = Series(tuple(_tcp_mb_s(size // share, rtt_ms, mbit) for _ in range(rounds)))
        outcome.add(f"plain TCP, relay: {what}", rates, "MB/s")
    seconds = {
        "loopback, no relay": bench.loopback(),
        "relay with no delay": bench.line(0.0),
        "relay with 50 ms": bench.line(),
    }
    for what, line in seconds.items():
        taken = Series(tuple(peers.ssh_cat(bench, line, root / file) for _ in range(rounds)))
        outcome.add(f"ssh cat, {what}", taken.inverse(size / 1e6), "MB/s")
    outcome.add("idle round trip at 50 ms", round_trip_s(RTT_MS).scaled(1000), "ms")
    outcome.note(
        f"{size // MIB} MiB each ({size // 8 // MIB} at 100 Mbit/s). At 50 ms OpenSSH's window of 2 MiB holds one "
        "`ssh` near 40 MB/s, whatever the line"
    )
    return outcome


WORKLOADS = (Workload("lines", "the lines themselves: what the relay lets through", "–", _measure),)

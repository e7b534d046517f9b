"""Reads of a large file of which nothing is cached."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from scripts.benchmark import peers
from scripts.benchmark.api import Api
from scripts.benchmark.bench import MIB, RTT_MS, Bench, Line, Workload, alternate
from scripts.benchmark.measuring import Outcome, Series
from scripts.benchmark.workloads import large
from scripts.benchmark.workloads.lines import round_trip_s

VERIFIED_WITHIN_S = 30.0  # the last block waits for the digest, so it is verified when the reader has everything
POLL_S = 0.01


def _cold(bench: Bench, line: Line, peer: peers.MountPeer, name: str, size: int | None = None) -> Callable[[], float]:
    """The rate (MB/s) of a first read through a fresh mount, or of its first `size` bytes."""
    root = large.root(bench)
    taken = size or large.sizes(bench)[name]

    def measure() -> float:
        with peer(bench, line, root) as folder:
            return taken / peers.read_seconds(folder / large.path(name), size) / 1e6

    return measure


def _cold_and_verified(bench: Bench, line: Line, name: str) -> Callable[[], float]:
    """The same through runicornfs; afterwards the file must be verified and have the sha256 of the server's."""
    root = large.root(bench)
    expected = hashlib.sha256((root / large.path(name)).read_bytes()).hexdigest()

    def measure() -> float:
        with peers.mounted(bench, line, root) as running, Api(running) as api:
            path = running.mountpoint / large.path(name)
            rate = large.sizes(bench)[name] / peers.read_seconds(path) / 1e6
            deadline = time.monotonic() + VERIFIED_WITHIN_S
            while api.states() != {expected: "verified"}:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{name} is not verified: {api.states()}")
                time.sleep(POLL_S)
            return rate

    return measure


def _cat(bench: Bench, line: Line, name: str) -> Callable[[], float]:
    path = large.root(bench) / large.path(name)
    return lambda: large.sizes(bench)[name] / peers.ssh_cat(bench, line, path) / 1e6


def _loopback(bench: Bench) -> Outcome:
    line, outcome = bench.loopback(), Outcome()
    reached = alternate(
        bench.pick(3, 1),
        {
            "runicornfs": _cold_and_verified(bench, line, "large"),
            "sshfs": _cold(bench, line, peers.sshfs, "large"),
            "rclone": _cold(bench, line, peers.rclone, "large"),
            "ssh cat": _cat(bench, line, "large"),
        },
    )
    _add(outcome, reached)
    outcome.at_least(1.3, "× sshfs", reached["runicornfs"].over(reached["sshfs"]))
    outcome.at_least(4, "× rclone", reached["runicornfs"].over(reached["rclone"]))
    outcome.note(f"{large.sizes(bench)['large'] // MIB} MiB; `verified` by the API in every round")
    return outcome


def _delayed(bench: Bench) -> Outcome:
    line, outcome = bench.line(), Outcome()
    part = bench.pick(32, 8) * MIB
    reached = alternate(
        bench.pick(3, 1),
        {
            "runicornfs": _cold_and_verified(bench, line, "medium"),
            "rclone": _cold(bench, line, peers.rclone, "medium"),
            "sshfs": _cold(bench, line, peers.sshfs, "medium", part),
            "ssh cat": _cat(bench, line, "medium"),
        },
    )
    _add(outcome, reached)
    outcome.at_least(5, "× rclone", reached["runicornfs"].over(reached["rclone"]))
    outcome.at_least(30, "× sshfs", reached["runicornfs"].over(reached["sshfs"]))
    size = large.sizes(bench)["medium"]
    outcome.note(f"{size // MIB} MiB; of sshfs the first {part // MIB} MiB, since it takes a minute for all")
    return outcome


def _limited(bench: Bench) -> Outcome:
    line, outcome = bench.line(mbit=100), Outcome()
    reached = alternate(
        bench.pick(3, 1),
        {
            "runicornfs": _cold_and_verified(bench, line, "small"),
            "rclone": _cold(bench, line, peers.rclone, "small"),
            "sshfs": _cold(bench, line, peers.sshfs, "small", bench.pick(16, 4) * MIB),
            "ssh cat": _cat(bench, line, "small"),
        },
    )
    _add(outcome, reached)
    outcome.at_least(95, "% of the line", reached["runicornfs"].scaled(100 / (line.bytes_per_s / 1e6)))
    size = large.sizes(bench)["small"]
    outcome.note(f"{size // MIB} MiB over a line of {line.bytes_per_s / 1e6} MB/s; SSH's own bytes count")
    return outcome


def _first_byte(bench: Bench) -> Outcome:
    line, outcome = bench.line(), Outcome()
    root, file = large.root(bench), large.path("large")
    round_trip = round_trip_s(RTT_MS)
    outcome.add("idle round trip", round_trip.scaled(1000), "ms")

    def first_byte(peer: peers.MountPeer) -> Callable[[], float]:
        def measure() -> float:
            with peer(bench, line, root) as folder:
                return _first_byte_s(folder / file)

        return measure

    measures = {who: first_byte(peer) for who, peer in peers.MOUNTS.items()}
    reached = alternate(bench.pick(5, 1), measures)
    for who, seconds in reached.items():
        outcome.add(who, seconds.scaled(1000), "ms")
    outcome.at_most(3, "round trips", reached["runicornfs"].scaled(1 / round_trip.median))
    outcome.note("open and read one byte, the first access to a fresh mount")
    return outcome


def _first_byte_s(path: Path) -> float:
    start = time.perf_counter()
    file = os.open(path, os.O_RDONLY)
    try:
        os.pread(file, 1, 0)
        return time.perf_counter() - start
    finally:
        os.close(file)


def _add(outcome: Outcome, reached: dict[str, Series]) -> None:
    for who, rates in reached.items():
        outcome.add(who, rates, "MB/s")


WORKLOADS = (
    Workload("cold-loopback", "cold sequential read of 1 GiB", "loopback", _loopback),
    Workload("cold-50ms", "cold sequential read of 256 MiB", "50 ms", _delayed),
    Workload("cold-100mbit", "cold sequential read of 64 MiB", "50 ms, 100 Mbit/s", _limited),
    Workload("first-byte", "time to first byte of a cold 1 GiB file", "50 ms", _first_byte),
)

#!/usr/bin/env python3
"""A TCP relay on loopback: a line with delay, limited bandwidth and faults. `Relay` runs one and steers it.

    python tests/relay.py --to 127.0.0.1:2222 --rtt-ms 50 --mbit 100

It prints `listening PORT`. Each direction waits half of --rtt-ms and passes at most --mbit (0: no limit), which all
connections of that direction share, as on a real line. Commands on standard input steer it while it runs; each is
answered with one line of JSON, the statistics, once it has been carried out:

    drop            close every connection
    drop-after N    close every connection once N more bytes have come down
    stall           pass no more bytes, without closing; resume goes on
    trickle N       pass N bytes a second of each connection and direction; 0: as fast as before
    refuse          drop, and refuse new connections; accept takes them again
    stats           nothing but the answer

It listens on 127.0.0.1 alone and ends when its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

# What a line with a limit passes at a time: small enough that a slow one passes what was sent in pieces,
CHUNK = 64 * 1024
# and a trickle too: what it passes in so many seconds, but no less than a byte.
STEP_S = 0.05
# Bytes that wait to be delivered in one direction of one connection; then its sender has to wait.
QUEUED_BYTES = 256 << 20
TRICKLE_S = 0.1  # how often a line that trickles looks at how much it may pass
FAREWELL_S = 2.0  # how long the connections that were dropped at the end may take to notice


@dataclass
class Stats:
    """Bytes passed in each direction (up is towards the server), and connections so far and open now."""

    up: int = 0
    down: int = 0
    connections: int = 0
    open: int = 0


class Relay:
    """A relay in a process of its own, steered from a test: `with Relay(sshd.port, rtt_ms=50) as relay: …`.

    When a method returns, what it asks for has happened.
    """

    def __init__(self, to_port: int, *, rtt_ms: float = 0, mbit: float = 0) -> None:
        options = ["--to", f"127.0.0.1:{to_port}", "--rtt-ms", str(rtt_ms), "--mbit", str(mbit)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches whoever uses the line, not the line under him
        )
        self.port = int(self._read_line().split()[1])

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def drop(self) -> None:
        """Closes every connection there is."""
        self._ask("drop")

    def drop_after(self, count: int) -> None:
        """Closes every connection as soon as `count` more bytes have come from the server."""
        self._ask(f"drop-after {count}")

    def stall(self) -> None:
        """No byte passes from now on, and no connection is closed."""
        self._ask("stall")

    def resume(self) -> None:
        self._ask("resume")

    def trickle(self, bytes_per_s: int) -> None:
        """Passes so little of each connection and direction; 0 ends it at once, also for what waits."""
        self._ask(f"trickle {bytes_per_s}")

    def refuse(self) -> None:
        """Closes every connection and refuses new ones: the server is away."""
        self._ask("refuse")

    def accept(self) -> None:
        self._ask("accept")

    def stats(self) -> Stats:
        return self._ask("stats")

    def close(self) -> None:
        self._process.communicate(timeout=10)  # ends its standard input, which ends it

    def _ask(self, command: str) -> Stats:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return Stats(**json.loads(self._read_line()))

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the relay has died; its standard error says why"
        return line


class Line:
    """The two directions of one simulated line, and whether it is up."""

    def __init__(self, rtt_s: float, bytes_per_s: float) -> None:
        self.delay = rtt_s / 2
        self.rate = bytes_per_s
        self.step = max(min(CHUNK, int(bytes_per_s * STEP_S)), 1) if bytes_per_s else 0
        self.stats = Stats()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.accepting = True
        self.trickling = 0  # bytes a second; 0: not
        self._free_at = {"up": 0.0, "down": 0.0}
        self._drop_at: int | None = None
        self._transports: set[asyncio.Transport] = set()

    def arrival(self, direction: str, size: int) -> float:
        """When `size` bytes sent now arrive: queueing, then transmission, then propagation."""
        start = max(time.monotonic(), self._free_at[direction])
        self._free_at[direction] = start + (size / self.rate if self.rate else 0.0)
        return self._free_at[direction] + self.delay

    def opened(self, transports: set[asyncio.Transport]) -> None:
        self._transports |= transports
        self.stats.connections += 1
        self.stats.open += 1

    def closed(self, transports: set[asyncio.Transport]) -> None:
        self._transports -= transports
        self.stats.open -= 1

    def passed(self, direction: str, size: int) -> None:
        setattr(self.stats, direction, getattr(self.stats, direction) + size)
        if self._drop_at is not None and self.stats.down >= self._drop_at:
            self.drop()

    def room(self, direction: str, size: int) -> int:
        """How many of `size` bytes may pass before the line breaks."""
        if direction == "up" or self._drop_at is None:
            return size
        return min(size, self._drop_at - self.stats.down)

    async def pace(self, size: int) -> None:
        """Returns when a line that trickles may pass so many bytes."""
        left = float(size)
        while self.trickling and left > 0:
            await asyncio.sleep(TRICKLE_S)
            left -= self.trickling * TRICKLE_S

    def drop_after(self, count: int) -> None:
        self._drop_at = self.stats.down + count

    def drop(self) -> None:
        self._drop_at = None
        for transport in self._transports:
            transport.abort()


class End(asyncio.Protocol):
    """One end of one connection. What comes in here waits until it is due, and its sender waits when that is too much.

    A protocol, since a relay with asyncio's streams took 2.2 s of a core for a GB, and this one takes 0.6.
    """

    transport: asyncio.Transport

    def __init__(self, line: Line, direction: str, connected: Callable[[End], None] | None = None) -> None:
        self.direction = direction
        self._line = line
        self._connected = connected
        self._waiting: deque[tuple[float, memoryview]] = deque()
        self._waiting_bytes = 0
        self._lost = False
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._connected is not None:
            self._connected(self)

    def data_received(self, data: bytes) -> None:
        view, step = memoryview(data), self._line.step or len(data)
        for start in range(0, len(view), step):
            piece = view[start : start + step]
            self._waiting.append((self._line.arrival(self.direction, len(piece)), piece))
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= QUEUED_BYTES:
            self.transport.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        self._waiting.append((time.monotonic() + self._line.delay, memoryview(b"")))
        self._news.set()
        return True  # the other direction goes on

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._news.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def next(self) -> tuple[float, memoryview]:
        """When it is due, and the bytes; none at the end of the stream. Raises ConnectionResetError."""
        while not self._waiting and not self._lost:
            self._news.clear()
            await self._news.wait()
        self._check()
        due, piece = self._waiting.popleft()
        if self._waiting_bytes >= QUEUED_BYTES > self._waiting_bytes - len(piece):
            self.transport.resume_reading()
        self._waiting_bytes -= len(piece)
        return due, piece

    async def write(self, piece: memoryview) -> None:
        """Returns when more may be written. Raises ConnectionResetError."""
        self._check()
        self.transport.write(piece)
        await self._writable.wait()
        self._check()

    def _check(self) -> None:
        if self._lost or self.transport.is_closing():  # it hears of its end only in asyncio's next round
            raise ConnectionResetError


async def pass_on(line: Line, source: End, target: End) -> None:
    """What comes in here goes out there, later. Ends at the end of the stream, or when either connection breaks."""
    try:
        while True:
            due, piece = await source.next()
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            await line.pace(len(piece))
            await line.flowing.wait()
            if not piece:
                target.transport.write_eof()
                return
            piece = piece[: line.room(source.direction, len(piece))]
            await target.write(piece)
            line.passed(source.direction, len(piece))
    except OSError:
        source.transport.abort()
        target.transport.abort()


async def relay(line: Line, host: str, port: int, near: End) -> None:
    """Serves one connection."""
    if not line.accepting:
        near.transport.abort()
        return
    try:
        _, far = await asyncio.get_running_loop().create_connection(lambda: End(line, "down"), host, port)
    except OSError:
        near.transport.abort()
        return
    ends = {near.transport, far.transport}
    line.opened(ends)
    try:
        await asyncio.gather(pass_on(line, near, far), pass_on(line, far, near))
    finally:
        line.closed(ends)
        for end in ends:
            end.close()


async def steer(line: Line) -> None:
    """Carries out what standard input says, until it ends."""
    loop = asyncio.get_running_loop()
    while command := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        match command:
            case ["drop"]:
                line.drop()
            case ["drop-after", count]:
                line.drop_after(int(count))
            case ["stall"]:
                line.flowing.clear()
            case ["resume"]:
                line.flowing.set()
            case ["trickle", rate]:
                line.trickling = int(rate)
            case ["refuse"]:
                line.accepting = False
                line.drop()
            case ["accept"]:
                line.accepting = True
            case ["stats"]:
                pass
            case _:
                print(f"relay: unknown command {' '.join(command)}", file=sys.stderr)
        await asyncio.sleep(0)  # asyncio closes what was aborted in its next round
        print(json.dumps(asdict(line.stats)), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", type=int, default=0, help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--to", required=True, help="HOST:PORT to pass to")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--mbit", type=float, default=0.0, help="megabits a second each way; 0: no limit")
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    line = Line(options.rtt_ms / 1000, options.mbit * 1e6 / 8)
    serving: set[asyncio.Task[None]] = set()

    def serve(near: End) -> None:
        task = asyncio.create_task(relay(line, host, int(port), near))
        serving.add(task)  # asyncio itself keeps no task alive
        task.add_done_callback(serving.discard)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: End(line, "up", serve), "127.0.0.1", options.listen)
    print(f"listening {server.sockets[0].getsockname()[1]}", flush=True)
    await steer(line)
    server.close()
    line.flowing.set()
    line.drop()
    deadline = time.monotonic() + FAREWELL_S
    while line.stats.open and time.monotonic() < deadline:
        await asyncio.sleep(0.01)  # connections end by themselves; cancelled, Python 3.11's asyncio complains of each


if __name__ == "__main__":
    asyncio.run(main())

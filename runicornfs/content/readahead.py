"""What a reader will want next, judged by what it has read.

*Forward*: a read that goes on where an earlier one ended, or nearly, belongs to its stream, which gets a window ahead
of it. Several streams a reader are told apart: threads that read different places, a program that maps a file. A run is
taken to be as long as the one before: so much of it comes at once, and more only if it goes on (tensors, columns).
*Strided*: reads at equal distances, forward or back, get the next ones; reading backward is a stride of a block.
*Elsewhere*: any other read gets nothing but itself. So random readers, and programs that first look at the end of a
file or at every header in it, cost what they read.

What is fetched ahead is paid for by what was read: blocks that were asked for ahead and not read (yet, or ever) are at
most half as many as those that were read, or ALLOWANCE. So a part of a file costs at most half as much again, however
fast the line is, while a window grows by half with each round trip, up to what the line needs.

Nothing here is locked: reads on the same descriptor at once may lose an update to each other, which costs a read-ahead
that is a little off and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runicornfs.content.blocks import BLOCK

# A file of this size comes whole with its first read: a round trip costs more than these bytes on any line of today.
SMALL_FILE = 1 << 20
# The first window, in blocks.
START = 2
# A read that starts within this many blocks ahead of where a stream has come to belongs to it: page faults leave holes,
# and the kernel sends its own read-ahead on several threads, so that requests overtake each other.
HOLE = 4
# Those that were overtaken come within this many blocks behind it.
NEAR = 4
# How many places of a file one descriptor may be reading forward from: as many as there are threads that do.
STREAMS = 16
# Steps of equal length in a row that make a stride: requests that overtake each other make up to three.
STEPS = 4
# Runs of equal length may differ by this many blocks, as they begin and end within one.
ROUNDING = 2
# What may be fetched ahead before much was read, in blocks. As much as a part of 1 MiB may cost: with fewer, the first
# windows in it are so small that each ends a transfer.
ALLOWANCE = 6

# The window that a line needs is twice its bandwidth-delay product, and this much where nothing is known.
LEAST_WINDOW = 1 << 20
MOST_WINDOW = 64 << 20


def in_flight_bytes(round_trip_s: float, bytes_per_s: float) -> float:
    """What transfers keep asked for and not yet answered, all together, on such a line."""
    return 2 * bytes_per_s * round_trip_s + LEAST_WINDOW


def window_blocks(round_trip_s: float, bytes_per_s: float) -> int:
    """How far ahead of a reader to go, in blocks.

    Twice what a transfer keeps in flight: were it the same, the queue would run dry whenever the line is full, and each
    dry queue ends a transfer.
    """
    return int(min(MOST_WINDOW, max(LEAST_WINDOW, 2 * in_flight_bytes(round_trip_s, bytes_per_s)))) // BLOCK


@dataclass(frozen=True, slots=True)
class Advice:
    """Spans of blocks (first, stop) to fetch ahead, if any, from the last one down with `backward`.

    `elsewhere`: the reader has gone to another place; what was to be fetched ahead and has not been asked for is
    uncertain now.
    """

    spans: list[tuple[int, int]]
    backward: bool = False
    elsewhere: bool = False


class _Stream:
    __slots__ = ("end", "first", "high", "reach", "skipped", "skipped_unread", "window")

    def __init__(self, first: int, high: int, end: int) -> None:
        self.first = first
        self.end = end  # where it ends if it is as long as the last one was
        self.high = high  # the stream has been read up to here
        self.reach = high  # and asked for up to here
        self.skipped = 0  # blocks behind `high` that have not been read
        self.skipped_unread = 0  # and those of them that were asked for ahead
        self.window = 0


class ReadAhead:
    """Of one reader of a content of `count` blocks; `limit()` is the largest window."""

    def __init__(self, size: int, count: int, limit: Callable[[], int]) -> None:
        self._whole = size <= SMALL_FILE
        self._count = count
        self._limit = limit
        self._sure = False
        self._streams: list[_Stream] = []  # the one used last stands first
        self._read = 0  # blocks, each as often as a stream came to it
        self._unread = 0  # blocks that were asked for ahead and not read
        self._last = 0  # where the last read began
        self._step = 0  # how far that was from the one before
        self._steps = 0  # how many in a row were of this length
        self._foreseen = 0  # the last place of the stride that was asked for
        self._depth = 0  # how many places of it are asked for at once

    def all_is_wanted(self) -> None:
        """The reader will read everything from the start: no window has to be earned."""
        self._sure = True

    def note(self, first: int, stop: int, lost: bool = False) -> Advice | None:
        """After a read of the blocks from `first` up to `stop`: what to do about the next ones, if anything.

        `lost` says that a block of this read had not been asked for: what was asked for ahead may not have come.
        """
        strided = self._is_strided(first, stop)
        stream = self._stream_at(first)
        # Threads that go forward side by side also make equal steps: wide ones, from stream to stream.
        if strided and (stream is None or abs(self._step) <= HOLE):
            return self._stride(first, stop, lost)
        if stream is None:
            return self._elsewhere(first, stop)
        if stop <= stream.high:
            self._count_late(stream, stop - first)
            return None
        self._go_on(stream, first, stop, lost)
        spans = self._advance(stream)
        return Advice(spans) if spans else None

    def forgotten(self, spans: Iterable[tuple[int, int]]) -> None:
        """These blocks, which were to be fetched ahead, were not asked for."""
        for first, stop in spans:
            self._unread -= stop - first
            for stream in self._streams:
                if stream.high <= first < stream.reach:
                    stream.reach = first

    # Streams

    def _stream_at(self, first: int) -> _Stream | None:
        found = None
        for at, stream in enumerate(self._streams):
            ahead = first - stream.high
            if 0 <= ahead <= HOLE:
                found = at
                break
            if found is None and -NEAR <= ahead < 0:
                found = at
        if found:
            self._streams.insert(0, self._streams.pop(found))
        return None if found is None else self._streams[0]

    def _elsewhere(self, first: int, stop: int) -> Advice | None:
        waiting = any(stream.reach > stream.high for stream in self._streams)
        last = self._streams[0] if self._streams else None
        stream = _Stream(first, stop, first + (last.high - last.first if last else 0))
        self._streams = [stream, *self._streams[: STREAMS - 1]]
        self._read += stop - first
        if self._whole:
            return Advice([(0, self._count)])
        spans = self._advance(stream) if first == 0 else []
        return Advice(spans, elsewhere=waiting) if spans or waiting else None

    def _go_on(self, stream: _Stream, first: int, stop: int, lost: bool) -> None:
        begin = max(first, stream.high)
        self._read += stop - begin
        self._unread -= max(0, min(stop, stream.reach) - begin)
        stream.skipped += begin - stream.high
        stream.skipped_unread += max(0, min(begin, stream.reach) - stream.high)
        if lost:
            self._unread -= max(0, stream.reach - stop)
        if lost or stream.reach < stop:
            stream.reach = stop
        stream.high = stop

    def _count_late(self, stream: _Stream, blocks: int) -> None:
        """A read that others have overtaken."""
        blocks = min(blocks, stream.skipped)
        stream.skipped -= blocks
        self._read += blocks
        unread = min(blocks, stream.skipped_unread)
        stream.skipped_unread -= unread
        self._unread -= unread

    def _advance(self, stream: _Stream) -> list[tuple[int, int]]:
        limit = self._limit()
        if stream.high < stream.end:
            window = min(limit, stream.end - stream.high)
        elif stream.high < stream.end + ROUNDING and stream.end - stream.first > ROUNDING:
            return []
        else:
            # While it grows, half of the window is used up before it doubles. One that has grown is topped up in
            # quarters, so that a full line always finds something in the queue.
            enough = stream.window * 3 // 4 if stream.window >= limit else stream.window // 2
            if stream.window and stream.reach - stream.high > enough:
                return []
            window = limit if self._sure else min(limit, max(START, 2 * stream.window))
        first = stream.reach
        stop = min(self._count, stream.high + window, first + self._allowed())
        if stop <= first:
            return []
        stream.reach = stop
        if stream.high >= stream.end:
            stream.window = max(START, stop - stream.high)
        self._unread += stop - first
        return [(first, stop)]

    def _allowed(self) -> int:
        """How many more blocks may be asked for ahead."""
        return self._count if self._sure else max(ALLOWANCE, self._read // 2) - self._unread

    # Strides

    def _is_strided(self, first: int, stop: int) -> bool:
        step = first - self._last
        if step == 0:
            return False  # the same block once more: small reads
        self._last = first
        if step != self._step:
            self._step, self._steps, self._depth, self._foreseen = step, 1, 0, first
            return False
        self._steps += 1
        return self._steps >= STEPS and not 0 < step <= stop - first

    def _stride(self, first: int, stop: int, lost: bool) -> Advice | None:
        step, size = self._step, stop - first
        cost = min(size, abs(step))  # of one more place, in blocks
        self._read += cost
        ahead = (self._foreseen - first) // step
        if self._depth and ahead >= 0:
            self._unread -= cost
        if lost:
            self._unread -= cost * max(0, ahead)
            ahead = 0
        ahead = max(0, ahead)
        if self._depth and ahead > self._depth // 2:
            return None
        depth = min(max(1, 2 * self._depth), self._limit() // cost)
        more = min(depth - ahead, self._allowed() // cost)
        start = first if ahead == 0 else self._foreseen
        places = [start + step * number for number in range(1, more + 1)]
        places = [place for place in places if 0 <= place < self._count]
        self._depth = max(1, ahead + len(places))
        if not places:
            return None
        self._foreseen = places[-1]
        self._unread += cost * len(places)
        return Advice([(place, min(place + size, self._count)) for place in places], backward=step < 0)

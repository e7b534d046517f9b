"""What the readers of a content will want next, judged by what they have read.

*Forward*: a read that goes on where an earlier one ended, or nearly, belongs to its stream, which gets a window ahead
of it. Several streams are told apart: threads that read different places, a program that maps a file. They belong to
the content, not to a reader: of programs that read the same, the kernel asks now for one and now for the other. A run
is taken to be as long as the one before: so much of it comes at once, and more only if it goes on (tensors, columns).
*Strided*: reads at equal distances, forward or back, get the next ones; reading backward is a stride of a block.
*Elsewhere*: any other read gets nothing but itself. So random readers, and programs that first look at the end of a
file or at every header in it, cost what they read.

What is fetched ahead is paid for by what was read: blocks that were asked for ahead and not read (yet, or ever) are at
most half as many as those that were read, or ALLOWANCE. So a part of a file costs at most half as much again, however
fast the line is, while a window grows by half with each round trip, up to what the line needs. Who reads from the start
on is trusted with more: MUCH.

Nothing here is locked: reads at the same time may lose an update to each other, which costs a read-ahead that is a
little off and nothing else. So the list of streams is never changed, only replaced.
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
HOLE = 3
# Those that were overtaken come within this many blocks behind it.
NEAR = 8
# How many places of a content may be read forward from: as many as there are threads that do.
STREAMS = 16
# Steps of equal length in a row that make a stride: requests that overtake each other make up to three.
STEPS = 4
# Runs of equal length may differ by this many blocks, as they begin and end within one.
ROUNDING = 2
# What may be fetched ahead before much was read, in blocks. As much as a part of 1 MiB may cost: with fewer, the first
# windows in it are so small that each ends a transfer.
ALLOWANCE = 6

# Who has read so many blocks from the start on and nothing else, loads the whole file, as `cat` and `cp` do: its window
# may double with each round trip.
MUCH = 4

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
    __slots__ = ("end", "first", "high", "left", "reach", "skipped", "skipped_unread", "window")

    def __init__(self, first: int, high: int, end: int) -> None:
        self.first = first
        self.end = end  # where it ends if it is as long as the last one was
        self.high = high  # the stream has been read up to here
        self.reach = high  # and asked for up to here
        self.skipped = 0  # blocks behind `high` that have not been read
        self.skipped_unread = 0  # and those of them that were asked for ahead
        self.window = 0
        self.left = False  # the last read but this one began another stream


class Place:
    """Where one reader of a content is. `limit()` is the largest window, in blocks."""

    __slots__ = ("depth", "foreseen", "last", "limit", "step", "steps", "sure")

    def __init__(self, limit: Callable[[], int]) -> None:
        self.limit = limit
        self.sure = False  # it will read everything from the start: no window has to be earned
        self.last = 0  # where its last read began
        self.step = 0  # how far that was from the one before
        self.steps = 0  # how many in a row were of this length
        self.foreseen = 0  # the last place of the stride that was asked for
        self.depth = 0  # how many places of it are asked for at once

    def is_strided(self, first: int, stop: int) -> bool:
        """Whether a read from `first` is one more equal step, and not just the next block."""
        step = first - self.last
        if step == 0:
            return False  # the same block once more: small reads
        self.last = first
        if step != self.step:
            self.step, self.steps, self.depth, self.foreseen = step, 1, 0, first
            return False
        self.steps += 1
        return self.steps >= STEPS and not 0 < step <= stop - first


class ReadAhead:
    """Of a content of `count` blocks."""

    def __init__(self, size: int, count: int) -> None:
        self._whole = size <= SMALL_FILE
        self._count = count
        self._streams: list[_Stream] = []  # the one used last stands first
        self._read = 0  # blocks, each as often as a stream came to it
        self._unread = 0  # blocks that were asked for ahead and not read

    def note(self, place: Place, first: int, stop: int, lost: bool = False) -> Advice | None:
        """After a read of the blocks from `first` up to `stop` by the reader who is at `place`: what to do about the
        next ones, if anything.

        `lost` says that a block of this read had not been asked for: what was asked for ahead may not have come.
        """
        strided = place.is_strided(first, stop)
        stream = self._stream_at(first)
        # Threads that go forward side by side also make equal steps: wide ones, from stream to stream.
        if strided and (stream is None or abs(place.step) <= HOLE):
            return self._stride(place, first, stop, lost)
        if stream is None:
            return self._elsewhere(place, first, stop)
        stream.left = False
        if stop <= stream.high:
            self._count_late(stream, stop - first)
            return None
        self._go_on(stream, first, stop, lost)
        return self._advice(self._advance(place, stream))

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
        streams = self._streams
        for stream in streams:
            ahead = first - stream.high
            if 0 <= ahead <= HOLE:
                found = stream
                break
            if found is None and -NEAR <= ahead < 0:
                found = stream
        if found is not None and found is not streams[0]:
            self._streams = [found, *(stream for stream in streams if stream is not found)]
        return found

    def _elsewhere(self, place: Place, first: int, stop: int) -> Advice | None:
        streams = self._streams
        advice = self._advice([])
        for other in streams:
            other.left = other.reach > other.high
        last = streams[0].high - streams[0].first if streams else 0
        stream = _Stream(first, stop, first + last)
        self._streams = [stream, *streams[: STREAMS - 1]]
        self._read += stop - first
        if self._whole:
            return Advice([(0, self._count)])
        return self._advice(self._advance(place, stream)) if first == 0 else advice

    def _advice(self, spans: list[tuple[int, int]]) -> Advice | None:
        """One read elsewhere says little: a program that maps a file looks at the next tensor while it reads this one.
        The second one in a row, or a stream that goes on there, says that the others were left."""
        left = [stream for stream in self._streams if stream.left]
        for stream in left:
            stream.left = False
        return Advice(spans, elsewhere=bool(left)) if spans or left else None

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

    def _advance(self, place: Place, stream: _Stream) -> list[tuple[int, int]]:
        limit = place.limit()
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
            window = limit if place.sure else min(limit, max(START, 2 * stream.window))
        first = stream.reach
        stop = min(self._count, stream.high + window, first + self._allowed(place))
        if stop <= first:
            return []
        stream.reach = stop
        if stream.high >= stream.end:
            stream.window = max(START, stop - stream.high)
        self._unread += stop - first
        return [(first, stop)]

    def _allowed(self, place: Place) -> int:
        """How many more blocks may be asked for ahead."""
        if place.sure:
            return self._count
        earned = 2 * self._read if self._is_load() else self._read // 2
        return max(ALLOWANCE, earned) - self._unread

    def _is_load(self) -> bool:
        """Whether all that was read of the content, or nearly, is its beginning, and is much."""
        stream = self._streams[0]
        return stream.first <= HOLE and stream.high >= MUCH and abs(stream.high - self._read) <= HOLE

    # Strides

    def _stride(self, place: Place, first: int, stop: int, lost: bool) -> Advice | None:
        step, size = place.step, stop - first
        cost = min(size, abs(step))  # of one more place, in blocks
        self._read += cost
        ahead = (place.foreseen - first) // step
        if place.depth and ahead >= 0:
            self._unread -= cost
        if lost:
            self._unread -= cost * max(0, ahead)
            ahead = 0
        ahead = max(0, ahead)
        if place.depth and ahead > place.depth // 2:
            return None
        depth = min(max(1, 2 * place.depth), place.limit() // cost)
        more = min(depth - ahead, self._allowed(place) // cost)
        start = first if ahead == 0 else place.foreseen
        starts = [start + step * number for number in range(1, more + 1)]
        starts = [start for start in starts if 0 <= start < self._count]
        place.depth = max(1, ahead + len(starts))
        if not starts:
            return None
        place.foreseen = starts[-1]
        self._unread += cost * len(starts)
        return Advice([(start, min(start + size, self._count)) for start in starts], backward=step < 0)

"""What a reader will want next, judged by what it has read.

A reader that goes forward gets a window ahead of it, which doubles each time half of it has been used, up to what the
line needs. A read somewhere else gets nothing but itself: so random readers, and programs that first look at the end of
a file (zip directories, Parquet footers), cost what they read. A few streams a reader are told apart, since several
threads may read from one descriptor.

Nothing here is locked: reads on the same descriptor at once may lose an update to each other, which costs a read-ahead
that is a little off and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from runicornfs.content.blocks import BLOCK

# A file of this size comes whole with its first read: a round trip costs more than these bytes on any line of today.
SMALL_FILE = 1 << 20
# The first window, in blocks.
START = 2
# The kernel sends its own read-ahead on several threads, so that requests overtake each other. A read that starts
# within this many blocks of where the stream has come to belongs to it.
NEAR = 8
# How many places of a file one descriptor may be reading forward from.
STREAMS = 4

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


class _Stream:
    __slots__ = ("high", "reach", "window")

    def __init__(self, high: int) -> None:
        self.high = high  # the stream has been read up to here
        self.reach = high  # and asked for up to here
        self.window = 0


class ReadAhead:
    """Of one reader of a content of `count` blocks; `limit()` is the largest window."""

    def __init__(self, size: int, count: int, limit: Callable[[], int]) -> None:
        self._whole = size <= SMALL_FILE
        self._count = count
        self._limit = limit
        self._streams: list[_Stream] = []

    def note(self, first: int, stop: int, lost: bool = False) -> tuple[int, int] | None:
        """After a read of the blocks from `first` up to `stop`: the blocks (first, stop) to fetch ahead, if any.

        `lost` says that a block of this read had not been asked for: what was asked for ahead may not have come.
        """
        stream = self._stream_at(first)
        if stream is None:
            stream = _Stream(stop)
            self._streams = [stream, *self._streams[: STREAMS - 1]]
            if self._whole:
                return (0, self._count)
            if first > 0:
                return None
        elif stop <= stream.high:
            return None
        else:
            stream.high = stop
        if lost or stream.reach < stop:
            stream.reach = stop
        return self._advance(stream)

    def _stream_at(self, first: int) -> _Stream | None:
        for stream in self._streams:
            if -NEAR <= first - stream.high <= NEAR:
                return stream
        return None

    def _advance(self, stream: _Stream) -> tuple[int, int] | None:
        if stream.reach >= self._count:
            return None
        limit = self._limit()
        # While it grows, half of the window is used up before it doubles. One that has grown is topped up in quarters,
        # so that a full line always finds something in the queue.
        enough = stream.window * 3 // 4 if stream.window >= limit else stream.window // 2
        if stream.window and stream.reach - stream.high > enough:
            return None
        stream.window = min(limit, max(START, 2 * stream.window))
        first, stream.reach = stream.reach, max(stream.reach, min(self._count, stream.high + stream.window))
        return (first, stream.reach) if first < stream.reach else None

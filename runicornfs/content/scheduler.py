"""Which content is served next, and for how long: demand before read-ahead before prefetches before downloads.

A content gets a *turn*, which is one fill. The turn of a content for which a program waits lasts for a share of the
line, its read-ahead included, before others of the same rank have theirs: in order of arrival, so that all get on
alike. A turn that is only for read-ahead ends as soon as a program waits for its own.

What is for programs shares the line; prefetches and downloads have it only while no program does. Not for ever: one
that has waited for PATIENCE_S has a turn of one share, one at a time. And a place is always left for a program.

A turn ends by taking no more. What it has asked for by then comes: it cannot be called back.

A fill costs two round trips, whatever it brings. So a turn serves small contents together, as many as are queued and
go into a share: what would be turns one after the other then takes the time of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from runicornfs.content.contents import SMALL
from runicornfs.content.entry import Entry
from runicornfs.content.wishes import Rank
from runicornfs.content.workers import Workers

# The least share of a turn in bytes: a range.
LEAST_SHARE = 1 << 20
# On a line that is so fast that turns would be too short, they last so long at least. A turn costs about a millisecond.
LEAST_TURN_S = 0.02
# How long prefetches and downloads stand still at most while programs read.
PATIENCE_S = 1.0
# The most that is served together, in bytes, however large the share: what a server is asked for in one go.
MOST_TOGETHER = 16 << 20


class Turn:
    """`taken`, in bytes, is counted by the one fill that it is."""

    __slots__ = ("patient", "rank", "taken")

    def __init__(self, rank: Rank, patient: bool) -> None:
        self.rank = rank
        self.patient = patient  # its share is not taken from it
        self.taken = 0


class Scheduler(Workers[Entry]):
    """`places` threads that serve contents. `share()` is how much a turn may take while others wait, in bytes.

    Thread-safe: `_ready` protects the turns, too.
    """

    def __init__(self, places: int, serve: Callable[[list[Entry], Turn], None], share: Callable[[], int]) -> None:
        self._places = places
        self._serve = serve
        self._share = share
        self._turns: set[Turn] = set()
        super().__init__("fetch", places, self._take_turn)

    def must_end(self, entry: Entry, turn: Turn) -> bool:
        """Whether the turn is to take no more, since others are to have theirs."""
        if not turn.taken:
            return False
        over = turn.taken >= self._share()
        turn.rank = entry.rank if over else min(turn.rank, entry.rank)
        if turn.rank is Rank.NOTHING:
            return False
        if not self._items and turn.rank < Rank.PREFETCH:  # without the lock: asked for every range
            return False
        with self._ready:
            if turn.rank >= Rank.PREFETCH and any(other.rank < turn.rank for other in self._turns):
                return over or not turn.patient
            if len(self._turns) < self._places:  # who can go now goes by itself
                return False
            waiting = min((item.rank for item in self._items if item is not entry), default=Rank.NOTHING)
            return waiting < turn.rank or (over and waiting == turn.rank)

    def _take_turn(self, entry: Entry) -> None:
        together = min(self._share(), MOST_TOGETHER)
        with self._ready:
            patient = entry.rank >= Rank.PREFETCH and self._is_held(entry.rank)
            turn = Turn(entry.rank, patient)
            self._turns.add(turn)
            entries = [entry, *self._companions(entry, turn.rank, together - entry.size)]
        try:
            self._serve(entries, turn)
        finally:
            with self._ready:
                self._turns.discard(turn)
                self._ready.notify_all()  # more than one may have stood still for it

    def _companions(self, entry: Entry, rank: Rank, room: int) -> list[Entry]:
        """Takes from the queue what is served together with this one: of the same rank, in order of arrival, and of at
        most `room` bytes. With `_ready` held."""
        found: list[Entry] = []
        if entry.size > SMALL or rank is Rank.NOTHING:
            return found
        for item in self._items:
            if item.size <= min(SMALL, room) and item.rank is rank:
                found.append(item)
                room -= item.size
        for item in found:
            del self._items[item]
        return found

    def _choose(self) -> Entry | None:
        if not self._items:
            return None
        ranks = {item: item.rank for item in self._items}
        best = min(ranks, key=lambda item: ranks[item])
        if not Rank.PREFETCH <= ranks[best] <= Rank.DOWNLOAD:
            return best
        behind = sum(turn.rank >= Rank.PREFETCH for turn in self._turns)
        if behind >= self._places - 1:
            return None
        if not self._is_held(ranks[best]):
            return best
        oldest = next(item for item in self._items if ranks[item] is not Rank.NOTHING)
        waited = time.monotonic() - self._items[oldest]
        return oldest if not behind and waited >= PATIENCE_S else None

    def _is_held(self, rank: Rank) -> bool:
        """Whether something better has the line."""
        return any(turn.rank < rank for turn in self._turns)

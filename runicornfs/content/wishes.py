"""What is wanted of a content and has not been asked for, in the order in which it is to be fetched.

Demand goes before read-ahead, programs before prefetches before downloads. Within a rank demand is served in order of
arrival, and the wishes of read-ahead take turns, a range each: several readers of one content, or several places that
one reads at, get on together.

What nobody has a use for any more goes: what a reader was to get when it is closed, what it waited for when it gives
up, what it would have read next when it has gone elsewhere.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Iterable

from runicornfs.content.blocks import ABSENT, FLYING, WANTED

# The largest range asked of the server at once, in blocks (1 MiB): a range is served when all of it has come.
RANGE = 8


class Rank(enum.IntEnum):
    """Who goes first, over all contents; the lowest does. Readers are programs (DEMAND), prefetches or downloads."""

    DEMAND = 0  # a program waits
    AHEAD = 1  # a program will want it
    PREFETCH = 2
    DOWNLOAD = 3
    NOTHING = 4


class Taken:
    """Blocks from `first` up to `stop` that are to be asked for now, and whether somebody waits for them."""

    __slots__ = ("awaited", "first", "stop")

    def __init__(self, first: int, stop: int, awaited: bool) -> None:
        self.first = first
        self.stop = stop
        self.awaited = awaited


class _Ahead:
    """Blocks that a reader will want, from the last one down with `backward`; without an owner, the content itself."""

    __slots__ = ("backward", "first", "owner", "stop")

    def __init__(self, first: int, stop: int, owner: object | None, backward: bool = False) -> None:
        self.first = first
        self.stop = stop
        self.owner = owner
        self.backward = backward


class Wishes:
    """Works on the map `states` of an entry, whose condition protects both; `rank` and truth may be asked without it:
    then they are a guess."""

    def __init__(self, states: bytearray) -> None:
        self._states = states
        # Blocks that are WANTED, each in one of these, in order of arrival.
        self._wanted: dict[Rank, OrderedDict[int, None]] = {
            rank: OrderedDict() for rank in (Rank.DEMAND, Rank.PREFETCH, Rank.DOWNLOAD)
        }
        self._ahead: dict[Rank, deque[_Ahead]] = {rank: deque() for rank in (Rank.AHEAD, Rank.PREFETCH, Rank.DOWNLOAD)}
        self.stalled = False  # there was no room for what is ahead; a reader has to move first

    def __bool__(self) -> bool:
        return self.rank is not Rank.NOTHING

    @property
    def rank(self) -> Rank:
        """Of what comes next."""
        for rank in Rank:
            if self._wanted.get(rank) or (self._ahead.get(rank) and not self.stalled):
                return rank
        return Rank.NOTHING

    def want(self, first: int, stop: int, rank: Rank) -> bool:
        """A reader of this rank waits for these blocks; True if one of them is not on its way."""
        self.stalled = False
        news = False
        for block in range(first, stop):
            state = self._states[block]
            if state == ABSENT:
                self._states[block] = WANTED
                self._wanted[rank][block] = None
                news = True
            elif state == WANTED:
                news |= self._raise(block, rank)
        return news

    def give_up(self, blocks: Iterable[int]) -> None:
        """Nobody waits for these blocks any more."""
        for block in blocks:
            if self._states[block] == WANTED:
                self._states[block] = ABSENT
                self._strike(block)

    def look_ahead(self, first: int, stop: int, owner: object | None, rank: Rank, backward: bool = False) -> None:
        """These blocks will be wanted by a reader of this rank (DEMAND: by a program)."""
        self.stalled = False
        queue = self._ahead[max(rank, Rank.AHEAD)]
        for ahead in queue:
            if ahead.owner is owner and ahead.first <= stop and first <= ahead.stop:
                ahead.first, ahead.stop = min(ahead.first, first), max(ahead.stop, stop)
                return
        queue.append(_Ahead(first, stop, owner, backward))

    def forget_ahead(self, owner: object) -> list[tuple[int, int]]:
        """What this reader would have wanted next it does not; returns the spans (first, stop)."""
        forgotten = []
        for rank, queue in self._ahead.items():
            forgotten += [(ahead.first, ahead.stop) for ahead in queue if ahead.owner is owner]
            self._ahead[rank] = deque(ahead for ahead in queue if ahead.owner is not owner)
        return forgotten

    def stall(self, first: int, stop: int) -> None:
        """There is no room for these blocks, nor for others that nobody waits for, until a reader moves."""
        self._ahead[Rank.AHEAD].appendleft(_Ahead(first, stop, None))
        self.stalled = True

    def put_back(self, first: int, stop: int, awaited: dict[int, Rank], rank: Rank) -> None:
        """Before everything else: these blocks, which are ABSENT, and of them those that are `awaited`, each with the
        rank of who waits. The rest is ahead for readers of this rank."""
        for block in reversed(range(first, stop)):
            if block in awaited:
                self._states[block] = WANTED
                queue = self._wanted[awaited[block]]
                queue[block] = None
                queue.move_to_end(block, last=False)
        self._ahead[max(rank, Rank.AHEAD)].appendleft(_Ahead(first, stop, None))

    def forget(self) -> set[int]:
        """Nobody wants anything any more; returns what was waited for."""
        blocks = {block for queue in self._wanted.values() for block in queue}
        self.give_up(blocks)
        for ahead in self._ahead.values():
            ahead.clear()
        return blocks

    def take(self, most: int = RANGE) -> Taken | None:
        """The next range, of at most so many blocks, or RANGE; FLYING from now on."""
        most = min(most, RANGE)
        for rank in Rank:
            wanted = self._wanted.get(rank)
            if wanted:
                first = next(iter(wanted))
                return Taken(first, self._fly(first, WANTED, first + most), awaited=True)
            queue = self._ahead.get(rank)
            while queue and not self.stalled:
                taken = self._take_ahead(queue, most)
                if taken is not None:
                    return taken
        return None

    def _take_ahead(self, queue: deque[_Ahead], most: int) -> Taken | None:
        """Of the first of these wishes, which has had its turn then; None if it is fulfilled."""
        ahead = queue.popleft()
        if ahead.backward:
            last = self._states.rfind(ABSENT, ahead.first, ahead.stop)
            if last < 0:
                return None
            least = max(ahead.first, last + 1 - most)
            first = last
            while first > least and self._states[first - 1] == ABSENT:
                first -= 1
            stop = self._fly(first, ABSENT, last + 1)
            ahead.stop = first
        else:
            first = self._states.find(ABSENT, ahead.first, ahead.stop)
            if first < 0:
                return None
            stop = ahead.first = self._fly(first, ABSENT, min(ahead.stop, first + most))
        if ahead.first < ahead.stop:
            queue.append(ahead)
        return Taken(first, stop, awaited=False)

    def _fly(self, first: int, state: int, end: int) -> int:
        stop = first
        while stop < min(end, len(self._states)) and self._states[stop] == state:
            self._states[stop] = FLYING
            if state == WANTED:
                self._strike(stop)
            stop += 1
        return stop

    def _raise(self, block: int, rank: Rank) -> bool:
        """Moves a WANTED block up to this rank; False if it has one as good."""
        if any(block in queue for held, queue in self._wanted.items() if held <= rank):
            return False
        self._strike(block)
        self._wanted[rank][block] = None
        return True

    def _strike(self, block: int) -> None:
        for queue in self._wanted.values():
            queue.pop(block, None)

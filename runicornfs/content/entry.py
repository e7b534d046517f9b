"""A content that is in use: which of its blocks are here, which are wanted, and who waits for them.

`condition` protects everything in it, with three exceptions. A reader whose blocks are all here takes no lock: it looks
at `states`, reads from `fd`, and looks at `generation` again. So whoever takes bytes away first counts `generation` up,
then changes `states`, and only then touches the file. `given` is only ever set by readers, before that second look: a
drop that a reader has not seen has seen `given`. `rank` is looked at by the scheduler, to whom a guess is good enough,
and `read_ahead` by readers (see there).
`uses` and `cleared` belong to the table of entries, under its lock.

A block is WANTED as long as it stands in the queues of `wishes`, and FLYING from when it was taken from there until it
has come or was put back; whoever makes it wanted hands the entry to the fetcher.

Nothing is called under the condition but what is below it in the order of locks: records and room.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from runicornfs.content import blocks as block_map
from runicornfs.content.blocks import ABSENT, PRESENT, WANTED, WITHHELD, bytes_in, count_of
from runicornfs.content.contents import CACHED, PARTIAL, REMOTE, VERIFIED
from runicornfs.content.digest import RunningDigest
from runicornfs.content.identity import Identity
from runicornfs.content.readahead import NEAR, ReadAhead
from runicornfs.content.records import Record
from runicornfs.content.wishes import RANGE, Rank, Taken, Wishes
from runicornfs.store.files import RemoteFile

_SHA256_OF_NOTHING = hashlib.sha256().digest()
_GONE = bytes(ABSENT if state in (PRESENT, WITHHELD) else state for state in range(256))


class OpenReader(Protocol):
    """What an entry knows of its readers."""

    rank: Rank  # DEMAND for a program
    position: int | None  # the first block of the last read
    hits: int
    misses: int
    bytes_served: int

    def poison(self, error: Exception) -> None:
        """This reader may have been given bytes that are wrong: it gets this error and no more bytes."""
        ...

    def end(self, error: Exception) -> None:
        """Closes it for everybody who has it; not with the condition held."""
        ...


class Waiter:
    """A read that waits for the blocks from `first` up to `stop`."""

    __slots__ = ("error", "first", "reader", "stop")

    def __init__(self, first: int, stop: int, reader: OpenReader) -> None:
        self.first = first
        self.stop = stop
        self.reader = reader
        self.error: Exception | None = None


class Entry:
    """Methods are called with `condition` held, unless they say otherwise."""

    def __init__(
        self,
        identity: Identity,
        file: str,
        states: bytearray | None,
        fd: int,
        verified: bool,
        doubted: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`doubted`: somebody else may have changed the file; nothing of it is served before its digest was checked.
        `clock` tells the time of a use."""
        self.key = identity.key
        self.size = identity.size
        self.file = file
        self.count = count_of(identity.size)
        lock = threading.RLock()
        self.condition = threading.Condition(lock)
        self.hashing = threading.Condition(lock)  # the same lock; notified when the digest has gone on
        self.states = bytearray(self.count) if states is None else states
        self.fd = fd  # -1 while there is no file
        self.generation = 0
        self.drops = 0  # how often everything was dropped
        self.recorded_at = -1  # `drops`, when the record was seen to say in the database that all is here
        self.given = False  # somebody has been given bytes since then
        self.verified = verified or (not self.count and identity.sha256 == _SHA256_OF_NOTHING)
        self.held = sum(bytes_in(*run, self.size) for run in self._runs_of(PRESENT))  # bytes on the disk
        self.whole = self.held == self.size
        self.doubted = doubted
        self.begun = False  # the record says that the file is being written
        self.dirty = False
        self.retired = False
        self.demoted = False  # evicted first, once it is at rest
        self.cleared = False  # it goes when it is retired
        self.readers: set[OpenReader] = set()
        self.waiting: list[Waiter] = []
        self.wishes = Wishes(self.states)
        self.read_ahead = ReadAhead(self.size, self.count)
        self.pulling = False  # a fill takes from the wishes
        self.failures = 0  # in a row, of the kind that may pass
        self.strikes = 0  # in a row, of the sha256
        self.uses = 0  # readers and threads; with the last one it is retired
        self.paths = [identity.path]
        self._bad_paths: set[str] = set()
        self._sha256 = identity.sha256
        self._mtime_s = identity.mtime_s
        self._clock = clock
        self.digest: RunningDigest | None = None
        if identity.sha256 is not None and self.count and not verified:
            self.digest = RunningDigest(identity.sha256, self.count, self.states.count(PRESENT))
            if self.whole:  # the program was killed before it was checked
                first = 0 if doubted else self.count - 1
                self.states[first:] = bytes([WITHHELD]) * (self.count - first)
                self.whole = False

    @property
    def rank(self) -> Rank:
        """Of what is wanted next. Without the condition."""
        return self.wishes.rank

    @property
    def unchecked(self) -> bool:
        """Whether everything is here but has not been checked. Without the condition."""
        digest = self.digest
        return digest is not None and digest.lacking == 0

    @property
    def state(self) -> str:
        """Without the condition."""
        if self.verified:
            return VERIFIED
        if self.whole:
            return CACHED
        return PARTIAL if self.held else REMOTE

    def record(self, boot: str) -> Record:
        """What is true now, as far as the page cache of this boot goes."""
        return Record(
            key=self.key,
            file=self.file,
            path=self.paths[0],
            size=self.size,
            cached_bytes=self.held,
            blocks=block_map.pack(self.states),
            verified=self.verified,
            last_used=self.last_used(),
            boot=boot,
        )

    def last_used(self) -> float:
        """Now, in Unix seconds; before all others where it was demoted."""
        return 0.0 if self.demoted else self._clock()

    # Where it lies on the server

    def add_path(self, path: str) -> None:
        if path not in self.paths:
            self.paths.append(path)

    def remote_file(self) -> RemoteFile:
        """The first place that has not failed."""
        path = next((path for path in self.paths if path not in self._bad_paths), self.paths[0])
        # After a drop the path is opened anew: the bad bytes may be those of a file that is open and replaced.
        content = f"{self.key} {self.drops}"
        return RemoteFile(path, self.size, self._mtime_s if self._sha256 is None else None, content)

    def path_failed(self, path: str) -> bool:
        """The file could not be had there; True if there is another place to try."""
        self._bad_paths.add(path)
        if len(self._bad_paths) < len(self.paths):
            return True
        self._bad_paths.clear()
        return False

    # What is wanted

    def has(self, first: int, stop: int) -> bool:
        """Whether all these blocks can be served. Without the condition it is a guess."""
        return self.states.count(PRESENT, first, stop) == stop - first

    def wait_for(self, waiter: Waiter) -> bool:
        """A read waits; True if something of what it waits for has not been asked for. May be said again."""
        return self.wishes.want(waiter.first, waiter.stop, waiter.reader.rank)

    def stop_waiting(self, waiter: Waiter) -> None:
        """A read waits no longer. What nobody else waits for is not asked for any more on its behalf."""
        self.waiting.remove(waiter)
        if self.states.find(WANTED, waiter.first, waiter.stop) >= 0:
            awaited = self.awaited(waiter.first, waiter.stop)
            self.wishes.give_up(block for block in range(waiter.first, waiter.stop) if block not in awaited)

    def awaited(self, first: int, stop: int) -> dict[int, Rank]:
        """Of these blocks, those that reads wait for, with the best rank of them."""
        found: dict[int, Rank] = {}
        for waiter in self.waiting:
            for block in range(max(first, waiter.first), min(stop, waiter.stop)):
                found[block] = min(found.get(block, Rank.NOTHING), waiter.reader.rank)
        return found

    def look_ahead(self, first: int, stop: int, owner: OpenReader | None, backward: bool = False) -> None:
        """These blocks will be wanted, by `owner` or, without one, by the best of the readers."""
        rank = self._best_rank() if owner is None else owner.rank
        self.wishes.look_ahead(first, stop, owner, rank, backward)

    def stall(self, first: int, stop: int) -> None:
        """There is no room for these FLYING blocks, nor for others that nobody waits for, until a reader moves."""
        self.put_back(range(first, stop), again=False)
        self.wishes.stall(first, stop)

    def join(self, reader: OpenReader) -> None:
        """A reader is opened."""
        self.readers.add(reader)
        self.demoted = False

    def leave(self, reader: OpenReader) -> None:
        """A reader is closed."""
        self.readers.discard(reader)
        self.read_ahead.forgotten(self.wishes.forget_ahead(reader))
        if not self.readers:
            self.wishes.forget()
            self.read_ahead = ReadAhead(self.size, self.count)
        self.condition.notify_all()

    def take(self, most: int = RANGE) -> Taken | None:
        """The next range to ask for, of at most so many blocks, FLYING from now on."""
        return self.wishes.take(most)

    def _best_rank(self) -> Rank:
        return min((reader.rank for reader in self.readers), default=Rank.DOWNLOAD)

    # What became of it

    def came(self, blocks: Iterable[int]) -> bool:
        """FLYING blocks are on the disk now; True if the digest can go on."""
        digest = self.digest
        hashable = False
        for block in blocks:
            if digest is not None and digest.finished:  # it spoke of an earlier pass over a content that does not fit
                digest.restart(self.states.count(PRESENT))
            self.held += bytes_in(block, block + 1, self.size)
            complete = self.held == self.size
            state = PRESENT
            if digest is not None:
                hashable |= block == digest.frontier
                finishes = digest.came(block)
                if complete and digest.outdated:
                    digest.restart(self.count)
                if finishes or complete:
                    # Nobody gets all the bytes of a content that does not match.
                    state = WITHHELD
                    hashable = True
            elif complete:
                self.whole = True
            self.states[block] = state
        self.failures = 0
        self._bad_paths.clear()
        self.dirty = True
        self.condition.notify_all()
        return hashable

    def put_back(self, blocks: Iterable[int], again: bool) -> None:
        """FLYING blocks have not come; with `again`, they are asked for before everything else."""
        for first, stop in reversed(block_map.runs(blocks)):
            self.states[first:stop] = bytes(stop - first)  # ABSENT
            if again and self.readers:
                self.wishes.put_back(first, stop, self.awaited(first, stop), self._best_rank())
        self.condition.notify_all()

    def fail(self, error: Exception, blocks: Iterable[int]) -> bool:
        """`blocks` and all that is wanted will not come; True if this is an answer to somebody."""
        concerned = {*blocks, *self.wishes.forget()}
        self.failures = 0
        told = False
        for waiter in self.waiting:
            if any(block in concerned for block in range(waiter.first, waiter.stop)):
                waiter.error = error
                told = True
        self.condition.notify_all()
        return told

    def fail_all(self, error: Exception) -> None:
        """Whoever waits for anything gets this error."""
        self.wishes.forget()
        for waiter in self.waiting:
            waiter.error = error
        self.condition.notify_all()

    # The sha256

    def hashable(self, digest: RunningDigest) -> tuple[int, int]:
        """The blocks (first, stop) that can be hashed next; none if both are the same."""
        first = stop = digest.frontier
        while stop < min(self.count, first + RANGE) and self.states[stop] in (PRESENT, WITHHELD):
            stop += 1
        return first, stop

    def hashed(self, digest: RunningDigest, first: int, stop: int) -> None:
        """These blocks are in the digest now; some of them may have been given up while they were hashed."""
        for block in range(first, stop):
            if self.states[block] not in (PRESENT, WITHHELD):
                digest.lacking -= 1
                digest.outdated = True
        digest.frontier = stop
        self.hashing.notify_all()

    def release_withheld(self) -> None:
        """The digest is finished and right: everything may be served."""
        for block in self._blocks_of(WITHHELD):
            self.states[block] = PRESENT
        self.strikes = 0
        self.doubted = False
        if self.held == self.size:
            self.whole = self.verified = True
            self.dirty = True
            self.digest = None
        self.condition.notify_all()

    # What goes

    def drop(self) -> int:
        """Nothing of it is here any more; returns how many bytes that were. The caller empties the file."""
        self.generation += 1
        self.drops += 1
        self.states[:] = self.states.translate(_GONE)
        dropped, self.held = self.held, 0
        self.whole = self.verified = self.given = self.doubted = False
        if self._sha256 is not None:
            self.digest = self.digest or RunningDigest(self._sha256, self.count, 0)
            self.digest.restart(0)
        self.dirty = True
        return dropped

    def give_up(self, blocks: Iterable[int]) -> int:
        """These blocks are not here any more; returns their bytes. The caller punches them out of the file."""
        self.generation += 1
        size = 0
        for block in blocks:
            self.states[block] = ABSENT
            size += bytes_in(block, block + 1, self.size)
            if self.digest is not None:
                self.digest.went(block)
        self.held -= size
        if self.whole:
            self.whole = False
            if self._sha256 is not None and self.verified:
                self.digest = RunningDigest(self._sha256, self.count, self.states.count(PRESENT))
                self.verified = False
        self.dirty = True
        return size

    def expendable(self, need: int, spare: int, than: int) -> list[int]:
        """Blocks of `need` bytes together that will be wanted last, if everybody goes on reading forward.

        Those behind all readers first, farthest first, and of them `spare` bytes more, so that it need not be done for
        every block. Then those that are farther ahead of the reader before them than `than` blocks.
        """
        positions = sorted({reader.position for reader in self.readers if reader.position is not None})
        found: list[int] = []
        size = 0
        for block in self._blocks_of(PRESENT, (positions[0] if positions else self.count) - NEAR):
            if size >= need + spare:
                return found
            if not self._guarded(block):
                found.append(block)
                size += bytes_in(block, block + 1, self.size)
        if size >= need:
            return found
        behind = set(found)
        scored: list[tuple[int, int]] = []
        for block in self._blocks_of(PRESENT):
            before = bisect.bisect_right(positions, block)
            score = block - positions[before - 1] if before else self.count
            if score > than and block not in behind and not self._guarded(block):
                scored.append((score, block))
        wanted = -(-(need - size) // block_map.BLOCK) + 1  # the last block may be a short one
        for _, block in heapq.nlargest(wanted, scored):
            if size < need:
                found.append(block)
                size += bytes_in(block, block + 1, self.size)
        return found

    def distance(self, block: int) -> int:
        """How far `block` is ahead of the reader before it, in blocks."""
        before = (reader.position for reader in self.readers if reader.position is not None)
        return block - max((position for position in before if position <= block), default=0)

    @property
    def hash_goes_on(self) -> bool:
        """Whether the next block to hash is here."""
        digest = self.digest
        return digest is not None and not digest.finished and self.states[digest.frontier] in (PRESENT, WITHHELD)

    @property
    def is_about_to_be_read(self) -> bool:
        """Whether somebody who waited has all that it takes."""
        return any(self.has(waiter.first, waiter.stop) for waiter in self.waiting)

    def _guarded(self, block: int) -> bool:
        """Whether somebody is just about to read it, or it can be hashed before it goes."""
        if any(waiter.first <= block < waiter.stop for waiter in self.waiting):
            return True
        return self.digest is not None and block >= self.digest.frontier and self.hash_goes_on

    def _blocks_of(self, state: int, end: int | None = None) -> Iterator[int]:
        end = self.count if end is None else max(0, end)
        block = self.states.find(state, 0, end)
        while block >= 0:
            yield block
            block = self.states.find(state, block + 1, end)

    def _runs_of(self, state: int) -> list[tuple[int, int]]:
        return block_map.runs(self._blocks_of(state))

"""Many small files over one SFTP session in about two round trips: all are opened at once, then read at once.

Each file is a conversation of its own (see `pipeline`), and what goes wrong with one concerns no other, as long as the
session holds. A batch is small, so nothing decides late what comes next: that is what `transfer` is for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from runicornfs.errors import ServerError
from runicornfs.remote.expected import check_expected
from runicornfs.remote.line import Stamp
from runicornfs.remote.packets import Kind, Packet, read_body, string
from runicornfs.remote.pipeline import Conversation, Pipeline
from runicornfs.remote.sftp import SftpSession
from runicornfs.remote.transfer import parts, read_refused, write_at
from runicornfs.store.files import Job
from runicornfs.store.paths import check_relative

# Files open at once. They are small: this many have what a line takes, and the server's process a bound.
MOST_OPEN = 256
# Bytes on their way at once, which the session may have to hold until all of a file's answers are here.
MOST_BYTES = 16 << 20

Read = tuple[tuple[int, int], int, int]  # of which range, offset, length


class LookFirst(Exception):
    """The server may not come back from opening one of the files, which is no regular one: those that are left are to
    be asked for again, over a session that looks before it opens. This one is closed."""


class Batch:
    """One run over `jobs`, which lie below `root`. Used once, by the thread that owns the session."""

    def __init__(self, session: SftpSession, root: str, jobs: Sequence[Job]) -> None:
        self.opens = 0
        self.reads = 0
        self.bytes = 0
        self.errors: list[Exception | None] = [None] * len(jobs)  # of each job; None: it has been done
        self.left = set(range(len(jobs)))  # jobs that have not ended
        self.crowded: list[int] = []  # jobs that the server may only have had no handle for
        self._session = session
        self._line = session.line
        self._root = os.fsencode(root.rstrip("/"))
        self._jobs = jobs
        self._waiting = list(range(len(jobs)))[::-1]  # to be begun when there is room, the last one first
        self._in_flight = 0  # bytes that have been asked for
        self._under_way = 0  # bytes of the jobs that have begun
        most = min(MOST_OPEN, max(1, session.handle_limit // 2))  # the other half: what the session keeps open
        self._pipeline: Pipeline[None] = Pipeline(session, most, self._heard)

    def run(self) -> None:
        """Returns when all jobs have ended. Raises what the session raises, which concerns those that are `left`, and
        LookFirst."""
        self._line.transfer_begins()
        try:
            for _ in self._pipeline.run(self._next):
                pass
        finally:
            self._line.transfer_ends()
            self._line.abandoned(self._in_flight)

    def _heard(self, answer: Packet) -> None:
        if answer.kind == Kind.ATTRS and not self._session.careful and answer.fields().attributes().may_block:
            self._session.careful = True
            self._session.close()
            raise LookFirst

    def _next(self) -> Conversation[None] | None:
        if not self._waiting:
            return None
        size = _size_of(self._jobs[self._waiting[-1]])
        if self._under_way and self._under_way + size > MOST_BYTES:
            return None
        self._under_way += size
        return self._job(self._waiting.pop())

    def _job(self, number: int) -> Conversation[None]:
        try:
            yield from self._brought(number)
        except Exception as error:
            if not self._session.is_open:
                raise
            self.errors[number] = error
        self.left.discard(number)
        self._under_way -= _size_of(self._jobs[number])

    def _brought(self, number: int) -> Conversation[None]:
        job = self._jobs[number]
        path = self._root + b"/" + os.fsencode(check_relative(job.file.path))
        self.opens += 1
        look = self._session.looking(path)
        if self._session.careful:
            (seen,) = yield [look]
            check_expected(self._session.attributes(seen, path), job.file)
            opened, *places = yield self._session.opening(path, self._root)
        else:
            seen, opened, *places = yield [look, *self._session.opening(path, self._root)]
        try:
            handle = self._session.handle(opened, path)
        except ServerError as error:
            if type(error) is ServerError:
                self.crowded.append(number)
            raise
        try:
            check_expected(self._session.attributes(seen, path), job.file)
            self._session.check_place(path, self._root, places)
            yield from self._content(job, path, handle)
        finally:
            self._pipeline.forget(Kind.CLOSE, string(handle))

    def _content(self, job: Job, path: bytes, handle: bytes) -> Conversation[None]:
        missing = {whole: whole[1] for whole in job.ranges}
        reads = [(whole, *part) for whole in missing for part in parts(*whole, self._session.read_limit)]
        while reads:
            stamps = [self._asked(length) for _, _, length in reads]
            answers = yield [(Kind.READ, read_body(handle, offset, length)) for _, offset, length in reads]
            rest: list[Read] = []
            self._arrived(reads, stamps, answers)
            for (whole, offset, length), answer in zip(reads, answers, strict=True):
                size = self._written(job.fd, path, offset, length, answer)
                missing[whole] -= size
                if size < length:  # allowed anywhere, not only at the end of the file: ask for the rest
                    rest.append((whole, offset + size, length - size))
                elif not missing[whole]:
                    job.received(*whole)
            reads = rest

    def _asked(self, length: int) -> Stamp:
        self.reads += 1
        self._in_flight += length
        return self._line.sent(length, time.monotonic())

    def _arrived(self, reads: list[Read], stamps: list[Stamp], answers: list[Packet]) -> None:
        now = time.monotonic()
        for (_, _, length), stamp, answer in zip(reads, stamps, answers, strict=True):
            self._in_flight -= length
            self._line.answered(stamp, length, answer.size if answer.kind == Kind.DATA else 0, now)

    def _written(self, fd: int, path: bytes, offset: int, length: int, answer: Packet) -> int:
        """How many bytes came, which are in the file now."""
        if answer.kind != Kind.DATA:
            raise read_refused(self._session, answer, path)
        if not 0 < answer.size <= length:
            raise self._session.nonsense(f"sent {answer.size} bytes where {length} were asked for")
        write_at(fd, answer.body, offset, answer.size)
        self.bytes += answer.size
        return answer.size


def _size_of(job: Job) -> int:
    return sum(length for _, length in job.ranges)

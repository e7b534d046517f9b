"""Many conversations with a server over one SFTP session at once, so that none of them waits for another's answers.

A conversation is a generator: it yields the requests of its next turn and is sent their answers, in order; what it
returns is its outcome. A thousand conversations of two turns each then take little more time than the line needs for
their bytes, where one after the other they would take two thousand round trips.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from runicornfs.remote.packets import Kind, Packet, packet
from runicornfs.remote.sftp import SftpSession

T = TypeVar("T")
Request = tuple[Kind, bytes]
Conversation = Generator[list[Request], list[Packet], T]


@dataclass(slots=True)
class _Turn(Generic[T]):
    """What a conversation has asked, and the answers so far."""

    conversation: Conversation[T]
    ids: list[int]
    answers: dict[int, Packet] = field(default_factory=dict)


class Pipeline(Generic[T]):
    """Belongs to the thread that has borrowed the session. `room`: how many conversations there may be at once."""

    def __init__(self, session: SftpSession, room: int, heard: Callable[[Packet], None] = lambda answer: None) -> None:
        """`heard` is told of each answer at once, also of those for which a turn waits for others."""
        self._heard = heard
        self.room = room
        self.active = 0  # conversations under way
        self._session = session
        self._turns: dict[int, _Turn[T]] = {}  # by the ids of the requests that are not answered yet
        self._to_send = bytearray()

    def run(self, next_one: Callable[[], Conversation[T] | None]) -> Iterator[T]:
        """Yields the outcomes of the conversations, in the order in which they end.

        `next_one` is asked for another one whenever there is room; None: none now. Returns when all have ended and
        there is none to begin. Raises what the session and the conversations raise; the session is closed then, unless
        no answer is outstanding.
        """
        try:
            while True:
                while self.active < self.room and (conversation := next_one()) is not None:
                    self.active += 1
                    yield from self._resume(conversation, None)
                self._send()
                if not self._turns:
                    return
                answer = self._session.receive()
                turn = self._turns.pop(answer.id, None)
                if turn is None:
                    raise self._session.nonsense(f"answered request {answer.id}, which was not made")
                self._heard(answer)
                turn.answers[answer.id] = answer
                if len(turn.answers) == len(turn.ids):
                    yield from self._resume(turn.conversation, [turn.answers[id_] for id_ in turn.ids])
        finally:
            if self._turns:
                self._session.close()
            elif self._session.is_open:
                self._send()

    def forget(self, kind: Kind, body: bytes) -> None:
        """Make a request whose answer does not matter."""
        self._to_send += self._session.unheeded(kind, body)

    def _resume(self, conversation: Conversation[T], answers: list[Packet] | None) -> Iterator[T]:
        """Lets a conversation have its answers, and yields its outcome if it has ended with them."""
        try:
            requests = next(conversation) if answers is None else conversation.send(answers)
        except StopIteration as end:
            self.active -= 1
            yield end.value
            return
        except BaseException:
            self.active -= 1
            raise
        ids = [self._session.next_id() for _ in requests]
        turn = _Turn(conversation, ids)
        for id_, (kind, body) in zip(ids, requests, strict=True):
            self._turns[id_] = turn
            self._to_send += packet(kind, id_, body)

    def _send(self) -> None:
        if self._to_send:
            data, self._to_send = bytes(self._to_send), bytearray()
            self._session.send(data)

"""What is going on, as server-sent events: each carries the whole new state of its subject, as its GET call answers it.

A thread looks at everything a few times a second and notes what differs, for as long as somebody listens and a minute
longer: so a client that comes back misses nothing of the last minute. `_lock` protects the notes and the listeners.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
from pydantic_core import to_jsonable_python
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from runicornfs.api import cache, downloads, mounts, remote
from runicornfs.api.calls import Call
from runicornfs.errors import Refused, RunicornFSError
from runicornfs.workspace.workspace import Workspace

log = logging.getLogger("runicornfs.api")

# How often everything is looked at, and how often a client is given what was noted, in seconds.
LOOK_S = 0.25
GIVE_S = 0.1
# How long an event is kept for a client that comes back, in seconds.
KEPT_S = 60.0
# A line that says nothing is taken for dead by proxies; a comment comes this often, in seconds.
PING_S = 15
# Digits of an event's number, which begins as milliseconds since 1970.
LONGEST_NUMBER = 18
# Clients at a time. Each looks for news ten times a second; a person has a page or two open.
LISTENERS_LIMIT = 64
# A client that takes nothing for so long has gone, in seconds: others may want its place.
TAKING_S = 60.0
# Of the status, what is no state of the connection.
TOLD_ELSEWHERE = frozenset({"sync_progress", "stats", "problems", "mounts"})


@dataclass(frozen=True, slots=True)
class Event:
    """`number` grows with every event; `noted_at` in monotonic seconds; `data` is JSON."""

    number: int
    noted_at: float
    subject: str
    data: str


class EventLog:
    """Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._events: deque[Event] = deque()
        # Not from 1: a number of an earlier process is none of ours.
        self._number = int(time.time() * 1000)
        self._last: dict[str, str] = {}
        self._listeners = 0
        self._wanted_until = 0.0
        self._thread: threading.Thread | None = None
        self.closing = threading.Event()

    def listen(self, last: int | None) -> int:
        """A client has come. Returns the number after which it is to be given everything: `last`, if all since then is
        noted, else that of before the present state of everything."""
        with self._lock:
            self._listeners += 1
            if self._thread is None or not self._thread.is_alive():
                self._last.clear()
                self._events.clear()
                self._thread = threading.Thread(target=self._watch, name="events", daemon=True)
                self._thread.start()
                return self._number
            first = self._events[0].number if self._events else self._number + 1
            if last is not None and first - 1 <= last <= self._number:
                return last
            self._last.clear()  # the next look notes everything
            return self._number

    @property
    def listeners(self) -> int:
        """How many clients there are."""
        return self._listeners

    def leave(self) -> None:
        """A client has gone."""
        with self._lock:
            self._listeners -= 1
            self._wanted_until = time.monotonic() + KEPT_S

    def after(self, number: int) -> list[Event]:
        """The events with greater numbers."""
        with self._lock:
            return [event for event in self._events if event.number > number]

    def close(self) -> None:
        """Ends the thread and all streams."""
        self.closing.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _watch(self) -> None:
        while not self.closing.wait(LOOK_S):
            with self._lock:
                if not self._listeners and time.monotonic() > self._wanted_until:
                    self._thread = None
                    return
            try:
                self._note(states(self._workspace))
            except RunicornFSError as error:
                log.info("nothing is told at the moment: %s", error)
            except Exception:
                log.exception("what is going on cannot be told")

    def _note(self, found: dict[str, Any]) -> None:
        now = time.monotonic()
        with self._lock:
            for key, state in found.items():
                data = json.dumps(to_jsonable_python(state, inf_nan_mode="null"))
                if self._last.get(key) != data:
                    self._last[key] = data
                    self._number += 1
                    self._events.append(Event(self._number, now, key.partition(" ")[0], data))
            while self._events and self._events[0].noted_at < now - KEPT_S:
                self._events.popleft()


def calls() -> list[Call]:
    return [Call("GET", "/api/events", events, answer=str, refusals=(400,), media_type="text/event-stream")]


async def events(request: Request) -> Response:
    """Tells what is going on as server-sent events, until the client goes.

    Events are `sync`, `download`, `connection`, `cache` and `mount`, each with the whole new state of its subject as
    JSON. A client that comes back with `Last-Event-ID` misses nothing of the last minute.
    """
    if request.method == "HEAD":  # of what has no end
        return Response(media_type="text/event-stream")
    sent = request.headers.get("last-event-id", "")
    last = int(sent) if sent.isdecimal() and len(sent) <= LONGEST_NUMBER else None
    event_log: EventLog = request.app.state.events

    async def stream() -> AsyncIterator[ServerSentEvent]:
        number = event_log.listen(last)
        try:
            while not event_log.closing.is_set():
                for event in event_log.after(number):
                    number = event.number
                    yield ServerSentEvent(event.data, event=event.subject, id=str(event.number))
                await anyio.sleep(GIVE_S)
        finally:
            event_log.leave()

    if event_log.listeners >= LISTENERS_LIMIT:
        raise Refused(f"{LISTENERS_LIMIT} clients listen to events already: close one first")
    return EventSourceResponse(stream(), ping=PING_S, send_timeout=TAKING_S)


def states(workspace: Workspace) -> dict[str, Any]:
    """The state of every subject; of downloads, one for each task."""
    now = remote.status_of(workspace)
    found: dict[str, Any] = {
        "sync": now.sync_progress,
        "connection": {name: value for name, value in vars(now).items() if name not in TOLD_ELSEWHERE},
        "cache": cache.status_of(workspace),
        "mount": mounts.mounts_of(workspace),
    }
    for task in downloads.all_of(workspace):
        found[f"download {task.task_id}"] = task
    return found

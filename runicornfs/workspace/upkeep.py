"""Who keeps what is known of a store up to date: this process, or the one that owns the store's cache folder."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from runicornfs.content.guest import GuestContents
from runicornfs.content.owner import Handler
from runicornfs.errors import Refused, RunicornFSError
from runicornfs.manage.editors import Edit
from runicornfs.manage.manager import Manager
from runicornfs.remote.server import Server
from runicornfs.remote.structure import StructureReport
from runicornfs.sync.progress import SyncProgress
from runicornfs.sync.syncer import Syncer, SyncRun

# How often a process asks the owner how far the sync is that it wants the end of.
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class UpkeepState:
    """The line to the server and the syncs. `line` is a state of `Server`; times in Unix seconds."""

    line: str
    error: str | None
    progress: SyncProgress
    last_sync: float | None
    syncs: int
    failures: int
    reconnects: int

    @property
    def connected(self) -> bool:
        return self.line == "connected"

    @property
    def advice(self) -> str:
        """What to do where a connection is needed."""
        if self.line in ("connecting", "reconnecting"):
            return "it is being connected, so try again in a moment"
        return "connect first (mount without --offline, or use the API)"


_STATE = TypeAdapter(UpkeepState)
_REPORT = TypeAdapter(StructureReport)


class Upkeep(Protocol):
    """Thread-safe. All of it raises Unreachable where the process that could answer is gone."""

    def state(self) -> UpkeepState: ...

    def sync(self, full: bool = False) -> SyncRun:
        """Starts a sync, or joins the one that runs; returns at once."""
        ...

    def start_over(self, forget: bool = False) -> SyncRun:
        """See `Syncer.start_over`."""
        ...

    def edit(self, artifact: str, edit: Edit) -> list[str]:
        """See `Manager.edit`."""
        ...

    def inspect(self) -> StructureReport:
        """Asks the server what is at the root of the store. Raises Refused where there is none, ServerErrors."""
        ...


class OwnUpkeep:
    """This process syncs; without a server, from a folder of this machine."""

    def __init__(self, syncer: Syncer, server: Server | None, manager: Manager) -> None:
        self._syncer = syncer
        self._server = server
        self._manager = manager

    def state(self) -> UpkeepState:
        failure = None if self._server is None else self._server.last_error
        syncs, failures = self._syncer.counts
        return UpkeepState(
            line="connected" if self._server is None else self._server.state,
            error=None if failure is None else str(failure),
            progress=self._syncer.progress,
            last_sync=self._syncer.last_sync,
            syncs=syncs,
            failures=failures,
            reconnects=0 if self._server is None else max(0, self._server.counters.connections - 1),
        )

    def sync(self, full: bool = False) -> SyncRun:
        return self._syncer.start(full)

    def start_over(self, forget: bool = False) -> SyncRun:
        return self._syncer.start_over(forget)

    def edit(self, artifact: str, edit: Edit) -> list[str]:
        return self._manager.edit(artifact, edit)

    def inspect(self) -> StructureReport:
        if self._server is None:
            raise Refused("the store lies on this machine: there is no server to ask")
        return self._server.inspect_store()


class OwnersUpkeep:
    """Another process syncs, and is asked over its socket."""

    STATE = "upkeep"
    SYNC = "sync"
    START_OVER = "start_over"
    EDIT = "edit"
    INSPECT = "inspect"

    def __init__(self, owner: GuestContents) -> None:
        self._owner = owner

    @classmethod
    def answers(cls, upkeep: Upkeep) -> dict[str, Handler]:
        """What the owner answers these questions with."""
        return {
            cls.STATE: lambda arguments: to_jsonable_python(upkeep.state()),
            cls.SYNC: lambda arguments: upkeep.sync(bool(arguments["full"])).full,
            cls.START_OVER: lambda arguments: upkeep.start_over(bool(arguments["forget"])).full,
            cls.EDIT: lambda arguments: upkeep.edit(str(arguments["artifact"]), dict(arguments["edit"])),
            cls.INSPECT: lambda arguments: to_jsonable_python(upkeep.inspect()),
        }

    def state(self) -> UpkeepState:
        return _STATE.validate_python(self._owner.call(self.STATE))

    def sync(self, full: bool = False) -> SyncRun:
        self._owner.call(self.SYNC, full=full)
        return self._followed(full)

    def start_over(self, forget: bool = False) -> SyncRun:
        self._owner.call(self.START_OVER, forget=forget)
        return self._followed(True)

    def edit(self, artifact: str, edit: Edit) -> list[str]:
        return [str(note) for note in self._owner.call(self.EDIT, artifact=artifact, edit=edit)]

    def inspect(self) -> StructureReport:
        return _REPORT.validate_python(self._owner.call(self.INSPECT))

    def _followed(self, full: bool) -> SyncRun:
        run = SyncRun(full)
        threading.Thread(target=self._follow, args=(run,), name="sync-follow", daemon=True).start()
        return run

    def _follow(self, run: SyncRun) -> None:
        """Until the run has ended in the other process, or that process has."""
        try:
            while (state := self.state()).progress.status == "running":
                run.finished.wait(POLL_S)
            if state.progress.status == "failed":
                run.error = RunicornFSError(state.progress.errors[-1] if state.progress.errors else "the sync failed")
        except RunicornFSError as error:
            run.error = error
        finally:
            run.committed.set()
            run.finished.set()

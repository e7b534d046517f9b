"""Runs syncs: one at a time, in a thread of their own, on request and at an interval.

A sync stages what it receives, so that one which breaks off need not be repeated from the start, and applies everything
in one transaction at the end: who reads the catalog sees the store before it or after it. Only then is the export
written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.update import Changes, Update
from runicornfs.errors import Interrupted, NoSpace, RunicornFSError
from runicornfs.remote.events import Event, Gone, Notice, Plan
from runicornfs.store.observed import Observed
from runicornfs.sync.export import MetadataExport
from runicornfs.sync.progress import ProgressTracker, SyncProgress

log = logging.getLogger("runicornfs.sync")

Scan = Callable[[Iterable[tuple[bytes, bytes]]], Iterator[Event]]


class SyncRun:
    """One sync under way. `committed` is set when the catalog shows its result, `finished` when nothing is left to do;
    both are set also where it failed, and then `error` says why."""

    def __init__(self, full: bool) -> None:
        self.full = full
        self.pays = 0  # the last debt that it settles if it succeeds: see `Syncer.owe`
        self.committed = threading.Event()
        self.finished = threading.Event()
        self.error: Exception | None = None

    def wait(self, event: threading.Event, timeout_s: float | None = None) -> None:
        """Waits for one of the two events; raises what the sync failed with."""
        event.wait(timeout_s)
        if self.error is not None:
            raise self.error


class Syncer:
    """Thread-safe. `_lock` protects all that changes; it is never held while a sync works."""

    def __init__(
        self, catalog: Catalog, scan: Scan, export: MetadataExport, make_room: Callable[[], bool] = lambda: False
    ) -> None:
        """`make_room()` is asked to free some of a full disk, and says whether it has; a sync tries once more then."""
        self._catalog = catalog
        self._scan = scan
        self._export = export
        self._make_room = make_room
        self._tracker = ProgressTracker()
        self._exporting = threading.Lock()
        self._lock = threading.Lock()
        self._run: SyncRun | None = None
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._repeating = threading.Event()  # set when the present interval is not to be kept any more
        self._last_sync: float | None = None
        self._count = 0
        self._errors = 0
        self._debt = 0  # how often a sync was owed so far,
        self._paid = 0  # and up to which of these one has been made that began later
        self._again = False  # the run under way is followed by another while one is owed

    @property
    def progress(self) -> SyncProgress:
        return self._tracker.now

    @property
    def last_sync(self) -> float | None:
        """Unix seconds at which the catalog was last known to be what the server had."""
        with self._lock:
            if self._last_sync is not None:
                return self._last_sync
        return self._catalog.last_sync()

    @property
    def counts(self) -> tuple[int, int]:
        """Syncs that ended well, and that failed, since the start."""
        with self._lock:
            return self._count, self._errors

    def start(self, full: bool = False) -> SyncRun:
        """Starts a sync and returns at once; joins one that already runs, unless only its export is left to do."""
        with self._lock:
            self._refuse_at_the_end()
            if self._run is not None and not self._run.committed.is_set():
                return self._run
            return self._begin(SyncRun(full))

    def owe(self) -> None:
        """What the server has is not known any more: a sync that begins now or later has to find out. Returns at once.

        One that runs may have passed already, and one that fails because the server is away is made up for by
        `reached`.
        """
        with self._lock:
            self._debt += 1
            self._pay()

    def reached(self) -> None:
        """The server can be reached (again): starts the sync that is owed, if one is. Returns at once."""
        with self._lock:
            self._pay()

    def start_over(self, forget: bool = False) -> SyncRun:
        """Removes the export and reads everything again, when a sync that runs has ended; returns at once.

        Who reads the catalog sees the store as before until then. With `forget` nothing is read: all that is known is
        gone.
        """
        with self._lock:
            self._refuse_at_the_end()
            return self._launch(self._start_over, SyncRun(full=True), _all_gone if forget else self._scan, self._run)

    def every(self, interval_s: float) -> None:
        """Syncs again whenever `interval_s` seconds have passed since the last one, from now on; 0 is never."""
        with self._lock:
            self._refuse_at_the_end()
            self._repeating.set()
            repeating = self._repeating = threading.Event()
            if interval_s:
                thread = threading.Thread(target=self._repeat, args=(interval_s, repeating), name="sync-interval")
                self._threads = [other for other in self._threads if other.is_alive()] + [thread]
                thread.start()

    def cancel(self) -> None:
        """No sync is started any more; one that runs ends at its next event."""
        with self._lock:
            self._closing.set()
            self._repeating.set()

    def join(self) -> None:
        """Waits for the threads to end, after `cancel` and after the line was closed under a waiting sync.

        When the last sync was that found nothing new is written only now.
        """
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        if self._last_sync is not None and self._last_sync != self._catalog.last_sync():
            with contextlib.suppress(RunicornFSError):  # the next sync will find out
                self._catalog.note_sync(self._last_sync)

    def export(self, changes: Changes) -> None:
        """An edit has changed these documents: the export follows, in the background."""
        thread = threading.Thread(target=self._export_changes, args=(changes,), name="export")
        with self._lock:
            if not self._closing.is_set():
                self._threads = [other for other in self._threads if other.is_alive()] + [thread]
                thread.start()

    def _export_changes(self, changes: Changes) -> None:
        with self._exporting:
            if self._export.is_complete:  # else the next sync writes everything
                self._export.write(changes.documents_changed)

    def _repeat(self, interval_s: float, ended: threading.Event) -> None:
        while not ended.wait(interval_s):
            try:
                run = self.start()
            except Interrupted:
                return
            run.finished.wait()

    def _begin(self, run: SyncRun) -> SyncRun:
        """Under the lock."""
        run.pays = self._debt
        self._tracker.start()
        return self._launch(self._work, run, self._scan)

    def _pay(self) -> None:
        """Starts a sync if one is owed, now or after the one that runs. Under the lock."""
        if self._run is not None and not self._run.committed.is_set():
            self._again = True
        elif self._debt != self._paid and not self._closing.is_set():
            self._begin(SyncRun(full=False))

    def _refuse_at_the_end(self) -> None:
        """Under the lock."""
        if self._closing.is_set():
            raise Interrupted("the program is ending: nothing is synced any more")

    def _launch(self, work: Callable[..., None], run: SyncRun, *arguments: object) -> SyncRun:
        """Under the lock."""
        self._run = run
        self._again = False
        thread = threading.Thread(target=work, args=(run, *arguments), name="sync")
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()
        return run

    def _start_over(self, run: SyncRun, scan: Scan, before: SyncRun | None) -> None:
        if before is not None:
            before.finished.wait()
        self._tracker.start()
        with self._exporting:
            self._export.remove()
        self._work(run, scan)

    def _work(self, run: SyncRun, scan: Scan) -> None:
        try:
            try:
                self._sync(run, scan)
            except NoSpace:
                if run.committed.is_set() or not self._make_room():
                    raise
                self._tracker.start()
                self._sync(run, scan)
        except Exception as error:  # whoever waits for the run gets it; nobody may wait at all
            if run.committed.is_set():
                log.exception("the export of a sync failed")
                return
            run.error = error
            self._tracker.problem(str(error))
            self._tracker.finish("failed")
            with self._lock:
                self._errors += 1
            if isinstance(error, RunicornFSError):
                log.info("sync failed: %s", error)
            else:
                log.exception("sync failed")
        finally:
            run.committed.set()
            run.finished.set()
            with self._lock:
                if run.error is None:
                    self._paid = max(self._paid, run.pays)
                if self._again and run is self._run:
                    self._pay()

    def _sync(self, run: SyncRun, scan: Scan) -> None:
        started = None if scan is _all_gone else time.time()
        with contextlib.ExitStack() as exporting:
            with self._catalog.update() as update:
                known = update.known()
                # With no token everything differs and is read again; what is not met is told as gone as ever.
                for event in scan(((path, b"") for path, _ in known) if run.full else known):
                    if self._closing.is_set():
                        raise Interrupted("the program is ending: the sync was given up")
                    self._take(update, event)
                to_export = self._begin_export(update, exporting)
                changes = self._commit(run, update, started)
            if to_export is not None:
                self._export.write(self._catalog.documents() if to_export == "all" else changes.documents_changed)

    def _begin_export(self, update: Update, exporting: contextlib.ExitStack) -> Literal["all", "changed"] | None:
        """Before the commit: what has to be exported after it, in the turn that ends with `exporting`."""
        nothing_new = update.is_empty
        if not self._exporting.acquire(blocking=not nothing_new):
            return None  # another export is under way, and nothing came that would have to wait for it
        exporting.callback(self._exporting.release)
        is_complete = self._export.is_complete
        if is_complete and nothing_new:
            return None
        if not self._export.begin():
            return None
        return "changed" if is_complete else "all"

    def _commit(self, run: SyncRun, update: Update, started: float | None) -> Changes:
        changes = update.apply(last_sync=started)
        if started is not None:
            with self._lock:
                self._last_sync = started
                self._count += 1
        for problem in changes.problems:
            self._tracker.problem(problem)
            log.info("%s", problem)
        self._tracker.finish("completed")
        run.committed.set()
        return changes

    def _take(self, update: Update, event: Event) -> None:
        match event:
            case Plan(documents, size_bytes):
                self._tracker.plan(documents, size_bytes)
            case Gone(path):
                update.gone(path)
            case Notice(text):
                update.notice(text)
                self._tracker.problem(text)
            case Observed(path, content=content):
                update.stage(event)
                if content is not None:
                    self._tracker.received(path, len(content))


def _all_gone(known: Iterable[tuple[bytes, bytes]]) -> Iterator[Event]:
    """What a scan of an empty store would say."""
    for path, _ in known:
        yield Gone(os.fsdecode(path))

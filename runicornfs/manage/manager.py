"""Makes edits and shows them: the change on the server first, then at once in the catalog, then in the export.

One edit at a time: what the one found out about an artifact is in the catalog before the next one looks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.update import Changes
from runicornfs.errors import Conflict, OutcomeUnknown, RunicornFSError
from runicornfs.manage.editors import Edit, Editor
from runicornfs.remote.events import Event, Gone
from runicornfs.store.edits import DELETE_FOR_GOOD
from runicornfs.store.observed import Observed

log = logging.getLogger("runicornfs.manage")

# An edit takes some round trips, and waits for the SDK's lock for ten seconds at most.
TURN_S = 15.0
# Removing the files of a large version can take longer than anybody waits for an answer.
SWEEP_S = 10.0


class Manager:
    """Thread-safe. `_turn` is held while an edit is made and shown.

    `amended` is told what an edit changed in the catalog; `resync` has a sync made, as soon as that is possible, where
    that could not be found out.
    """

    def __init__(
        self,
        catalog: Catalog,
        editor: Editor,
        amended: Callable[[Changes], None],
        resync: Callable[[], object],
    ) -> None:
        self._catalog = catalog
        self._editor = editor
        self._amended = amended
        self._resync = resync
        self._turn = threading.Lock()

    def edit(self, artifact: str, edit: Edit) -> list[str]:
        """Makes an edit (see `runicornfs.store.edits`) of the artifact whose folder is named, and shows it; returns
        what should be known of how it went. Touches the network.

        Raises NotFound, Conflict, InvalidInput, MalformedRecord, NoSpace and ServerErrors, with nothing changed;
        OutcomeUnknown leaves open whether something was, and the next sync, which has begun then, shows it.
        """
        with self._in_turn():
            try:
                done = self._editor.edit(artifact, edit, self._catalog.known_in(artifact))
            except OutcomeUnknown:
                self._resync()
                raise
            notes = list(done.notes)
            if done.events is None:
                self._resync()
                notes.append("it is shown after the next sync, which has begun")
            else:
                notes += self._show(artifact, done.events)
        if edit["action"] == DELETE_FOR_GOOD:
            notes += self._sweep(artifact)
        elif done.left:  # by somebody who was killed; nobody waits for it
            self._begin_sweep(artifact, [])
        return notes

    def _show(self, artifact: str, events: list[Event]) -> list[str]:
        """What is to be said where it is made and cannot be shown."""
        observed = (event for event in events if isinstance(event, Observed))
        gone = (event.path for event in events if isinstance(event, Gone))
        try:
            self._amended(self._catalog.amend(artifact, observed, gone))
        except RunicornFSError as error:  # such as a disk of this machine that is full
            log.warning("a change of %s is made, and cannot be shown before the next sync: %s", artifact, error)
            self._resync()
            return [f"it is made, and shown after a sync that succeeds: {error}"]
        return []

    def _sweep(self, artifact: str) -> list[str]:
        """Files that are not removed when nobody waits any longer are removed behind the answer."""
        left: list[str] = []
        thread = self._begin_sweep(artifact, left)
        thread.join(SWEEP_S)
        return ["its files are still being removed"] if thread.is_alive() else left

    def _begin_sweep(self, artifact: str, left: list[str]) -> threading.Thread:
        thread = threading.Thread(target=self._remove_files, args=(artifact, left), name="sweep", daemon=True)
        thread.start()
        return thread

    def _remove_files(self, artifact: str, left: list[str]) -> None:
        try:
            self._editor.sweep(artifact)
        except RunicornFSError as error:
            log.info("files of a deleted version of %s are left: %s", artifact, error)
            left.append(f"some of its files are left ({error}): the next change of {artifact} removes them")

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=TURN_S):
            raise Conflict("another change is being made all the time: try again in a moment")
        try:
            yield
        finally:
            self._turn.release()

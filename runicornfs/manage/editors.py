"""Who carries edits out where the store is: on this machine, by a program on the server, or over SFTP.

Afterwards each looks at the artifact as a scan would, so that what was changed can be shown at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from runicornfs.errors import (
    AccessDenied,
    Conflict,
    InvalidInput,
    MalformedRecord,
    NoSpace,
    NotFound,
    ProtocolError,
    RunicornFSError,
    ServerError,
)
from runicornfs.manage import edit_program
from runicornfs.manage.sftp_edits import edit_by_sftp, sweep_by_sftp
from runicornfs.remote import helper, helper_program, walk
from runicornfs.remote.events import Event, Known, typed
from runicornfs.remote.server import Server
from runicornfs.remote.sftp_scan import scan_by_sftp
from runicornfs.store import edits
from runicornfs.store.observed import Observed
from runicornfs.store.paths import printable

log = logging.getLogger("runicornfs.manage")

Edit = dict[str, Any]  # see `runicornfs.store.edits`

# More new records than this, in bytes, are not held in memory for an edit's sake: the next sync brings them.
MOST_BYTES = 256 << 20
# Seconds of an edit with the look at what it has changed. It takes some round trips, and may wait for a lock for 25.
WITHIN_S = 120.0
EVENT_BYTES = 512  # about what one takes without its content
# Characters of what a server says that are shown.
LONGEST_MESSAGE = 500
REFUSALS: dict[str, type[RunicornFSError]] = {
    kind.code: kind for kind in (AccessDenied, Conflict, InvalidInput, MalformedRecord, NoSpace, NotFound)
}


@dataclass(frozen=True, slots=True)
class Done:
    """An edit was made. `notes` say what should be known of how; `events` what has changed in the artifact's folder
    since it was known, None where that could not be found out. `left`: there is something to sweep."""

    notes: list[str]
    events: list[Event] | None
    left: bool = False


class Editor(Protocol):
    """Both raise our errors. An artifact is named by the path of its folder in the store."""

    def edit(self, artifact: str, edit: Edit, known: Known) -> Done: ...

    def sweep(self, artifact: str) -> None:
        """Removes the files of what was deleted for good."""
        ...


class LocalEditor:
    """Edits a store on this machine, in our own process."""

    def __init__(self, root: str) -> None:
        self._root = os.fsencode(root)

    def edit(self, artifact: str, edit: Edit, known: Known) -> Done:
        folder = os.fsencode(artifact)
        with _refusals():
            notes = edit_program.edit(self._root, folder, edit)
        left = edit_program.is_left(self._root, folder)
        return Done(notes, _gathered(typed(edit_program.look(self._root, folder, dict(known)))), left)

    def sweep(self, artifact: str) -> None:
        with _refusals():
            for _ in edit_program.sweep(self._root, os.fsencode(artifact)):
                pass


class ServerEditor:
    """Edits a store on a server: by the program where the account can run it, else over SFTP.

    The way that was found to work, here or by a sync, is kept for the connection.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def edit(self, artifact: str, edit: Edit, known: Known) -> Done:
        packed = helper.pack(known)
        done = self._by_program(artifact, edit, packed)
        if done is not None:
            return done
        root = self._server.address.root
        with self._server.session() as session, session.within(WITHIN_S):
            with _refusals(), helper.uncertain():
                notes, left = edit_by_sftp(session, root, artifact, edit)
            unpacked = helper_program.unpack_known(packed)
            return Done(notes, _gathered(scan_by_sftp(session, root, unpacked, os.fsencode(artifact))), left)

    def sweep(self, artifact: str) -> None:
        if self._by_program(artifact, {"action": edit_program.SWEEP}, helper.pack(())) is None:
            with self._server.session() as session, session.within(helper.QUIET_S), _refusals():
                sweep_by_sftp(session, self._server.address.root, artifact)

    def _by_program(self, artifact: str, edit: Edit, packed: bytes) -> Done | None:
        """None where no program runs on the server: then nothing has happened there."""
        if self._server.runs_helper is False:
            return None
        text = helper.program(walk, helper_program, edits, edit_program)
        root = self._server.address.root
        # In hexadecimal: every byte of a path arrives as it is, whatever the locale there.
        request = {"root": os.fsencode(root).hex(), "artifact": os.fsencode(artifact).hex(), "edit": edit}
        try:
            changes = edit["action"] != edit_program.SWEEP
            within_s = WITHIN_S if changes else helper.QUIET_S
            with helper.answering(self._server, text, request, packed, within_s, changes=changes) as frames:
                notes, left = _notes(frames, patient=not changes)
                done = Done(notes, _gathered(helper.events(frames)), left)
        except helper.HelperUnavailable as why:
            log.info("no program runs for this account on %s (%s): editing over SFTP", self._server.address.host, why)
            self._server.runs_helper = False
            return None
        self._server.runs_helper = True
        return done


def _notes(frames: helper.Frames, patient: bool) -> tuple[list[str], bool]:
    """What the program says of the edit, waited for, and whether there is something to sweep; `patient`: also while it
    only says that it is at work."""
    left = False
    while True:
        kind, header, _ = frames.next()
        if kind == edit_program.DONE:
            return [_shown(note) for note in header], left
        if kind == edit_program.LEFT and not left:
            left = True
            continue
        if kind == edit_program.REFUSED and len(header) == 2:
            _refuse(str(header[0]), str(header[1]))
        if not (patient and kind == walk.ALIVE):
            raise ProtocolError(f"the program on the server sent a frame of kind {kind}, which makes no sense here")


def _gathered(events: Iterable[Event]) -> list[Event] | None:
    """All of them, None where that fails: the edit was made all the same."""
    found = []
    size = 0
    try:
        for event in events:
            found.append(event)
            size += EVENT_BYTES
            if isinstance(event, Observed) and event.content is not None:
                size += len(event.content)
            if size > MOST_BYTES:
                return None
    except (RunicornFSError, OSError) as error:
        log.info("an edit was made, but what it has changed could not be read: %s", error)
        return None
    return found


@contextmanager
def _refusals() -> Iterator[None]:
    """Makes our errors of what the edits refuse."""
    try:
        yield
    except edits.EditRefused as refused:
        _refuse(refused.code, refused.message)


def _refuse(code: str, message: str) -> NoReturn:
    raise REFUSALS.get(code, ServerError)(_shown(message)) from None


def _shown(text: object) -> str:
    return printable(str(text)[:LONGEST_MESSAGE])

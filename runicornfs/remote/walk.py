"""The rules of the walk over a store: which folders are walked, what travels, what is gone. No IO.

`Walk` asks, and whoever drives it answers: the helper program from the server's disk (or local mode from ours),
`runicornfs.remote.sftp_scan` over SFTP. It travels to the server with the helper program, so it knows the standard
library and nothing else, and runs on Python 3.8.

What it promises: it follows no symbolic link below the root; it descends neither into the contents of artifacts
(`v<N>/files`, `.dedup`) nor into folders that hold no runs; a file that cannot be read costs itself and a warning, and
is never taken for gone.
"""

from __future__ import annotations

import errno
import os
import re

TYPE_CHECKING = False  # typing.TYPE_CHECKING without loading typing on the server
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import Any, Protocol

    Event = tuple[Any, ...]

    class Entry(Protocol):
        """A name in a folder. `status` raises OSError where it cannot be had."""

        name: bytes
        is_folder: bool
        is_link: bool

        def status(self) -> Status: ...


# What a folder is says what its entries are. VERSIONS is an artifact's folder again, once its index has been read;
# INDEX is that index: a file.
ROOT, ARTIFACTS, TYPE, ARTIFACT, INDEX, VERSIONS, VERSION, PROJECT, EXPERIMENT, RUNS, RUN, TREE, DOCUMENTS = range(13)
# Folders that are told of, since one may be empty and is there all the same.
SHOWN = frozenset((ARTIFACTS, RUN, TREE))
# Where one name alone counts, that is asked for and the folder is not listed: it may be anything's.
ONLY = {EXPERIMENT: b"runs"}
INDEX_NAME = b"versions.json"
# What our edits put beside an artifact's versions while they are made (`runicornfs.store.edits.OURS`).
OURS = b".runicornfs-"
# The small JSON whose content travels. What is not named here is listed by name and size only.
VERSION_DOCUMENTS = frozenset((b"metadata.json", b"manifest.json", b".deleted"))
RUN_DOCUMENTS = frozenset(
    (
        b"meta.json",
        b"status.json",
        b"summary.json",
        b"artifacts_created.json",
        b"artifacts_used.json",
        b"environment.json",
        b".deleted",
    )
)
# A document beyond this is no small JSON any more: it is refused and named (a manifest of 100,000 files has 20 MB).
DOCUMENT_LIMIT = 256 * 1024 * 1024
# What is no manifest: an index of 100,000 versions has 25 MB.
RECORD_LIMIT = 64 * 1024 * 1024
# Names in one folder: more than a run has pictures. A folder that has more is not listed, and named.
NAMES_LIMIT = 1_000_000
# Names in a whole store, where a walk ends: a hostile server could go on for ever. What it has not seen by then is as
# it was; each name of a folder that waits to be walked takes some 200 bytes.
STORE_LIMIT = 10_000_000
# A document that changes while it is read is read again so often.
READ_TRIES = 5
# So many warnings tell the story; a store with more broken files should not cost memory for each.
WARNINGS_LIMIT = 1000
# Kinds of events: `(kind, path, …)`. A DOCUMENT has token, size, time and content, a FILE and an UNREADABLE document
# all but the content, a DIRECTORY its token, a WARNING its text. A PLAN has no path but the number of documents and of
# their bytes, an ALIVE nothing.
DOCUMENT, FILE, DIRECTORY, GONE, WARNING, PLAN, UNREADABLE, ALIVE = range(1, 9)
DIRECTORY_TOKEN = b"d"
VERSION_FOLDER = re.compile(rb"v[1-9][0-9]{0,8}")
MISSING = (errno.ENOENT, errno.ENOTDIR)
DENIED = (errno.EACCES, errno.EPERM)


class StoreMissing(Exception):
    """There is no store to walk; the first argument says why, in a sentence."""


class Status:
    """What there is to know of a file. `token` changes when the file does. `size` in bytes, `mtime_ns` since 1970."""

    __slots__ = ("is_file", "mtime_ns", "size", "token")

    def __init__(self, is_file: bool, size: int, mtime_ns: int, token: bytes) -> None:
        self.is_file = is_file
        self.size = size
        self.mtime_ns = mtime_ns
        self.token = token


class Step:
    """Something the walk wants to know: what is in a folder or, with its status, in a document."""

    __slots__ = ("path", "place", "status")

    def __init__(self, path: bytes, place: int, status: Status | None = None) -> None:
        self.path = path
        self.place = place
        self.status = status


def folder_in(place: int, name: bytes) -> int | None:
    """What the folder `name` in a folder of this place is; None: it is not walked."""
    if place == ROOT:
        if name in (b"artifacts", b"runs", b"sweeps"):
            return {b"artifacts": ARTIFACTS, b"runs": RUNS, b"sweeps": TREE}[name]
        return None if name.startswith(b".") else PROJECT
    if place == ARTIFACTS:
        return None if name.startswith(b".") else TYPE  # .dedup: the server's pool
    if place == VERSIONS:
        return VERSION if VERSION_FOLDER.fullmatch(name) else None
    return {TYPE: ARTIFACT, PROJECT: EXPERIMENT, EXPERIMENT: RUNS, RUNS: RUN, RUN: TREE, TREE: TREE}.get(place)


def file_in(place: int, name: bytes) -> int | None:
    """Whether the content of the file `name` travels (DOCUMENT), its size and time alone (FILE), or nothing of it."""
    if place == VERSION:
        return DOCUMENT if name in VERSION_DOCUMENTS else None
    if place == RUN:
        return DOCUMENT if name in RUN_DOCUMENTS else FILE
    if place == VERSIONS:
        return None if name == INDEX_NAME or name.startswith(OURS) else FILE
    return FILE if place == TREE else None


def check_document(path: bytes, status: Status) -> None:
    """Raises OSError for what is not read as a document."""
    if not status.is_file:
        raise OSError(errno.EINVAL, "not a regular file")
    if status.size > (DOCUMENT_LIMIT if path.endswith(b"/manifest.json") else RECORD_LIMIT):
        raise OSError(errno.EFBIG, f"{status.size} bytes are too many for a document")


class Walk:
    """The rules of one walk; `known` maps the paths of the last one to their tokens and is consumed. With `artifact`,
    the path of its folder, that is all that is walked.

    Whoever drives it takes the `steps` one by one, in any order, and tells each one's outcome, which makes events
    and more steps. When there are none any more come the `plan`, the `postponed` steps, and what is `gone`.
    """

    def __init__(self, root: bytes, known: dict[bytes, bytes], artifact: bytes | None = None) -> None:
        self.where = os.fsdecode(root)  # for messages
        # The last one is the next in order.
        self.steps = [Step(b"", ROOT) if artifact is None else Step(artifact, ARTIFACT)]
        self.postponed: list[Step] = []  # documents to send once their number is known
        self.unseen = known  # what is left in it at the end is gone
        self.unreadable: list[bytes] = []  # folders that could not be listed: nothing below them counts as gone
        self.warnings = 0
        self.names = 0  # that were met

    def listed(self, step: Step, entries: Iterable[Entry]) -> Iterator[Event]:
        """A folder has these entries."""
        ordered = sorted(entries, key=lambda entry: entry.name)
        self.names += len(ordered)
        if self.names > STORE_LIMIT:
            yield from self._give_up(step)
            return
        place = step.place
        self._check_mounted(place, ordered)
        if place == ARTIFACT:
            index = next((entry for entry in ordered if entry.name == INDEX_NAME), None)
            changed = None if index is None else (yield from self._changed(self._below(step, INDEX_NAME), index))
            if changed is not None:
                # The index is read before the versions are listed: an SDK that saves meanwhile makes the folder first,
                # so that every version the index names is seen.
                self.steps.append(Step(self._below(step, INDEX_NAME), INDEX, changed))
                return
            place = VERSIONS
        inner = []
        for entry in ordered:
            path = self._below(step, entry.name)
            folder, file = folder_in(place, entry.name), file_in(place, entry.name)
            if entry.is_folder:
                if folder is not None:
                    inner.append(Step(path, folder))
                    if folder in SHOWN and self.unseen.pop(path, None) != DIRECTORY_TOKEN:
                        yield (DIRECTORY, path, DIRECTORY_TOKEN)
            elif entry.is_link:
                if folder is not None or file is not None:
                    yield from self._warn(path, "is a symbolic link and is not followed")
            elif file is not None:
                changed = yield from self._changed(path, entry)
                if changed is not None and file == DOCUMENT:
                    self.postponed.append(Step(path, DOCUMENTS, changed))
                elif changed is not None:
                    self.unseen.pop(path, None)
                    yield (FILE, path, changed.token, changed.size, changed.mtime_ns)
        self.steps += reversed(inner)

    def not_listed(self, step: Step, error: OSError) -> Iterator[Event]:
        """A folder could not be listed. Raises StoreMissing for the root, and for artifacts that were there before."""
        if step.place == ROOT:
            if error.errno in MISSING:
                raise StoreMissing(f"there is no folder {self.where} on the server")
            raise StoreMissing(f"the folder {self.where} cannot be read: {error.strerror}")
        if error.errno in MISSING:
            self._check_mounted(step.place, [])
        else:
            self.unreadable.append(step.path + b"/")
            self.unseen.pop(step.path, None)
            yield from self._warn(step.path, f"cannot be listed: {error.strerror}")

    def read(self, step: Step, content: bytes, status: Status) -> Iterator[Event]:
        """A document has this content, and this was its status meanwhile."""
        self.unseen.pop(step.path, None)
        yield (DOCUMENT, step.path, status.token, len(content), status.mtime_ns, content)
        self._index_done(step)

    def not_read(self, step: Step, error: OSError) -> Iterator[Event]:
        """A document could not be read."""
        if step.place == INDEX and step.status is not None and error.errno in DENIED:
            # Another account's, as the SDK writes it (0600). What an earlier scan read in it is not true any more, and
            # who keeps the catalog makes do with the versions. The token says that it is to be tried again.
            token = step.status.token + b"!"
            if self.unseen.pop(step.path, None) != token:
                yield (UNREADABLE, step.path, token, step.status.size, step.status.mtime_ns)
        elif error.errno != errno.ENOENT:
            self.unseen.pop(step.path, None)
            yield from self._warn(step.path, f"cannot be read: {error.strerror}")
        self._index_done(step)

    def plan(self) -> Event:
        """How many documents, of how many bytes together, are postponed."""
        return (PLAN, len(self.postponed), sum(step.status.size for step in self.postponed if step.status))

    def gone(self) -> Iterator[Event]:
        """What was known and was not met."""
        unreadable = tuple(self.unreadable)
        for path in sorted(path for path in self.unseen if not path.startswith(unreadable)):
            yield (GONE, path)

    def _give_up(self, step: Step) -> Iterator[Event]:
        """The store is larger than any: what was not walked yet is not gone for that."""
        self.steps.clear()
        self.unreadable = [b""]
        yield from self._warn(step.path, f"with it the store has more than {STORE_LIMIT} names: the rest is left out")

    def _changed(self, path: bytes, entry: Entry) -> Generator[Event, None, Status | None]:
        """Returns the status of a regular file that is not as it was known; what cannot be asked keeps its state."""
        try:
            status = entry.status()
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.unseen.pop(path, None)
                yield from self._warn(path, f"cannot be examined: {error.strerror}")
            return None
        if not status.is_file:
            yield from self._warn(path, "is not a regular file and is left out")
            return None
        if self.unseen.get(path) == status.token:
            del self.unseen[path]
            return None
        return status

    def _check_mounted(self, place: int, entries: list[Entry]) -> None:
        """Raises StoreMissing where the root, or the folder of artifacts, looks as it does when the file system that
        belongs there is not mounted at the moment: that deleted nothing."""
        folders = {entry.name for entry in entries if entry.is_folder and folder_in(place, entry.name) is not None}
        if place == ROOT and b"artifacts" not in folders and self._knows_artifacts():
            self._not_mounted(self.where, "has no artifacts folder any more")
        if place == ROOT and self.unseen and folders <= {b"lost+found"}:
            self._not_mounted(self.where, "is empty now")
        if place == ARTIFACTS and not folders and self._knows_artifacts():
            self._not_mounted(self.where.rstrip("/") + "/artifacts", "is empty now")

    def _knows_artifacts(self) -> bool:
        return any(path.startswith(b"artifacts/") for path in self.unseen)

    def _not_mounted(self, where: str, state: str) -> None:
        raise StoreMissing(
            f"the folder {where} {state}: is a file system not mounted there? Nothing was taken as deleted"
        )

    def _index_done(self, step: Step) -> None:
        if step.place == INDEX:
            self.steps.append(Step(step.path[: -len(INDEX_NAME) - 1], VERSIONS))

    def _below(self, step: Step, name: bytes) -> bytes:
        return step.path + b"/" + name if step.path else name

    def _warn(self, path: bytes, message: str) -> Iterator[Event]:
        self.warnings += 1
        if self.warnings <= WARNINGS_LIMIT:
            yield (WARNING, path, message)

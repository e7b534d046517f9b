"""The program that runs on the server: walks the store and tells what changed.

It travels to the server over the standard input of a constant command (see `runicornfs.remote.helper`) and leaves
nothing there; local mode calls `scan` in our own process. So it knows the standard library and nothing else, and runs
on Python 3.8.

What it promises: it only reads; it follows no symbolic link below the root; it descends neither into the contents of
artifacts (`v<N>/files`, `.dedup`) nor into folders that hold no runs; a file that cannot be read costs itself and a
warning, and is never reported as gone; a document's token belongs to exactly the bytes that are sent with it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import struct
import sys
import time
import zlib

TYPE_CHECKING = False  # typing.TYPE_CHECKING without loading typing on the server
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Generator, Iterator, List

    Event = tuple[Any, ...]
    Entries = List[os.DirEntry[bytes]]
    Folders = List[bytes]

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
# So many warnings tell the story; a store with more broken files should not cost memory for each.
WARNINGS_LIMIT = 1000
# Kinds of frames on the wire; `runicornfs.remote.helper` reads them.
DOCUMENT, FILE, DIRECTORY, GONE, WARNING, PLAN, END, FAILED, ALIVE = range(1, 10)
FRAME = struct.Struct(">BII")  # kind, length of the header (a JSON list), length of the body
ENTRY = struct.Struct(">HB")  # in the list of what is known: length of the path, length of the token
DIRECTORY_TOKEN = b"d"
# A long walk over a slow disk in which nothing changed has nothing to tell: this often it says that it is at work.
ALIVE_EVERY_S = 2.0
VERSION_FOLDER = re.compile(rb"v[1-9][0-9]{0,8}")


class StoreMissing(Exception):
    """There is no store to walk; the first argument says why, in a sentence."""


def token_of(status: os.stat_result) -> bytes:
    """Changes when the file does: an alias can move without the size changing, a file be replaced within one tick."""
    facts = struct.pack(
        ">QqqQ",
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino & 0xFFFFFFFFFFFFFFFF,
    )
    return hashlib.blake2b(facts, digest_size=8).digest()


class Scan:
    """One walk over the store at `root`; `known` maps the paths of the last walk to their tokens."""

    def __init__(self, root: bytes, known: dict[bytes, bytes]) -> None:
        self.root = root
        self.unseen = known  # what is left in it at the end is gone
        self.unreadable: list[bytes] = []  # folders that could not be listed: nothing below them counts as gone
        self.postponed: list[tuple[bytes, int]] = []  # documents to send once their number is known
        self.warnings = 0
        self.told = time.monotonic()

    def events(self) -> Iterator[Event]:
        """Yields `(kind, …)`, lists and indexes first, then a PLAN with the totals, then all other documents."""
        try:
            top = sorted(os.listdir(self.root))
        except OSError as error:
            where = os.fsdecode(self.root)
            if error.errno == errno.ENOENT:
                raise StoreMissing(f"there is no folder {where} on the server") from None
            raise StoreMissing(f"the folder {where} cannot be read: {error.strerror}") from None
        if b"artifacts" not in top and any(path.startswith(b"artifacts/") for path in self.unseen):
            # A file system that is not mounted there at the moment looks like this; it deleted nothing.
            raise StoreMissing(f"the folder {os.fsdecode(self.root)} has no artifacts folder any more")
        for name in top:
            if name == b"artifacts":
                yield from self.artifacts()
            elif name == b"runs":
                yield from self.runs(name)
            elif name == b"sweeps":
                if self.is_folder(name):
                    yield from self.folder(name, frozenset())
            elif not name.startswith(b"."):
                yield from self.project(name)
        yield (PLAN, len(self.postponed), sum(size for _, size in self.postponed))
        for path, _ in self.postponed:
            yield from self.document(path)
        gone = (path for path in self.unseen if not path.startswith(tuple(self.unreadable)))
        for path in sorted(gone):
            yield (GONE, path)

    def artifacts(self) -> Iterator[Event]:
        if self.is_folder(b"artifacts") and self.unseen.pop(b"artifacts", None) != DIRECTORY_TOKEN:
            yield (DIRECTORY, b"artifacts", DIRECTORY_TOKEN)
        for kind in (yield from self.folders(b"artifacts")):
            if kind.startswith(b"artifacts/."):
                continue  # .dedup: the server's pool
            for artifact in (yield from self.folders(kind)):
                yield from self.artifact(artifact)

    def artifact(self, artifact: bytes) -> Iterator[Event]:
        entries = yield from self.entries(artifact)
        names = {entry.name for entry in entries}
        if b"versions.json" in names:
            # The index is read before the versions are listed: an SDK that saves meanwhile makes the folder first,
            # so that every version the index names is seen.
            yield from self.document(artifact + b"/versions.json")
            entries = yield from self.entries(artifact)
        for entry in entries:
            path = artifact + b"/" + entry.name
            if entry.is_dir(follow_symlinks=False):
                if VERSION_FOLDER.fullmatch(entry.name):
                    yield from self.version(path)
            elif entry.name != b"versions.json":
                yield from self.file(path, entry)

    def version(self, version: bytes) -> Iterator[Event]:
        for entry in (yield from self.entries(version)):
            if not entry.is_dir(follow_symlinks=False) and entry.name in VERSION_DOCUMENTS:
                yield from self.postpone(version + b"/" + entry.name, entry)

    def project(self, project: bytes) -> Iterator[Event]:
        if not self.is_folder(project):
            return
        for experiment in (yield from self.folders(project)):
            if self.is_folder(experiment + b"/runs"):
                yield from self.runs(experiment + b"/runs")

    def runs(self, runs: bytes) -> Iterator[Event]:
        if self.is_folder(runs):
            for run in (yield from self.folders(runs)):
                yield from self.folder(run, RUN_DOCUMENTS)

    def folder(self, folder: bytes, documents: frozenset[bytes]) -> Iterator[Event]:
        """Everything below `folder`; of the files named in `documents`, directly in it, the content too."""
        pending = [folder]
        while pending:
            here = pending.pop()
            if self.unseen.pop(here, None) != DIRECTORY_TOKEN:
                yield (DIRECTORY, here, DIRECTORY_TOKEN)
            for entry in (yield from self.entries(here)):
                path = here + b"/" + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif here == folder and entry.name in documents:
                    yield from self.postpone(path, entry)
                else:
                    yield from self.file(path, entry)

    def entries(self, folder: bytes) -> Generator[Event, None, Entries]:
        """Returns the entries of a folder, sorted; one that cannot be listed has none and is remembered."""
        if time.monotonic() - self.told > ALIVE_EVERY_S:
            self.told = time.monotonic()
            yield (ALIVE,)
        try:
            with os.scandir(self.local(folder)) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self.unreadable.append(folder + b"/")
                self.unseen.pop(folder, None)
                yield from self.warn(folder, f"cannot be listed: {error.strerror}")
            return []

    def folders(self, folder: bytes) -> Generator[Event, None, Folders]:
        """Returns the paths of the real folders in `folder`; a link to a folder is named and not followed."""
        found = []
        for entry in (yield from self.entries(folder)):
            path = folder + b"/" + entry.name
            if entry.is_symlink():
                yield from self.warn(path, "is a symbolic link and is not followed")
            elif entry.is_dir(follow_symlinks=False):
                found.append(path)
        return found

    def is_folder(self, path: bytes) -> bool:
        try:
            return stat.S_ISDIR(os.lstat(self.local(path)).st_mode)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self.unreadable.append(path + b"/")
            return False

    def postpone(self, path: bytes, entry: os.DirEntry[bytes]) -> Iterator[Event]:
        status = yield from self.status(path, entry)
        if status is not None and self.unseen.get(path) != token_of(status):
            self.postponed.append((path, status.st_size))
        elif status is not None:
            del self.unseen[path]

    def file(self, path: bytes, entry: os.DirEntry[bytes]) -> Iterator[Event]:
        status = yield from self.status(path, entry)
        if status is not None:
            token = token_of(status)
            if self.unseen.pop(path, None) != token:
                yield (FILE, path, token, status.st_size, status.st_mtime_ns)

    def status(self, path: bytes, entry: os.DirEntry[bytes]) -> Generator[Event, None, os.stat_result | None]:
        """Returns the status of a regular file, None for anything else; what cannot be asked keeps its old state."""
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.unseen.pop(path, None)
                yield from self.warn(path, f"cannot be examined: {error.strerror}")
            return None
        if not stat.S_ISREG(status.st_mode):
            yield from self.warn(path, "is not a regular file and is left out")
            return None
        return status

    def document(self, path: bytes) -> Iterator[Event]:
        try:
            content, status = self.read(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.unseen.pop(path, None)
                yield from self.warn(path, f"cannot be read: {error.strerror}")
            return
        token = token_of(status)
        if self.unseen.pop(path, None) != token:
            yield (DOCUMENT, path, token, len(content), status.st_mtime_ns, content)

    def read(self, path: bytes) -> tuple[bytes, os.stat_result]:
        """The content of a file and the status that belongs to it: read again if it changed meanwhile."""
        for _ in range(5):
            descriptor = os.open(self.local(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                if before.st_size > DOCUMENT_LIMIT:
                    raise OSError(errno.EFBIG, f"{before.st_size} bytes are too many for a document")
                content = file.read(DOCUMENT_LIMIT + 1)
                after = os.fstat(descriptor)
            if token_of(before) == token_of(after) and len(content) == after.st_size:
                return content, after
        raise OSError(errno.EBUSY, "it changes all the time")

    def warn(self, path: bytes, message: str) -> Iterator[Event]:
        self.warnings += 1
        if self.warnings <= WARNINGS_LIMIT:
            yield (WARNING, path, message)

    def local(self, path: bytes) -> bytes:
        return os.path.join(self.root, path)


def scan(root: bytes, known: dict[bytes, bytes]) -> Iterator[Event]:
    """Walks the store at `root`; consumes `known`. Raises StoreMissing where there is nothing to walk."""
    return Scan(root, known).events()


class FrameWriter:
    """Writes frames as one compressed stream."""

    # The receiver should see progress while it works, and a compressor works best on more than a line.
    FLUSH_EVERY = 256 * 1024

    def __init__(self, output: BinaryIO) -> None:
        self.output = output
        self.compressor = zlib.compressobj(3)
        self.pending = 0

    def write(self, kind: int, header: list[str | int], body: bytes = b"") -> None:
        text = json.dumps(header).encode("ascii")
        for part in (FRAME.pack(kind, len(text), len(body)), text, body):
            self.output.write(self.compressor.compress(part))
            self.pending += len(part)
        if self.pending >= self.FLUSH_EVERY or kind == ALIVE:
            self.output.write(self.compressor.flush(zlib.Z_SYNC_FLUSH))
            self.output.flush()
            self.pending = 0

    def close(self) -> None:
        self.output.write(self.compressor.flush())
        self.output.flush()


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        sys.exit("the request ended early")
    return data


def read_known(stream: BinaryIO, size: int) -> dict[bytes, bytes]:
    """The compressed list of what the client knows: path and token, again and again."""
    known = {}
    data = zlib.decompress(read_exactly(stream, size))
    at = 0
    while at < len(data):
        path_length, token_length = ENTRY.unpack_from(data, at)
        at += ENTRY.size
        known[data[at : at + path_length]] = data[at + path_length : at + path_length + token_length]
        at += path_length + token_length
    return known


def header_of(event: Event) -> list[str | int]:
    """The fields of an event as JSON takes them: paths as text with escapes, tokens in hexadecimal."""
    kind = event[0]
    if kind == ALIVE:
        return []
    if kind == PLAN:
        return [event[1], event[2]]
    if kind == WARNING:
        return [os.fsdecode(event[1]), event[2]]
    if kind == GONE:
        return [os.fsdecode(event[1])]
    return [os.fsdecode(event[1]), event[2].hex()] + list(event[3:5])


def main() -> None:
    """Reads one request from standard input, writes the marker and then the frames to standard output."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    request = json.loads(stdin.readline().decode("ascii"))
    known = read_known(stdin, request["known_bytes"])
    stdout.write(request["marker"].encode("ascii"))
    frames = FrameWriter(stdout)
    try:
        for event in scan(os.fsencode(request["root"]), known):
            frames.write(event[0], header_of(event), event[5] if event[0] == DOCUMENT else b"")
        frames.write(END, [])
    except StoreMissing as error:
        frames.write(FAILED, [str(error)])
    frames.close()


if __name__ == "__main__":
    main()

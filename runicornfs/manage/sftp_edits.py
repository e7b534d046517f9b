"""Edits a store over SFTP, for accounts that may run no program on the server, or whose server has no Python.

The edits are the same, and so is how files are replaced: a complete one, on the disk where the server can say so, takes
the old one's place at once. But SFTP cannot take the SDK's lock. Instead the file is read again just before it is
replaced, and if it is not what the edit is based on, the edit begins anew. What is left is the time between that last
look and the rename, one round trip, in which a save of the SDK's would be lost: nothing in SFTP can close it. Accounts
that edit over SFTP keep each other out by a file that only one of them can create. One that was left by a client whose
line broke is taken away when it has not changed for longer than an edit takes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import struct
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from runicornfs.errors import MissingOnServer, ServerError
from runicornfs.manage.edit_program import ASIDE, TRIES, VERSION_FOLDER
from runicornfs.remote.packets import READ_FOR_READING, Attributes, Code, Kind, Packet, read_body, string, uint32
from runicornfs.remote.sftp import SftpSession
from runicornfs.remote.walk import RECORD_LIMIT
from runicornfs.store.edits import INDEX, OURS, EditRefused, Plan, State, plan

POSIX_RENAME = b"posix-rename@openssh.com"
FSYNC = b"fsync@openssh.com"
CREATE = 0x02 | 0x08 | 0x20  # SSH_FXF_WRITE, _CREAT and _EXCL
OWNER, MODE = 0x02, 0x04  # SSH_FILEXFER_ATTR_UIDGID and _PERMISSIONS
LOCK = f"{OURS}sftp.lock"
# An edit takes some twelve round trips; a lock that stays longer than this is nobody's.
STALE_S = 20.0
LOCK_WAIT_S = 25.0
LOCK_POLL_S = 0.05
WRITTEN = 32 << 10  # bytes of a WRITE that every server takes
AT_ONCE = 64  # requests in one round trip
# Of one version's folder; a tree that is larger or deeper than any manifest's is no version's, and we stop.
MOST_REMOVED = 10_000_000
DEEPEST = 1_000
_TEMPORARY = re.compile((re.escape(OURS) + "[0-9a-f]{16}[.]tmp").encode())
_ASIDE = re.compile(ASIDE.pattern.encode())
_VERSION_FOLDER = re.compile(VERSION_FOLDER.pattern.encode())


class _Changed(Exception):
    """Somebody has changed the file that the edit is based on."""


class _Seen(NamedTuple):
    """A file as it was read; None: there was none that this account can read."""

    content: bytes
    attributes: Attributes


def edit_by_sftp(session: SftpSession, root: str, artifact: str, edit: dict[str, Any]) -> tuple[list[str], bool]:
    """Makes one edit; returns what is to be said about it, and whether there is something to sweep. Raises EditRefused
    and ServerError."""
    folder = _Folder(session, root, artifact)
    with folder.locked():
        for _ in range(TRIES):
            with contextlib.suppress(_Changed):
                wanted = plan(edit, artifact.rpartition("/")[2], folder.state(edit["version"]), time.time())
                return folder.carry_out(wanted, edit["version"]), folder.left
    raise EditRefused("conflict", "other programs change it all the time: try again in a moment")


def sweep_by_sftp(session: SftpSession, root: str, artifact: str) -> None:
    """Removes what edits of this artifact have set aside. Raises ServerError."""
    _Folder(session, root, artifact).sweep()


class _Folder:
    """The folder of one artifact on the server."""

    def __init__(self, session: SftpSession, root: str, artifact: str) -> None:
        self._session = session
        self._path = os.fsencode(root.rstrip("/"))
        self._seen: dict[str, _Seen | None] = {}
        self.left = False  # `state` has seen something to sweep
        folders = []
        for component in os.fsencode(artifact).split(b"/"):
            self._path += b"/" + component
            folders.append(self._path)
        answers = session.ask_all(*((Kind.LSTAT, string(folder)) for folder in folders))
        for folder, answer in zip(folders, answers, strict=True):
            attributes = self._there(answer, folder)
            if attributes is None or not attributes.is_directory:
                raise EditRefused("not_found", "its folder is not on the server any more, or is no folder")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps out others that edit over SFTP. Raises EditRefused where it is not our turn in time."""
        began = since = time.monotonic()
        before = None
        while not self._take_lock():
            there = self._lstat(self._place(LOCK))
            now = time.monotonic()
            if there != before:
                before, since = there, now
            if now - since > STALE_S:
                self._session.ask(Kind.REMOVE, string(self._place(LOCK)))
            elif now - began > LOCK_WAIT_S:
                raise EditRefused("conflict", "other clients change it all the time: try again in a moment")
            else:
                time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            if self._session.is_open:
                self._session.ask(Kind.REMOVE, string(self._place(LOCK)))

    def _take_lock(self) -> bool:
        answer = self._session.ask(Kind.OPEN, string(self._place(LOCK)) + uint32(CREATE) + uint32(0))
        if answer.kind == Kind.HANDLE:
            self._close(self._session.handle(answer, self._path))
            return True
        if _is_status(answer, Code.PERMISSION_DENIED):
            raise self._refusal(answer, "its folder")
        return False

    def state(self, version: int) -> State:
        """The artifact as it is. What a client that was killed has left half written is removed: we have the lock."""
        names = self._session.list_folder(self._path)
        self.left = any(attributes.is_directory and _ASIDE.fullmatch(name) for name, attributes in names)
        for name, attributes in names:
            if attributes.is_file and _TEMPORARY.fullmatch(name):
                self._session.ask(Kind.REMOVE, string(self._path + b"/" + name))
        folders = {
            int(match[1]): name
            for name, attributes in names
            if attributes.is_directory and (match := _VERSION_FOLDER.fullmatch(name))
        }
        marks = [(number, self._path + b"/" + name + b"/.deleted") for number, name in folders.items()]
        marked = set()
        for start in range(0, len(marks), AT_ONCE):
            part = marks[start : start + AT_ONCE]
            answers = self._session.ask_all(*((Kind.LSTAT, string(path)) for _, path in part))
            for (number, _), answer in zip(part, answers, strict=True):
                if answer.kind == Kind.ATTRS:
                    marked.add(number)
        metadata = self._read(f"v{version}/metadata.json") if version in folders else None
        return State(self._read(INDEX), metadata, folders, marked)

    def carry_out(self, wanted: Plan, version: int) -> list[str]:
        """Raises _Changed, with nothing done."""
        notes = []
        if wanted.path is not None and wanted.content is not None:
            notes = self._replace(wanted.path, wanted.content)
        elif wanted.path is not None:
            self._done(Kind.REMOVE, string(self._place(wanted.path)), wanted.path)
        if wanted.removes_folder:
            aside = f"{OURS}removed-v{version}-{secrets.token_hex(8)}"
            names = string(self._place(f"v{version}")) + string(self._place(aside))
            self._done(Kind.RENAME, names, f"v{version}")
        return notes

    def sweep(self) -> None:
        for name, attributes in self._session.list_folder(self._path):
            if attributes.is_directory and _ASIDE.fullmatch(name):
                with contextlib.suppress(MissingOnServer):  # another one sweeps, too
                    self._remove_tree(self._path + b"/" + name)

    def _read(self, path: str) -> bytes | None:
        seen = self._seen[path] = self._look(path)
        return None if seen is None else seen.content

    def _look(self, path: str) -> _Seen | None:
        """A file as it is now, None where this account cannot read one."""
        place = self._place(path)
        attributes = self._lstat(place)
        if attributes is None:
            return None
        if not attributes.is_file or attributes.size is None or attributes.size > RECORD_LIMIT:
            raise EditRefused("malformed_record", f"{path} is no file that could be changed")
        # Only now: the server would wait for whoever writes into a pipe, and we with it.
        opened = self._session.ask(Kind.OPEN, string(place) + uint32(READ_FOR_READING) + uint32(0))
        if _is_status(opened, Code.NO_SUCH_FILE, Code.PERMISSION_DENIED):
            return None
        if opened.kind != Kind.HANDLE:
            raise EditRefused("malformed_record", f"{path} is no file that could be changed")
        handle = self._session.handle(opened, place)
        try:
            content = self._content(handle, place, attributes.size + 1)
        finally:
            self._close(handle)
        if len(content) != attributes.size:
            raise _Changed
        return _Seen(content, attributes)

    def _content(self, handle: bytes, place: bytes, most: int) -> bytes:
        """All of a file, or so many bytes of it."""
        content = bytearray()
        while len(content) < most:
            length = min(most - len(content), self._session.read_limit)
            answer = self._session.ask(Kind.READ, read_body(handle, len(content), length))
            data = self._session.data(answer, place)
            if not data:
                break
            if len(data) > length:
                raise self._session.nonsense(f"sent {len(data)} bytes where {length} were asked for")
            content += data
        return bytes(content)

    def _replace(self, path: str, content: bytes) -> list[str]:
        place, before = self._place(path), self._seen.get(path)
        if before is not None and POSIX_RENAME not in self._session.extensions:
            raise EditRefused(
                "server_error",
                "the server cannot replace a file at once over SFTP (it has no posix-rename@openssh.com):"
                " with python3 and a shell there it can be done",
            )
        # Beside the index whatever it is for, where whoever edits next finds it if we are killed.
        temporary = self._path + b"/" + f"{OURS}{secrets.token_hex(8)}.tmp".encode()
        notes = self._write(temporary, content, before, path)
        try:
            if self._look_again(path) != before:
                raise _Changed
            names = string(temporary) + string(place)
            if before is None:
                self._done(Kind.RENAME, names, path)
            else:
                self._done(Kind.EXTENDED, string(POSIX_RENAME) + names, path)
        except BaseException:
            if self._session.is_open:
                self._session.ask(Kind.REMOVE, string(temporary))
            raise
        return notes

    def _look_again(self, path: str) -> _Seen | None:
        try:
            return self._look(path)
        except EditRefused:
            raise _Changed from None

    def _write(self, temporary: bytes, content: bytes, before: _Seen | None, path: str) -> list[str]:
        """Writes a new file to the server's disk, which has nobody else's eyes on it before it has its final mode."""
        attributes = uint32(0) if before is None else uint32(MODE) + uint32(0o600)
        opened = self._session.ask(Kind.OPEN, string(temporary) + uint32(CREATE) + attributes)
        if opened.kind != Kind.HANDLE:
            raise self._refusal(opened, path)
        handle = self._session.handle(opened, temporary)
        try:
            for start in range(0, len(content), WRITTEN):
                piece = struct.pack(">Q", start) + string(content[start : start + WRITTEN])
                self._done(Kind.WRITE, string(handle) + piece, path)
            notes = [] if before is None else self._keep_owner(handle, before.attributes, path)
            if FSYNC in self._session.extensions:
                self._done(Kind.EXTENDED, string(FSYNC) + string(handle), path)
        except BaseException:
            if self._session.is_open:
                self._session.ask(Kind.REMOVE, string(temporary))
            raise
        finally:
            self._close(handle)
        return notes

    def _keep_owner(self, handle: bytes, before: Attributes, path: str) -> list[str]:
        """As `edit_program.keep_owner`: a file that cannot be given to its group is closed to it."""
        mode = 0o600 if before.mode is None else stat.S_IMODE(before.mode)
        mine = self._session.fstat(handle).owner
        notes = []
        if before.owner is not None and before.owner != mine and not self._give(handle, before.owner):
            notes.append(f"{path} belongs to the account that made this change now")
            if mine is not None and mine[1] != before.owner[1] and not self._give(handle, (mine[0], before.owner[1])):
                mode &= ~stat.S_IRWXG
                notes.append(f"{path} could not keep its group and is closed to it now")
        self._done(Kind.FSETSTAT, string(handle) + uint32(MODE) + uint32(mode), path)
        return notes

    def _give(self, handle: bytes, owner: tuple[int, int]) -> bool:
        body = string(handle) + uint32(OWNER) + uint32(owner[0]) + uint32(owner[1])
        return _is_status(self._session.ask(Kind.FSETSTAT, body), Code.OK)

    def _remove_tree(self, top: bytes) -> None:
        """Removes a folder and all in it, without following a link."""
        pending = [(top, False)]
        removed = 0
        while pending:
            path, is_empty = pending.pop()
            if is_empty:
                self._done(Kind.RMDIR, string(path), os.fsdecode(path))
                continue
            entries = self._session.list_folder(path)
            removed += len(entries)
            if removed > MOST_REMOVED or path.count(b"/") - top.count(b"/") > DEEPEST:
                raise ServerError("what is left of a deleted version is larger than any version can be")
            pending.append((path, True))
            pending += [(path + b"/" + name, False) for name, attributes in entries if attributes.is_directory]
            files = [path + b"/" + name for name, attributes in entries if not attributes.is_directory]
            for start in range(0, len(files), AT_ONCE):
                part = files[start : start + AT_ONCE]
                answers = self._session.ask_all(*((Kind.REMOVE, string(file)) for file in part))
                for file, answer in zip(part, answers, strict=True):
                    if not _is_status(answer, Code.OK, Code.NO_SUCH_FILE):
                        raise self._refusal(answer, os.fsdecode(file))

    def _lstat(self, place: bytes) -> Attributes | None:
        return self._there(self._session.ask(Kind.LSTAT, string(place)), place)

    def _there(self, answer: Packet, place: bytes) -> Attributes | None:
        return None if _is_status(answer, Code.NO_SUCH_FILE) else self._session.attributes(answer, place)

    def _done(self, kind: Kind, body: bytes, path: str) -> None:
        """Asks for something that is answered with OK."""
        answer = self._session.ask(kind, body)
        if not _is_status(answer, Code.OK):
            raise self._refusal(answer, path)

    def _refusal(self, answer: Packet, path: str) -> Exception:
        if _is_status(answer, Code.PERMISSION_DENIED):
            return EditRefused("access_denied", f"the store's files do not let this account change it ({path})")
        return self._session.refused(answer, os.fsencode(path))

    def _close(self, handle: bytes) -> None:
        if self._session.is_open:
            self._session.send(self._session.unheeded(Kind.CLOSE, string(handle)))

    def _place(self, path: str) -> bytes:
        return self._path + b"/" + path.encode()


def _is_status(answer: Packet, *codes: Code) -> bool:
    return answer.kind == Kind.STATUS and answer.fields().uint32() in codes

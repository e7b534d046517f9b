"""The folder `metadata/`: the synced JSON as plain files, for people and jq.

Written after the commit and never read back: what the mount and the API serve comes from the catalog. While files are
being written a marker stands in the folder; one that is found at the next sync means that a process died in between,
and everything is written again. No link in it is followed: what it leads to is not ours to change or remove.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from runicornfs.errors import NotFound

log = logging.getLogger("runicornfs.sync")

MARKER = ".being-written"
# The disk itself takes no more: what fails one document would fail all others, too.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
# One that a killed process has left is overwritten when everything is written again.
TEMPORARY = ".part"


class MetadataExport:
    """Owns the folder `metadata/`. Used by one thread at a time."""

    def __init__(self, folder: Path, document: Callable[[int], bytes]) -> None:
        self._folder = folder
        self._document = document

    @property
    def is_complete(self) -> bool:
        """False where an earlier export was cut off or none was made."""
        return self._folder.is_dir() and not self._folder.is_symlink() and not (self._folder / MARKER).exists()

    def remove(self) -> None:
        """All of it: the next sync writes it anew."""
        aside = self._folder.with_name(f"{self._folder.name}.removed")
        try:
            with contextlib.suppress(OSError):
                _discard(aside)
            # Renamed first: a folder of which half is gone would count as complete.
            self._folder.rename(aside)
            _discard(aside)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("cannot remove the export in %s: %s", self._folder, error.strerror)

    def begin(self) -> bool:
        """Called before the commit whose changes will be exported. False where nothing can be written: what there is
        goes then, since it will be out of date, and a later sync writes everything."""
        try:
            if self._folder.is_symlink():
                self._folder.unlink()
            self._make_private(self._folder)
            (self._folder / MARKER).touch(mode=0o600)
        except OSError as error:
            log.warning("the store's records are not exported to %s: %s", self._folder, error.strerror)
            self.remove()
            return False
        return True

    def write(self, changed: Iterable[tuple[str, int | None]]) -> None:
        """Brings the files of the changed documents (path, id; None: gone) up to date, then removes the marker.

        It stays where the disk took no more, and the next sync writes everything.
        """
        if not self.begin():
            return
        for path, document in changed:
            target = self._folder / exported_path(path)
            try:
                if document is None:
                    self._remove(target)
                else:
                    self._replace(target, self._document(document))
            except NotFound:
                pass  # an edit has replaced it since, and is exported after this
            except OSError as error:  # the export is a convenience: it never fails a sync
                if error.errno in _OF_THE_DISK:
                    log.warning("the export to %s was not completed: %s", self._folder, error.strerror)
                    return
                log.warning("cannot export %s: %s", target, error.strerror)
        with contextlib.suppress(OSError):  # what stays for the next sync costs only time
            (self._folder / MARKER).unlink(missing_ok=True)

    def _replace(self, target: Path, content: bytes) -> None:
        self._make_private(target.parent)
        temporary = target.parent / TEMPORARY
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _remove(self, target: Path) -> None:
        if not self._is_within(target.parent):
            return
        target.unlink(missing_ok=True)
        folder = target.parent
        with contextlib.suppress(OSError):  # not empty: other documents live there
            while folder != self._folder:
                folder.rmdir()
                folder = folder.parent

    def _make_private(self, folder: Path) -> None:
        """mkdir's mode counts for the last folder alone, so each is made by itself."""
        if not folder.is_dir():
            self._make_private(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
        elif not self._is_within(folder):
            raise NotADirectoryError(errno.ENOTDIR, "a link stands in the place of a folder")

    def _is_within(self, folder: Path) -> bool:
        """Whether no link leads to this folder from the top one."""
        return not any(path.is_symlink() for path in (folder, *folder.parents) if self._folder in path.parents)


def _discard(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def exported_path(path: str) -> str:
    """`artifacts/…` keeps its place; runs go below `experiments/`, as the user guide draws it."""
    return path if path.startswith("artifacts/") else f"experiments/{path}"

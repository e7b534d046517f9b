"""Downloads and prefetches from the store in use."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runicornfs.catalog.artifacts import ArtifactRef
from runicornfs.content.contents import Freed
from runicornfs.downloads.records import Download, FileHere
from runicornfs.downloads.tasks import DownloadTasks
from runicornfs.errors import Conflict, Refused
from runicornfs.workspace.names import find_version

if TYPE_CHECKING:
    from runicornfs.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Started:
    """A task that was started. `references` are data that lies elsewhere and is not brought."""

    download: Download
    references: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What of the files of a version is in the cache."""

    artifact: str
    files: list[FileHere]


class Downloads:
    """Thread-safe. Tasks belong to the store that they were started on."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def start(
        self, name: str, version: int, type: str | None = None, target_dir: str | None = None, overwrite: bool = False
    ) -> Started:
        """Downloads a version. Raises what `DownloadTasks.download` does, AmbiguousName, and Refused where there is no
        connection to fetch what is missing."""
        ref = self._workspace.artifacts.find(name, type, version)
        self._refuse_without_connection(ref, version)
        download, selection = self._tasks.download(ref, version, target_dir, overwrite)
        return Started(download, selection.references)

    def prefetch(self, version: str, type: str | None = None, paths: Sequence[str] = ()) -> Started:
        """Brings files of a version (`resnet50:v3`) into the cache. Raises what `DownloadTasks.prefetch` does,
        InvalidInput, AmbiguousName, and Refused where there is no connection."""
        ref, number = find_version(self._workspace.artifacts, version, type)
        self._refuse_without_connection(ref, number, paths)
        download, selection = self._tasks.prefetch(ref, number, paths)
        return Started(download, selection.references)

    def check(self, version: str, type: str | None = None, paths: Sequence[str] = ()) -> Checked:
        """What of a version is in the cache. Raises InvalidInput, NotFound, AmbiguousName."""
        ref, number = find_version(self._workspace.artifacts, version, type)
        return Checked(f"{ref.name}:v{number}", self._tasks.check(ref, number, paths))

    def evict(self, version: str, type: str | None = None, paths: Sequence[str] = ()) -> Freed:
        """Drops files of a version from the cache. Raises InvalidInput, NotFound, AmbiguousName."""
        ref, number = find_version(self._workspace.artifacts, version, type)
        return self._tasks.evict(ref, number, paths)

    def list(self) -> list[Download]:
        """Every task, in the order in which they were asked for."""
        return self._tasks.all()

    def get(self, task_id: str) -> Download:
        """Raises NotFound."""
        return self._tasks.get(task_id)

    def cancel(self, task_id: str) -> Download:
        """Raises NotFound where there is no such task or it has ended."""
        return self._tasks.cancel(task_id)

    def open(self, task_id: str) -> tuple[str, bool]:
        """The folder of a task, and whether a file manager shows it now. Raises NotFound; Conflict where the files went
        into the cache alone, or there is no folder any more."""
        folder = self.get(task_id).order.target_dir
        if folder is None:
            raise Conflict(f"the task {task_id} brings files into the cache alone: there is no folder to open")
        if not os.path.isdir(folder):
            raise Conflict(f"there is no folder {folder} any more")
        return folder, _show(folder)

    def clear_finished(self) -> int:
        """Forgets tasks that have ended, with their files in the default folders; returns the bytes that this frees."""
        return self._tasks.clear_finished()

    def on_change(self, callback: Callable[[Download], None]) -> None:
        """`callback(download)` is called when a task of this store has moved or ended; it must return soon."""
        self._tasks.on_change(callback)

    @property
    def _tasks(self) -> DownloadTasks:
        return self._workspace.store.downloads

    def _refuse_without_connection(self, ref: ArtifactRef, version: int, paths: Sequence[str] = ()) -> None:
        """A server that is being sought again is waited for; one that nobody seeks would be waited for in vain."""
        now = self._workspace.store.upkeep.state()
        if now.line != "disconnected":
            return
        missing = [file for file in self._tasks.check(ref, version, paths) if not file.is_here]
        if missing:
            raise Refused(
                f"{len(missing)} files of {ref.name}:v{version} are not on this machine, and there is no connection"
                f" to the server: {now.advice}"
            )


def _show(folder: str) -> bool:
    """Opens a folder in the desktop's file manager; False where there is none."""
    program = shutil.which("xdg-open")
    if program is None or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        opener = subprocess.Popen(
            [program, folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    # Some file managers stay in the foreground; somebody has to take note of their end.
    threading.Thread(target=opener.wait, name="runicornfs-opener", daemon=True).start()
    return True

"""The table of tasks: what was asked for, what of it may be done, and what became of it.

Every task is in the journal, so those that had not ended are carried on by the next process.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ByteSize

from runicornfs.catalog.artifacts import ArtifactRef
from runicornfs.catalog.catalog import Catalog
from runicornfs.content.contents import Contents, Freed
from runicornfs.downloads import copying
from runicornfs.downloads.journal import Journal
from runicornfs.downloads.records import ACTIVE, QUEUED, Counts, Download, FileHere, Order
from runicornfs.downloads.runner import Runner, in_the_way
from runicornfs.downloads.selection import Selection, WantedFile, select
from runicornfs.downloads.target import TargetFolder
from runicornfs.downloads.task import Task
from runicornfs.errors import Conflict, NoSpace, NotFound, RunicornFSError
from runicornfs.store.paths import printable, shown

FOLDER_NAME = "downloads"
# Files that are there already are compared before a request is answered if they have no more bytes than this, which
# takes half a second; otherwise by the task, before it writes anything.
COMPARED_AT_ONCE = 256 << 20
# How long a cancelled task's threads may take before the answer is given all the same.
CANCEL_S = 2.0


class DownloadTasks:
    """The downloads of one store, with their default folders and their journal in `folder`. Thread-safe.

    `_starting` lets those take turns that start tasks or forget them; `_lock`, which comes after it, protects `_tasks`
    and `_changed`.
    """

    def __init__(self, folder: Path, catalog: Catalog, contents: Contents) -> None:
        """Carries on what an earlier process did not finish. Raises sqlite3.Error, OSError."""
        self._folder = folder / FOLDER_NAME
        self._catalog = catalog
        self._contents = contents
        self._starting = threading.Lock()
        self._lock = threading.Lock()
        self._changed: tuple[Callable[[Download], None], ...] = ()
        self._journal = Journal(folder)
        self._runner = Runner(catalog, contents, self._journal, self._tell)
        self._tasks = {d.order.task_id: Task(d, self._runner.closing) for d in self._journal.downloads()}
        for task in self._tasks.values():
            if task.snapshot().status == QUEUED:
                self._runner.submit(task)

    def close(self) -> None:
        """Stops what runs, to be carried on by the next process. A second time does nothing."""
        self._runner.close()
        self._journal.close()

    def on_change(self, callback: Callable[[Download], None]) -> None:
        """`callback(download)` is called when a task has moved or ended, on any thread; it must return soon."""
        with self._lock:
            self._changed = (*self._changed, callback)

    def all(self) -> list[Download]:
        """Every task, in the order in which they were asked for."""
        return [task.snapshot() for task in self._table()]

    def get(self, task_id: str) -> Download:
        """Raises NotFound."""
        return self._task(task_id).snapshot()

    def download(
        self, ref: ArtifactRef, version: int, target_dir: str | None = None, overwrite: bool = False
    ) -> tuple[Download, Selection]:
        """Starts to bring the files of a version into a folder, which is made; without one, into its default folder.

        Raises NotFound; InvalidInput where the folder is no absolute path; Refused where it cannot be made; Conflict
        where the same is under way already, or a file is there with another content and may not be overwritten.
        """
        selection = select(self._catalog, ref, version)
        with self._starting:
            place = target_dir or str(self._default_folder(ref, version))
            order = Order(_new_id(), ref.type, ref.name, version, place, target_dir is not None, overwrite)
            with TargetFolder(place, order.task_id, private=not order.own_target) as target:
                self._refuse_twice(order)
                if not overwrite:
                    _refuse_conflicts(selection.files, target)
            return self._add(order, selection), selection

    def prefetch(self, ref: ArtifactRef, version: int, patterns: Iterable[str] = ()) -> tuple[Download, Selection]:
        """Starts to bring files of a version into the cache. Raises NotFound, also where a pattern matches nothing;
        Conflict where the same is under way already; NoSpace where they do not fit."""
        order = Order(_new_id(), ref.type, ref.name, version, None, patterns=tuple(patterns))
        selection = select(self._catalog, ref, version, order.patterns)
        self._refuse_too_large(selection)
        with self._starting:
            self._refuse_twice(order)
            return self._add(order, selection), selection

    def check(self, ref: ArtifactRef, version: int, patterns: Iterable[str] = ()) -> list[FileHere]:
        """What of the files of a version is in the cache. Raises NotFound."""
        return copying.look(select(self._catalog, ref, version, tuple(patterns)).files, self._contents)

    def evict(self, ref: ArtifactRef, version: int, patterns: Iterable[str] = ()) -> Freed:
        """Drops files of a version from the cache, but for those that are open or pinned. Raises NotFound."""
        files = select(self._catalog, ref, version, tuple(patterns)).files
        return self._contents.evict([file.identity.key for file in files])

    def cancel(self, task_id: str) -> Download:
        """Ends a task, also inside a file. Complete files stay, and so does in the cache what came of the others.

        Raises NotFound where there is no such task or it has ended.
        """
        task = self._task(task_id)
        if not task.cancel():
            raise NotFound(f"the download {task_id} has ended already")
        task.ended.wait(CANCEL_S)
        self._runner.record(task)
        return task.snapshot()

    def clear_finished(self) -> int:
        """Forgets tasks that have ended, and removes from the default folders what they placed there and nobody changed
        since. Returns the bytes that are free then. Raises sqlite3.Error, OSError."""
        freed = 0
        with self._starting:
            downloads = self.all()
            in_use = {download.order.target_dir for download in downloads if download.status in ACTIVE}
            for order in (download.order for download in downloads if download.status not in ACTIVE):
                if order.target_dir is not None and not order.own_target and order.target_dir not in in_use:
                    freed += self._remove_placed(order, order.target_dir)
                self._journal.remove(order.task_id)
                with self._lock:
                    del self._tasks[order.task_id]
        return freed

    # The table

    def _table(self) -> list[Task]:
        with self._lock:
            return [*self._tasks.values()]

    def _task(self, task_id: str) -> Task:
        with self._lock:
            task = self._tasks.get(task_id)
        if task is None:
            raise NotFound(f"there is no download {shown(task_id)}")
        return task

    def _add(self, order: Order, selection: Selection) -> Download:
        if self._runner.closing():
            raise Conflict("nothing is downloaded any more: runicornfs ends")
        counts = Counts(total_files=len(selection.files), total_bytes=selection.total_bytes)
        task = Task(
            Download(order, QUEUED, None, counts, started_at=time.time(), completed_at=None), self._runner.closing
        )
        with self._lock:
            self._tasks[order.task_id] = task
        self._runner.record(task)
        self._runner.submit(task)
        return task.snapshot()

    def _default_folder(self, ref: ArtifactRef, version: int) -> Path:
        """The first type that a name is downloaded of has the folder of the name to itself."""
        for order in (task.order for task in self._table()):
            if order.name == ref.name and order.target_dir is not None and not order.own_target:
                if order.type != ref.type:
                    return self._folder / ref.type / ref.name / f"v{version}"
                break
        return self._folder / ref.name / f"v{version}"

    def _refuse_twice(self, order: Order) -> None:
        for download in self.all():
            other = download.order
            if download.status in ACTIVE and _same_errand(order, other):
                raise Conflict(f"{order.artifact} is on its way there already: task {other.task_id}")

    def _refuse_too_large(self, selection: Selection) -> None:
        """Everything that is prefetched has to be in the cache together in the end, beside what is pinned."""
        limit = self._contents.status().limit_bytes
        if not limit:
            return  # a store of this machine: nothing is kept, so nothing is too large
        for file in selection.files:
            if file.size > limit:
                raise NoSpace(f"{printable(file.path)} has {_readable(file.size)}, the cache takes {_readable(limit)}")
        sizes = {file.identity.key: file.size for file in selection.files}
        need = sum(sizes.values())
        pinned = self._pinned_beside(sizes)
        if need > limit - pinned:
            raise NoSpace(
                f"{_readable(need)} do not fit into the cache, which takes {_readable(limit)}"
                f" and has {_readable(pinned)} of other files pinned: choose fewer files, or a larger --cache-size"
            )

    def _pinned_beside(self, keys: Container[str]) -> int:
        """Bytes of the pinned contents that are not among these."""
        sizes: dict[str, int] = {}
        for pin in self._contents.pins():
            kind, _, rest = pin.label.partition("/")
            name, _, version = rest.rpartition(":v")
            try:
                ref = self._catalog.artifacts.find(name, kind, int(version))
                sizes.update((file.identity.key, file.size) for file in select(self._catalog, ref, int(version)).files)
            except (RunicornFSError, ValueError):  # the store does not show it any more
                sizes[pin.label] = pin.size_bytes
        return sum(size for key, size in sizes.items() if key not in keys)

    def _remove_placed(self, order: Order, folder: str) -> int:
        freed = 0
        if not os.path.isdir(folder):
            return 0
        with TargetFolder(folder, order.task_id) as target:
            for placed in self._journal.placed(order.task_id).values():
                if placed.is_still(target.status(placed.path)):
                    target.remove(placed.path)
                    freed += placed.size
        with suppress(OSError):  # one that is not empty stays, and so do those above it
            path = Path(folder)
            while path != self._folder:
                path.rmdir()
                path = path.parent
        return freed

    def _tell(self, task: Task) -> None:
        with self._lock:
            changed = self._changed
        for callback in changed:
            callback(task.snapshot())


def _new_id() -> str:
    return secrets.token_hex(6)


def _same_errand(one: Order, other: Order) -> bool:
    if (one.type, one.name, one.version, one.patterns) != (other.type, other.name, other.version, other.patterns):
        return False
    if one.target_dir is None or other.target_dir is None:
        return one.target_dir == other.target_dir
    return os.path.realpath(one.target_dir) == os.path.realpath(other.target_dir)


def _refuse_conflicts(files: Sequence[WantedFile], target: TargetFolder) -> None:
    """Raises Conflict where a file is there that is another one, as far as that can be found out at once."""
    left = COMPARED_AT_ONCE
    for file in files:
        status = target.status(file.path)
        if status is None or (status.st_size == file.size and file.size > left):
            continue
        if not copying.is_same(file, target):
            raise in_the_way(file.path, target)
        left -= file.size


def _readable(size: int) -> str:
    return ByteSize(size).human_readable()

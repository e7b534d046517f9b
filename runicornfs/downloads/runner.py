"""Carries tasks out, on threads of its own.

A few tasks run at a time, in the order in which they were given, and all of them together work on a few large files at
a time, so that programs that read the mount find a free line. Of small files they work on many: each waits for round
trips, and those that wait at the same time are fetched together. How a task stands is written down about once a second.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

from runicornfs.catalog.catalog import Catalog
from runicornfs.content.contents import SMALL, Contents
from runicornfs.downloads import copying
from runicornfs.downloads.journal import Journal
from runicornfs.downloads.records import COMPLETED, FAILED, Placed
from runicornfs.downloads.selection import WantedFile, select
from runicornfs.downloads.target import TargetFolder
from runicornfs.downloads.task import POLL_S, Task
from runicornfs.errors import Conflict, Interrupted, NoSpace, RunicornFSError
from runicornfs.store.paths import printable

log = logging.getLogger("runicornfs.downloads")

# Tasks that run at a time.
RUNNING_TASKS = 3
# Large files that are worked on at a time, over all tasks: one fewer than the transfers that a server is asked for at a
# time.
LARGE_FILES = 3
# Small ones. A guest of the cache has 32 reads at a time, of which some are to be left for its programs.
SMALL_FILES = 24
# Bytes that a cache has to have for that: ten times what so many take of it. In a smaller one all files count as large.
ROOMY = 64 << 20
# How often a running task is written down and told about.
RECORDED_EVERY_S = 1.0


class Runner:
    """Thread-safe. `changed(task)` is called when a task has moved or ended, on any thread."""

    def __init__(self, catalog: Catalog, contents: Contents, journal: Journal, changed: Callable[[Task], None]) -> None:
        self._catalog = catalog
        self._contents = contents
        self._journal = journal
        self._changed = changed
        self._closing = threading.Event()
        self._large = threading.Semaphore(LARGE_FILES)
        self._small = threading.Semaphore(SMALL_FILES)
        self._pool = ThreadPoolExecutor(RUNNING_TASKS, "runicornfs-download")

    def submit(self, task: Task) -> None:
        """When its turn comes it is carried out. Raises RuntimeError after `close`."""
        self._pool.submit(self._run, task)

    def closing(self) -> bool:
        """Whether tasks are to stop as they are."""
        return self._closing.is_set()

    def close(self) -> None:
        """Returns when no task runs any more."""
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)

    def record(self, task: Task) -> None:
        """Writes down how a task stands. What cannot be written down is logged: the task goes on."""
        try:
            self._journal.put(task.snapshot(), task.take_placed())
        except sqlite3.Error as error:
            log.warning("how the download of %s stands cannot be written down: %s", task.order.artifact, error)

    def _run(self, task: Task) -> None:
        """One task from its turn to its end; on a thread of the pool."""
        try:
            if task.start():
                self._changed(task)
                self._carry_out(task)
                task.end(COMPLETED)
        except Interrupted:
            pass  # it was cancelled, or the process ends and the next one carries it on
        except (RunicornFSError, OSError) as error:
            task.end(FAILED, f"Download failed: {_sentence(error)}")
        except Exception:
            log.exception("the download of %s failed in a way that is not known", task.order.artifact)
            task.end(FAILED, "Download failed: something unexpected went wrong, and the log of runicornfs says what")
        finally:
            self.record(task)
            task.ended.set()
            self._changed(task)

    def _carry_out(self, task: Task) -> None:
        order = task.order
        ref = self._catalog.artifacts.find(order.name, order.type, order.version)
        selection = select(self._catalog, ref, order.version, order.patterns)
        task.begin(len(selection.files), selection.total_bytes)
        if order.target_dir is None:
            self._work(task, selection.files, lambda file: copying.prefetch(file, self._contents, task))
            return
        with TargetFolder(order.target_dir, order.task_id, private=not order.own_target) as target:
            target.clean()
            missing = self._missing(task, selection.files, target)
            need = sum(file.size for file in missing)
            if need > target.free_bytes:
                raise _no_room(target, need)

            def place(file: WantedFile) -> None:
                copying.place(file, self._contents, task, target)

            try:
                self._work(task, missing, place)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                counts = task.snapshot().counts
                raise _no_room(target, counts.total_bytes - counts.downloaded_bytes) from error

    def _missing(self, task: Task, files: Sequence[WantedFile], target: TargetFolder) -> list[WantedFile]:
        """The files that are not there yet. Raises Conflict where one would have to be overwritten and may not."""
        placed = self._journal.placed(task.order.task_id)
        missing = []
        for file in files:
            task.check()
            status = target.status(file.path)
            known = placed.get(file.path)
            if status is None:
                missing.append(file)
            elif (known and known.is_still(status)) or copying.is_same(file, target, task.check):
                task.found(Placed.of(file.path, status))
            elif task.order.overwrite:
                missing.append(file)
            else:
                raise in_the_way(file.path, target)
        return missing

    def _work(self, task: Task, files: Sequence[WantedFile], bring: Callable[[WantedFile], None]) -> None:
        """Brings all files, several at a time. Raises what the first of them that fails does."""
        up_to = SMALL if self._contents.status().limit_bytes >= ROOMY else -1
        small = [file for file in files if file.size <= up_to]
        large = [file for file in files if file.size > up_to]

        def work(left: Iterator[WantedFile], slots: threading.Semaphore) -> None:
            while True:
                with taking:
                    file = next(left, None)
                if file is None:
                    return
                with self._slot(task, slots):
                    bring(file)

        taking = threading.Lock()
        with ThreadPoolExecutor(LARGE_FILES + SMALL_FILES, "runicornfs-download-file") as threads:
            running = set()
            for part, slots, most in ((large, self._large, LARGE_FILES), (small, self._small, SMALL_FILES)):
                left = iter(part)
                running |= {threads.submit(work, left, slots) for _ in range(min(most, len(part)))}
            while running:
                done, running = wait(running, RECORDED_EVERY_S, FIRST_EXCEPTION)
                failures = [error for future in done if (error := future.exception()) is not None]
                if failures:
                    task.give_up()
                    raise next((error for error in failures if not isinstance(error, Interrupted)), failures[0])
                self.record(task)
                self._changed(task)

    @contextmanager
    def _slot(self, task: Task, slots: threading.Semaphore) -> Iterator[None]:
        """One of the places for files that are worked on."""
        while not slots.acquire(timeout=POLL_S):
            task.check()
        try:
            yield
        finally:
            slots.release()


def in_the_way(path: str, target: TargetFolder) -> Conflict:
    return Conflict(
        f"{printable(path)} is in {target.path} already and is not the file of this version:"
        " it is not overwritten without --overwrite (overwrite in the API)"
    )


def _no_room(target: TargetFolder, need: int) -> NoSpace:
    return NoSpace(
        f"there is no space left in {target.path}: {need} bytes are still needed and {target.free_bytes} are free"
    )


def _sentence(error: RunicornFSError | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror}"
    return str(error)

"""Brings what is known of contents to the disk behind the back of those who read and fetch.

Every quarter of a second at most it records the blocks that have come, and then fsyncs contents that nobody writes to
any more, so that they outlive a power cut. Neither is waited for by anybody: what is lost with a killed program is the
record of its last moments.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from runicornfs.content.entry import Entry
from runicornfs.content.records import Records
from runicornfs.content.sparse import SparseFiles
from runicornfs.errors import RunicornFSError

log = logging.getLogger("runicornfs.content")

# Marks are collected for this long before they are written.
COALESCE_S = 0.25


class Flusher:
    """Thread-safe. `_lock` protects what is to be done (`_dirty`, `_quiet`); it is a leaf.

    `lost(key, file)` is told, with no lock held, of a file whose bytes the disk did not take after all.
    """

    def __init__(self, files: SparseFiles, records: Records) -> None:
        self._files = files
        self._records = records
        self._lock = threading.Lock()
        self._dirty: set[Entry] = set()
        self._quiet: dict[str, str] = {}
        self._failing = False
        self.lost: Callable[[str, str], None] = lambda key, file: None
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runicornfs-flush", daemon=True)
        self._thread.start()

    def mark(self, entry: Entry) -> None:
        """Blocks of an entry have come or gone."""
        with self._lock:
            self._dirty.add(entry)
        self._work.set()

    def settle(self, key: str, file: str) -> None:
        """Nobody writes to this content any more. Whoever begins to again undoes it, also before it was fsynced."""
        self._records.settling(key)
        with self._lock:
            self._quiet[key] = file
        self._work.set()

    def wake(self) -> None:
        """The records remember something."""
        self._work.set()

    def flush(self) -> None:
        """Records everything now. Raises RunicornFSError, and then it is remembered still."""
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        for entry in dirty:
            with entry.condition:
                if entry.dirty and not entry.retired:
                    entry.dirty = False
                    self._records.put(entry.record(self._records.boot))
        self._records.flush()

    def try_flush(self) -> None:
        """Records everything now that can be recorded: on a full disk nothing can."""
        with contextlib.suppress(RunicornFSError):
            self.flush()

    def has_recorded(self, entry: Entry) -> bool:
        """Whether the database says that this entry's file is whole. A file that once was is never changed again."""
        return self._records.says_whole(entry.key, entry.file)

    def stop(self) -> None:
        """Does what there is to do, and ends."""
        self._stopping.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            stopping = self._stopping.wait(COALESCE_S)
            try:
                self.flush()
                self._settle()
                self._failing = False
            except (RunicornFSError, OSError) as error:
                if not self._failing:
                    log.warning("what is cached cannot be recorded: %s", error)
                self._failing = True
                self._work.set()
            if stopping and (self._failing or not self._work.is_set()):
                return

    def _settle(self) -> None:
        with self._lock:
            quiet, self._quiet = self._quiet, {}
        for key, file in quiet.items():
            try:
                modified_ns = self._files.sync(file)
            except OSError as error:
                # The kernel tells this once and forgets the bytes: what is read from the file next may be anything.
                log.warning("the disk did not take what was written to %s: %s", file, error.strerror)
                self.lost(key, file)
                continue
            if modified_ns is not None:
                self._records.settle(key, modified_ns)
        self._records.flush()

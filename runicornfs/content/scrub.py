"""Checks what is cached against its sha256 again, on request: disks rot.

In a thread of its own, one content after the other; no lock is held while a file is read, and its last use stays what
it was. A content may be evicted or fetched anew while it is read, so one that does not match is read once more as a
content in use, which nobody takes away; only what is wrong then, too, is dropped.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from dataclasses import replace
from typing import Any

from runicornfs.content.contents import Verification
from runicornfs.content.flusher import Flusher
from runicornfs.content.identity import Identity, sha256_of
from runicornfs.content.records import Records, Whole
from runicornfs.content.sparse import SparseFiles
from runicornfs.content.table import Table
from runicornfs.content.verify import Verifier
from runicornfs.errors import Interrupted, RunicornFSError

log = logging.getLogger("runicornfs.content")

# Read and hashed at once: some milliseconds, after which the end of the program is noticed.
PIECE = 1 << 20


class Scrub:
    """Thread-safe. `_lock` protects `_progress` and `_thread`; it is a leaf."""

    def __init__(
        self, files: SparseFiles, records: Records, table: Table, flusher: Flusher, verifier: Verifier
    ) -> None:
        self._files = files
        self._records = records
        self._table = table
        self._flusher = flusher
        self._verifier = verifier
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._progress = Verification()
        self._thread: threading.Thread | None = None

    @property
    def progress(self) -> Verification:
        with self._lock:
            return self._progress

    def start(self) -> Verification:
        """Begins with the first content, unless a check runs. Raises Interrupted after `stop`."""
        with self._lock:
            if self._stopping.is_set():
                raise Interrupted("the program is ending: nothing is checked any more")
            if self._progress.status != "running":
                self._progress = Verification("running", started_at=time.time())
                # Daemonic: a disk that does not answer must not keep the process from ending.
                self._thread = threading.Thread(target=self._run, name="runicornfs-scrub", daemon=True)
                self._thread.start()
            return self._progress

    def stop(self, timeout_s: float) -> bool:
        """Ends a check that runs; whether it has ended within this time. Nothing can be started any more."""
        self._stopping.set()
        with self._lock:
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _run(self) -> None:
        try:
            self._flusher.try_flush()
            for content in self._records.whole():
                self._plan(content)
            for content in self._records.whole():
                self._check(content)
            error = None
        except Exception as raised:  # whoever asks for the progress must hear of it
            error = str(raised)
            if not isinstance(raised, Interrupted):
                log.warning("the check of what is cached was given up: %s", raised)
        now = self.progress
        if error is None:  # contents may have come and gone since it was planned
            self._note(total_files=now.checked_files, total_bytes=now.checked_bytes)
        self._note(status="failed" if error else "completed", completed_at=time.time(), error=error)
        log.info("checked %d contents, of which %d were wrong", now.checked_files, now.corrupt_files)

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._progress = replace(self._progress, **changes)

    def _plan(self, content: Whole) -> None:
        now = self.progress
        if sha256_of(content.key) is None:
            self._note(skipped_files=now.skipped_files + 1)
        else:
            self._note(total_files=now.total_files + 1, total_bytes=now.total_bytes + content.size)

    def _check(self, content: Whole) -> None:
        expected = sha256_of(content.key)
        if expected is None:
            return
        fd = self._files.open(content.file, content.size)
        if fd is None:  # evicted since
            return
        before = self.progress
        try:
            matches = self._digest(fd, content.size, before.checked_bytes) == expected
        finally:
            os.close(fd)
        corrupt = not matches and self._drop(content, expected)
        self._note(
            checked_files=before.checked_files + 1,
            checked_bytes=before.checked_bytes + content.size,
            corrupt_files=before.corrupt_files + corrupt,
        )

    def _drop(self, content: Whole, expected: bytes) -> bool:
        """Looks again at a content that did not match; False if it is right, or changed meanwhile."""
        try:
            entry = self._table.open(Identity(content.key, content.path, content.size, expected, None))
        except RunicornFSError as error:
            log.info("%s", error)
            return False
        try:
            generation = entry.generation
            if not entry.whole or self._digest(entry.fd, entry.size, self.progress.checked_bytes) == expected:
                return False
            return self._verifier.corrupt(entry, generation)
        finally:
            self._table.release(entry)

    def _digest(self, fd: int, size: int, checked_bytes: int) -> bytes | None:
        """The sha256 of a file, None where it cannot be read to its end. Raises Interrupted."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(PIECE, size)))
        offset = 0
        while offset < size:
            if self._stopping.is_set():
                raise Interrupted("the check of what is cached was given up: the program is ending")
            piece = buffer[: size - offset]
            try:
                got = os.preadv(fd, [piece], offset)
            except OSError as error:  # the disk cannot read what it wrote
                log.info("a file of the cache cannot be read: %s", error)
                return None
            if not got:
                return None
            digest.update(piece[:got])
            offset += got
            self._note(checked_bytes=checked_bytes + offset)
        return digest.digest()

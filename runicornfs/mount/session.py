"""One mount from beginning to end, and what it owes the kernel after a sync.

FUSE runs in a thread of its own, so that signals stay with the main thread. A second thread drops what the kernel keeps
of paths that changed: the kernel may wait for reads that are under way while it does, so no callback and no holder of a
lock may do that.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.update import Changes
from runicornfs.content.contents import Contents
from runicornfs.errors import InvalidInput, MountUnavailable, Refused
from runicornfs.mount import fuse
from runicornfs.mount import mountpoint as mountpoints
from runicornfs.mount.operations import StoreOperations
from runicornfs.mount.options import MountOptions

log = logging.getLogger("runicornfs.mount")

# The kernel asks and lets go within milliseconds; a fusermount3 that hangs should not hang us.
READY_TIMEOUT_S = 20.0
END = None  # in the queue: the notifier's work is done


class Mount:
    """A mounted store. `start` and `stop` belong to one thread, `show` to one at a time, the rest to any."""

    def __init__(self, catalog: Catalog, contents: Contents, source: str, where: Path, options: MountOptions) -> None:
        mountpoints.check_fuse(options.allow_other)
        self.mountpoint = mountpoints.prepare(where)
        self.ended = threading.Event()
        self._source = source
        self._options = options
        self._catalog = catalog
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._operations = StoreOperations(catalog, contents, options)
        self._kernel = fuse.Kernel()
        self.callbacks = fuse.Callbacks(self._operations, options, self._kernel, self._ready.set)
        self._server = threading.Thread(target=self._serve, name="fuse", daemon=True)
        self._notifier = threading.Thread(target=self._notify, name="fuse-notifier", daemon=True)

    def start(self) -> None:
        """Returns when the mount answers. Raises MountUnavailable."""
        self._notifier.start()
        self._server.start()
        answered = self._ready.wait(READY_TIMEOUT_S)
        if self.ended.is_set() or not answered:
            self._queue.put(END)
            raise self._error or MountUnavailable(f"the kernel does not answer for {self.mountpoint}")

    def changed(self, catalog: Catalog, changes: Changes) -> None:
        """The catalog has a new snapshot: the kernel forgets what it knew of the paths that changed."""
        if self._operations.shows(catalog):
            self._operations.announce(changes.changed_paths, changes.generation)
            self._drop(changes.changed_paths, lambda: self._operations.announced(catalog, changes.generation))

    def show(self, catalog: Catalog, contents: Contents) -> None:
        """Shows another store from now on. Programs keep what they have open; the kernel forgets all it knew."""
        before, self._catalog = self._catalog, catalog
        generation = catalog.generation
        self._operations.show(catalog, contents)
        paths = itertools.chain(before.paths(), catalog.paths())  # read when they are dropped, since they may be many
        self._drop(paths, lambda: self._operations.announced(catalog, generation))

    def forget(self, contents: Contents, paths: list[str]) -> None:
        """A content did not have its sha256, and stands at these paths: the kernel forgets its pages. To be called once
        for each."""

        def drop() -> None:
            for path in paths:
                for number in self._operations.retire(path):
                    self._kernel.drop(path, number, renamed=True)
            self._operations.forgotten(contents)

        self._queue.put(drop)

    def _drop(self, paths: Iterable[str], done: Callable[[], None]) -> None:
        def drop() -> None:
            self._kernel.settle()
            for path in paths:
                number, renamed = self._operations.number_of(path)
                if renamed or number in self._operations.known:
                    self._kernel.drop(path, number, renamed)
            done()

        self._queue.put(drop)

    def stop(self) -> None:
        """Unmounts; a mount that is in use leaves the tree at once and ends with its last user or this process."""
        if not self.ended.is_set():
            self._unmount()
        self._queue.put(END)
        self._notifier.join()
        if self.ended.is_set():
            self._kernel.detach()
            self._operations.close()

    def _unmount(self) -> None:
        try:
            mountpoints.unmount(self.mountpoint)
        except Refused:
            log.warning("%s was in use: it is taken away all the same, and its programs get errors", self.mountpoint)
            try:
                mountpoints.unmount(self.mountpoint, lazy=True)
            except (Refused, InvalidInput) as error:  # then the end of this process is the end of the mount
                log.warning("%s", error)
        except InvalidInput as moved:  # the folder was renamed under the mount: it ends with this process
            log.warning("%s", moved)
        else:
            self.ended.wait(READY_TIMEOUT_S)

    def _serve(self) -> None:
        try:
            fuse.run(self.callbacks, str(self.mountpoint), self._source, self._options)
        except Exception as error:  # handed to the thread that waits in start()
            self._error = error
        finally:
            self.ended.set()
            self._ready.set()  # nobody waits for a mount that will not come

    def _notify(self) -> None:
        while (action := self._queue.get()) is not END:
            action()

"""Processes that share a cache folder: an owner and its guests, each driven by calls from the test."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from runicornfs.content import guest as guest_module
from runicornfs.content import owner as owner_module
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.guest import GuestContents
from runicornfs.content.handover import HandoverContents
from runicornfs.content.identity import Identity
from runicornfs.content.owner import OwnerSocket
from runicornfs.errors import OwnerGone, TimedOut
from tests.fake_transfers import FakeTransfers
from tests.waiting import PATIENCE_S

_SPAWN = multiprocessing.get_context("spawn")


class Failure(Exception):
    """What was called raised an error, of the class `kind`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Owner:
    """In the owner's process."""

    def __init__(self, folder: Path, server: Path, limit: int = 1 << 40) -> None:
        self.server = FakeTransfers(server)
        self.cache = ContentCache(folder, self.server, limit, 0)
        self.door = OwnerSocket(folder, self.cache, {})

    def bytes_asked(self) -> int:
        return self.server.bytes_asked

    def hold(self, after: int) -> None:
        self.server.hold(after)

    def release(self) -> None:
        self.server.release()

    def used(self) -> tuple[int, int, int]:
        """Descriptors, threads that serve guests, and contents in use."""
        serving = [thread for thread in threading.enumerate() if thread.name == "runicornfs-owner"]
        return len(os.listdir("/proc/self/fd")), len(serving), len(self.cache._table.entries())

    def size_bytes(self) -> int:
        return self.cache.status().size_bytes

    def evictions(self) -> int:
        return self.cache.status().evictions

    def read(self, identity: Identity) -> bytes:
        reader = self.cache.open(identity)
        try:
            return reader.read(0, identity.size)
        finally:
            reader.close()


class QuickOwner(Owner):
    """Says that it is there ten times a second."""

    def __init__(self, folder: Path, server: Path, limit: int = 1 << 40) -> None:
        owner_module.BEAT_S = 0.1
        super().__init__(folder, server, limit)


class Guest:
    """In the process of a guest. It finds the next owner by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dropped: list[str] = []
        self.losses = 0
        self.contents = HandoverContents(self._join())
        self.contents.on_dropped(self.dropped.append)
        self.readers: dict[str, Any] = {}

    def _join(self) -> GuestContents:
        guest = GuestContents(self.folder)
        guest.on_lost(threading.Thread(target=self._find_owner, daemon=True).start)
        return guest

    def _find_owner(self) -> None:
        self.losses += 1
        self.contents.lost()
        while True:
            try:
                self.contents.switch(self._join())
                return
            except OwnerGone:
                time.sleep(0.02)

    def open(self, identity: Identity) -> None:
        self.readers[identity.path] = self.contents.open(identity)

    def close(self, path: str) -> None:
        self.readers.pop(path).close()

    def read(self, path: str, offset: int, size: int) -> bytes:
        return bytes(self.readers[path].read(offset, size))

    def read_on(self, identity: Identity, threads: int = 1) -> bytes:
        """All of it, block by block, by some threads that take turns with the blocks."""

        def block(offset: int) -> bytes:
            return bytes(self.readers[identity.path].read(offset, BLOCK))

        with ThreadPoolExecutor(threads) as pool:
            return b"".join(pool.map(block, range(0, identity.size, BLOCK)))

    def direct(self, path: str) -> bool:
        """Whether it is read without the owner."""
        return self.readers[path]._reader._direct is not None

    def keep(self, path: str) -> int:
        """The owner's descriptor, as our own."""
        return os.dup(self.readers[path]._reader._direct.fd)

    def kept(self, fd: int, size: int) -> bytes:
        return os.pread(fd, size, 0)

    def heard(self) -> list[str]:
        return self.dropped

    def lost(self) -> int:
        """How many owners it has lost."""
        return self.losses

    def verify(self) -> None:
        self.contents.verify()

    def corrupt_files(self) -> int | None:
        """What the check has found; None while it runs."""
        now = self.contents.verification()
        return now.corrupt_files if now.status == "completed" else None

    def clear(self) -> None:
        self.contents.clear()


class ImpatientGuest(Guest):
    """Takes an owner that was silent for three seconds for one that is stopped."""

    def __init__(self, folder: Path) -> None:
        guest_module.SILENCE_S = 3.0
        super().__init__(folder)

    def look(self, key: str) -> tuple[object, ...]:
        """What a listing asks for."""
        return (*self.contents.cached_bytes([key])[key], self.contents.free_bytes())

    def unanswered(self, identity: Identity, times: int) -> int:
        """Opens it so often; how often nobody answered."""
        count = 0
        for _ in range(times):
            try:
                self.contents.open(identity).close()
            except TimedOut:
                count += 1
        return count


class Process:
    """A process with one object of `kind`, whose methods are called by name. A context manager, which ends it."""

    def __init__(self, kind: Callable[..., object], *arguments: object) -> None:
        self._here, there = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(there, kind, arguments), daemon=True)
        self._process.start()
        there.close()
        self._answer()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def start(self, method: str, *arguments: object) -> None:
        """Calls a method; `result` has to follow."""
        self._here.send((method, arguments))

    def result(self) -> Any:
        """Raises Failure."""
        return self._answer()

    def do(self, method: str, *arguments: object) -> Any:
        """Raises Failure."""
        self.start(method, *arguments)
        return self.result()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._process.close()
        self._here.close()

    def _answer(self) -> Any:
        assert self._here.poll(PATIENCE_S), "the process does not answer"
        good, answer = self._here.recv()
        if not good:
            raise Failure(*answer)
        return answer


def _serve(calls: Connection, kind: Callable[..., object], arguments: tuple[object, ...]) -> None:
    served: object = None
    method, parameters = "", arguments
    while True:
        try:
            if served is None:
                served = kind(*parameters)
                calls.send((True, None))
            else:
                calls.send((True, getattr(served, method)(*parameters)))
        except Exception as error:
            calls.send((False, (type(error).__name__, traceback.format_exc())))
        try:
            method, parameters = calls.recv()
        except EOFError:
            return

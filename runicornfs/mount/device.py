"""/dev/fuse of one mount: how it is had, the threads that take requests from it, what is said to the kernel unasked.

The kernel's protocol is spoken here directly, without libfuse: see docs/decisions/0019. Requests are answered by the
thread that took them, which may wait for the network meanwhile; there is always another that takes the next one.

`_lock` protects `_workers`, `_idle`, `_under_way` and `_interrupted`; the last one is read without it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from runicornfs.errors import MountUnavailable
from runicornfs.mount import protocol
from runicornfs.mount.mountpoint import fusermount
from runicornfs.mount.protocol import IN_HEADER, OUT_HEADER, Init, Opcode

log = logging.getLogger("runicornfs.mount")

# A reader that waits for the line holds a thread. There must be one left for `ls`.
MAX_WORKERS = 256
# Threads that wait for requests. With one, four programs that read at random have threads started for them all the time
# and get a fifth of the reads; with 16 they get no more than with 4.
MAX_IDLE = 4
# fusermount3 answers within milliseconds, or the mount fails.
MOUNT_TIMEOUT_S = 20.0
# Pages of a request: 1 MiB, what Linux grants unless /proc/sys/fs/fuse/max_pages_limit says otherwise.
MAX_PAGES = 256
# Requests of read-ahead that the kernel sends at once, for all files together. Its own 12 hold eight readers back.
MAX_BACKGROUND = 64
WANTED = (
    Init.ASYNC_READ  # several reads of a file at once
    | Init.DO_READDIRPLUS  # always: with AUTO only the first part of a folder has attributes, the rest is asked for
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS  # lookups in one folder do not wait for each other
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.EXPLICIT_INVAL_DATA  # pages go when we say so, not when a time or a size looks new
    | Init.INIT_EXT
)  # fmt: skip

# Questions about names and attributes are answered from the catalog, within milliseconds. One of a guest whose owner
# does not answer takes longer: that is not waited for.
SETTLE_TIMEOUT_S = 5.0
SETTLE_STEP_S = 0.002
# Answers of these tell the kernel nothing that it keeps, and may wait for the network.
_KEPT_NOWHERE = (Opcode.READ, Opcode.RELEASE)

# The kernel's word for "nobody waits for this answer any more".
_UNWANTED = (errno.ENOENT, errno.ENODEV)

Answer = bytes | Sequence[bytes]
# (opcode, number of the node, message, unique) → payload, None where no answer is expected. Raises OSError.
Answerer = Callable[[int, int, bytes, int], Answer | None]


class Device:
    """The connection to the kernel. All methods but `serve` may be called by any thread."""

    def __init__(self, fd: int, passthrough: bool = False) -> None:
        """Takes the descriptor over, and shakes hands with the kernel: returns when it will send requests.

        `passthrough`: ask for it. Raises MountUnavailable.
        """
        self._fd = fd
        self._lock = threading.Lock()
        self._workers: set[threading.Thread] = set()
        self._idle = 0
        self._under_way: dict[int, int] = {}  # requests that a worker has, and their opcodes
        self._interrupted: set[int] = set()  # those of them that nobody waits for any more
        self._ended = threading.Event()
        self.granted = self._shake_hands(passthrough)

    def serve(self, answer: Answerer) -> None:
        """Answers requests until the mount is gone. To be called once."""
        self._start(answer)
        self._ended.wait()
        while True:
            with self._lock:
                worker = next(iter(self._workers), None)
            if worker is None:
                break
            worker.join()

    def close(self) -> None:
        """After `serve`, and when nothing is said to the kernel any more."""
        os.close(self._fd)

    def interrupted(self, unique: int) -> bool:
        """True when the program that waits for the answer to this request was killed."""
        return unique in self._interrupted

    def settle(self) -> None:
        """Waits until the kernel has the answers that are being made now, but for those of reads. What is said to it
        from then on is about an older answer never too early."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        with self._lock:
            waited_for = {unique for unique, opcode in self._under_way.items() if opcode not in _KEPT_NOWHERE}
        while waited_for and time.monotonic() < deadline:
            time.sleep(SETTLE_STEP_S)
            with self._lock:
                waited_for &= self._under_way.keys()

    def forget_pages(self, number: int) -> None:
        """The kernel drops attributes and pages that it keeps of a node. Never called with a lock held or from an
        answer about the same node: the kernel may wait for reads that are under way."""
        self._notify(protocol.NOTIFY_INVAL_INODE, protocol.INVAL_INODE.pack(number, 0, 0))

    def forget_attributes(self, number: int) -> None:
        """The kernel drops the attributes that it keeps of a node, and keeps its pages. Waits for nothing."""
        self._notify(protocol.NOTIFY_INVAL_INODE, protocol.INVAL_INODE.pack(number, -1, 0))

    def forget_name(self, folder: int, name: bytes) -> None:
        """The kernel looks this name up anew. Never called with a lock held or from an answer."""
        self._notify(protocol.NOTIFY_INVAL_ENTRY, protocol.INVAL_ENTRY.pack(folder, len(name), 0) + name + b"\0")

    def open_backing(self, fd: int) -> int:
        """Registers an open file that the kernel may read from by itself; its number. Raises OSError."""
        wish = bytearray(protocol.BACKING_MAP.pack(fd, 0, 0))  # a buffer that can be written: bytes would come back
        return int(fcntl.ioctl(self._fd, protocol.FUSE_DEV_IOC_BACKING_OPEN, wish))

    def close_backing(self, backing: int) -> None:
        """What is open goes on with the file."""
        fcntl.ioctl(self._fd, protocol.FUSE_DEV_IOC_BACKING_CLOSE, backing.to_bytes(4, "little"))

    def _shake_hands(self, passthrough: bool) -> Init:
        try:
            message = os.read(self._fd, protocol.REQUEST_SIZE)
        except OSError as error:
            raise MountUnavailable(f"the kernel sends no requests: {error.strerror}") from None
        _, opcode, unique, *_ = IN_HEADER.unpack_from(message)
        major, minor, readahead, flags = protocol.INIT_IN.unpack_from(message, IN_HEADER.size)
        if opcode != Opcode.INIT or major != protocol.MAJOR or minor < protocol.OLDEST_MINOR:
            raise MountUnavailable(f"this kernel speaks FUSE {major}.{minor}, which is not known here")
        if flags & Init.INIT_EXT:
            at = IN_HEADER.size + protocol.INIT_IN.size
            flags |= protocol.INIT_IN_FLAGS2.unpack_from(message, at)[0] << 32
        granted = Init(flags) & (WANTED | Init.PASSTHROUGH if passthrough else WANTED)
        out = protocol.INIT_OUT.pack(
            protocol.MAJOR, min(minor, protocol.MINOR), readahead, granted & 0xFFFFFFFF, MAX_BACKGROUND,
            MAX_BACKGROUND * 3 // 4, protocol.MAX_WRITE, 1, MAX_PAGES, 0, granted >> 32,
            1 if granted & Init.PASSTHROUGH else 0,
        )  # fmt: skip
        self._reply(unique, 0, out)
        return granted

    def _start(self, answer: Answerer) -> None:
        worker = threading.Thread(target=self._work, args=(answer,), name="fuse-worker", daemon=True)
        with self._lock:
            self._workers.add(worker)
            self._idle += 1
        try:
            worker.start()
        except RuntimeError as error:  # the system gives no more threads; those that there are go on
            log.warning("there is no further thread to answer the kernel: %s", error)
            with self._lock:
                self._workers.discard(worker)
                self._idle -= 1

    def _work(self, answer: Answerer) -> None:
        """One thread: takes requests and answers them."""
        try:
            while (message := self._receive()) is not None:
                _, opcode, unique, number, *_ = IN_HEADER.unpack_from(message)
                with self._lock:
                    self._under_way[unique] = opcode
                    self._idle -= 1
                    alone = not self._idle and len(self._workers) < MAX_WORKERS
                if alone:
                    self._start(answer)
                if opcode == Opcode.INTERRUPT:
                    self._interrupt(unique, message)
                else:
                    self._answer(answer, opcode, number, message, unique)
                with self._lock:
                    self._under_way.pop(unique, None)  # no kernel has two of one number, but a word of it ends nothing
                    self._interrupted.discard(unique)
                    if self._idle >= MAX_IDLE:
                        return
                    self._idle += 1
            self._ended.set()
        finally:
            with self._lock:
                self._workers.discard(threading.current_thread())

    def _receive(self) -> bytes | None:
        """The next request, with a whole header; None when the mount is gone."""
        while True:
            try:
                message = os.read(self._fd, protocol.REQUEST_SIZE)
            except OSError as error:
                if error.errno == errno.ENOENT:  # whoever sent it was killed before it was read
                    continue
                if error.errno != errno.ENODEV:
                    log.warning("the kernel sends no more requests: %s", error.strerror)
                return None
            if not message:
                return None
            if len(message) >= IN_HEADER.size:
                return message
            log.warning("the kernel sends %d bytes, which are no request", len(message))

    def _interrupt(self, unique: int, message: bytes) -> None:
        try:
            (interrupted,) = protocol.INTERRUPT_IN.unpack_from(message, IN_HEADER.size)
        except struct.error:
            self._reply(unique, -errno.EINVAL)
            return
        with self._lock:
            found = interrupted in self._under_way
            if found:
                self._interrupted.add(interrupted)
        if not found:  # it was answered, or its worker has not come as far: then the kernel says it again
            self._reply(unique, -errno.EAGAIN)

    def _answer(self, answer: Answerer, opcode: int, number: int, message: bytes, unique: int) -> None:
        try:
            payload = answer(opcode, number, message, unique)
        except OSError as error:
            self._reply(unique, -(error.errno or errno.EIO))
        else:
            if payload is not None:
                self._reply(unique, 0, payload)

    def _reply(self, unique: int, status: int, payload: Answer = b"") -> None:
        parts = [payload] if isinstance(payload, bytes) else payload
        header = OUT_HEADER.pack(OUT_HEADER.size + sum(map(len, parts)), status, unique)
        try:
            os.writev(self._fd, [header, *parts])
        except OSError as error:
            if error.errno not in _UNWANTED:
                log.warning("the kernel does not take an answer: %s", error.strerror)

    def _notify(self, kind: int, payload: bytes) -> None:
        try:
            os.writev(self._fd, [OUT_HEADER.pack(OUT_HEADER.size + len(payload), kind, 0), payload])
        except OSError as error:
            # It knows no such node, the mount is gone, or (EBADF) was closed.
            if error.errno not in (*_UNWANTED, errno.EBADF, errno.ENOTDIR, errno.ENOTCONN):
                log.warning("the kernel does not take a notification: %s", error.strerror)


def mount(mountpoint: str, options: Sequence[str]) -> int:
    """Mounts and returns the descriptor of /dev/fuse. Raises MountUnavailable with what fusermount3 says."""
    program = fusermount()
    if program is None:
        raise MountUnavailable("fusermount3 is not installed: install the package fuse3")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        try:
            done = subprocess.run(
                [program, "-o", ",".join(options), "--", mountpoint],
                env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, capture_output=True,
                text=True, errors="replace", timeout=MOUNT_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MountUnavailable(f"{program} cannot be run: {error}") from None
        if done.returncode:
            raise MountUnavailable(f"{mountpoint} cannot be mounted on: {done.stderr.strip()}")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not descriptors:
        raise MountUnavailable(f"{mountpoint} cannot be mounted on: {program} gives no descriptor")
    return descriptors[0]

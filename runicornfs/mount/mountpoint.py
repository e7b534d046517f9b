"""The folder that is mounted on: made ready before, given back after, cleaned up after a daemon that was killed."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import subprocess
import threading
from pathlib import Path

from runicornfs.errors import InvalidInput, MountUnavailable, Refused

# /proc/self/mounts escapes space, tab, newline and backslash as octal (getmntent(3)).
ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
FILE_SYSTEM_TYPE = "fuse.runicornfs"
# A daemon answers this within milliseconds, however slow its line is. One that does not is stopped.
ANSWER_TIMEOUT_S = 5.0
UNMOUNT_TIMEOUT_S = 30  # fusermount3 answers at once, unless the kernel waits for a reader


def check_fuse(options_allow_other: bool = False) -> None:
    """Raises MountUnavailable, with a sentence that says what to do, where this account cannot mount with FUSE."""
    if not os.path.exists("/dev/fuse"):
        raise MountUnavailable(
            "FUSE cannot be used here: this machine has no /dev/fuse "
            "(a container has to be started with --device /dev/fuse --cap-add SYS_ADMIN)"
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise MountUnavailable("FUSE cannot be used here: this account may not open /dev/fuse")
    if fusermount() is None:
        raise MountUnavailable("fusermount3 is not installed: install the package fuse3")
    if os.getuid() != 0 and options_allow_other and "user_allow_other" not in _lines("/etc/fuse.conf"):
        raise MountUnavailable("-o allow_other needs a line user_allow_other in /etc/fuse.conf")


def prepare(mountpoint: Path) -> Path:
    """The absolute path of an empty folder to mount on: made if its parent exists; a mount that a killed daemon left is
    taken away first. Raises InvalidInput or Refused."""
    path = resolved(mountpoint)
    if is_stale(path):
        unmount(path, lazy=True)
    try:
        path.mkdir(exist_ok=True)
        if mounted_type(path) is not None:
            raise Refused(f"something is mounted on {path} already: unmount it first, or choose another folder")
        occupied = any(os.scandir(path))
    except FileNotFoundError:
        raise InvalidInput(f"{path} cannot be made: there is no folder {path.parent}") from None
    except (FileExistsError, NotADirectoryError):
        raise InvalidInput(f"{path} is not a folder: a mount needs an empty one") from None
    except PermissionError:
        raise Refused(f"this account may not use the folder {path}") from None
    except OSError as error:  # the name is too long, the file system is read-only, …
        raise InvalidInput(f"{path} cannot be mounted on: {error.strerror}") from None
    if occupied:
        raise InvalidInput(f"the folder {path} is not empty: mounting there would hide what is in it")
    if os.getuid() != 0 and not os.access(path, os.W_OK):  # fusermount3 asks for that
        raise Refused(f"this account may not write to {path}: mount on a folder of its own")
    return path


def resolved(path: Path) -> Path:
    """Where the kernel would mount: absolute, with links followed. Asks nothing of what may be mounted there."""
    path = Path(os.path.abspath(path))
    try:
        os.readlink(path)  # lstat would wait for the daemon of a mount
    except OSError:
        return Path(os.path.realpath(path.parent), path.name)
    return Path(os.path.realpath(path))


def is_stale(path: Path) -> bool:
    """True where one of our mounts stands whose daemon is gone. Raises Refused where that does not answer."""
    if mounted_type(path) != FILE_SYSTEM_TYPE:
        return False
    answers: queue.SimpleQueue[int] = queue.SimpleQueue()
    # Nothing but the end of the process ends the wait for a daemon that is stopped.
    threading.Thread(target=lambda: answers.put(_error_of_asking(path)), name="statfs", daemon=True).start()
    try:
        return answers.get(timeout=ANSWER_TIMEOUT_S) in (errno.ENOTCONN, errno.ECONNABORTED)
    except queue.Empty:
        raise Refused(
            f"the runicornfs that is mounted on {path} does not answer, it may be stopped: "
            "let it go on or end it, then try again"
        ) from None


def _error_of_asking(path: Path) -> int:
    """What a file system says, as an errno; 0 where nothing is wrong."""
    try:
        os.statvfs(path)  # the kernel keeps no answer to this, as it may to stat
    except OSError as error:
        return error.errno or 0
    return 0


def mounted_type(path: Path) -> str | None:
    """The type of the file system that is mounted exactly here, None where none is. Touches no file system."""
    found = None
    path = resolved(path)
    for line in _lines("/proc/self/mounts"):
        _, where, kind, *_ = line.split(" ")
        for escape, character in ESCAPES.items():
            where = where.replace(escape, character)
        if where == str(path):
            found = kind  # the last one covers those before it
    return found


def unmount(path: Path, lazy: bool = False) -> None:
    """Unmounts. Raises Refused when it is in use (`lazy` takes it out of the tree all the same) or is no mount."""
    path = resolved(path)
    kind = mounted_type(path)
    if kind is None:
        raise InvalidInput(f"nothing is mounted on {path}")
    if kind != FILE_SYSTEM_TYPE:
        raise Refused(f"what is mounted on {path} is not runicornfs: unmount it with umount")
    program = fusermount()
    command = ["umount", "-l"] if lazy else ["umount"]
    if program is not None:
        command = [program, "-u", "-z"] if lazy else [program, "-u"]
    try:
        done = subprocess.run(
            [*command, "--", str(path)], capture_output=True, text=True, timeout=UNMOUNT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"{path} cannot be unmounted: the kernel does not answer") from None
    except OSError as error:
        raise Refused(f"{path} cannot be unmounted: {command[0]} cannot be run ({error.strerror})") from None
    if done.returncode == 0:
        return
    if "busy" in done.stderr:
        raise Refused(f"{path} is in use: close the programs that have files or a shell there, then try again")
    raise Refused(f"{path} cannot be unmounted: {done.stderr.strip()}")


def fusermount() -> str | None:
    """The set-uid helper of libfuse 3, or that of libfuse 2."""
    return shutil.which("fusermount3") or shutil.which("fusermount")


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(errors="surrogateescape").split("\n")[:-1]  # a name may hold any other separator
    except OSError:
        return []

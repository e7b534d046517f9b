"""`--daemon`: the command runs once more as a process of its own, which leaves the terminal when it is ready.

Until then it keeps the terminal: its questions and errors are seen there, and Ctrl-C ends it. Nothing forks after
threads exist; a pipe tells the process that was started by the person how it went.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

from runicornfs.errors import Interrupted, Refused

# In the environment of the second process: the pipe's end to write to.
READY_FD = "RUNICORNFS_READY_FD"
# A log that is larger than this (bytes) at the start is put aside, so two of them are the most there is.
LOG_LIMIT = 1024 * 1024


def launch() -> int | None:
    """In the process that a person started: runs the daemon and returns the status to end with, 0 once it is ready.

    In the daemon itself: None.
    """
    if READY_FD in os.environ:
        return None
    reader, writer = os.pipe()
    command = [sys.executable, *sys.orig_argv[1:]]
    process = subprocess.Popen(command, env=os.environ | {READY_FD: str(writer)}, pass_fds=[writer])
    os.close(writer)
    with contextlib.suppress(KeyboardInterrupt):  # the daemon got it, too, and ends
        if os.read(reader, 1):
            return 0
    return process.wait()


def detach(log: Path) -> None:
    """In the daemon, when it is ready: leaves the terminal, for `log` (made 0600 if it is not there).

    Raises Interrupted where the process that waits for it has been ended, Refused where the log cannot be written.
    """
    ready = int(os.environ.pop(READY_FD))
    output = _open_log(log)
    print(f"process {os.getpid()} goes on in the background and logs to {log}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os.setsid()
    os.chdir("/")  # whatever folder it was started in can be removed or unmounted
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)
    try:
        os.write(ready, b"\n")
    except BrokenPipeError:
        raise Interrupted("the command that started this daemon was ended") from None
    finally:
        os.close(ready)


def _open_log(log: Path) -> int:
    try:
        with contextlib.suppress(FileNotFoundError):
            if log.stat(follow_symlinks=False).st_size > LOG_LIMIT:
                log.replace(log.with_suffix(".log.1"))
        # In a folder like /tmp anybody may have made one before us: a link, a FIFO or a file of his own.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        output = os.open(log, flags, 0o600)
    except OSError as error:
        raise Refused(f"the log {log} cannot be written: {error.strerror}") from None
    status = os.fstat(output)
    if status.st_uid != os.getuid() or not stat.S_ISREG(status.st_mode):
        raise Refused(f"the log {log} belongs to somebody else: name another folder with --cache-dir")
    os.fchmod(output, 0o600)
    return output

"""`python -m tests.traced_mount mount …`: runicornfs as it is, which also writes down each read as it arrives.

To the file that TRACE_FILE names, a line when a read begins (`> number handle offset size`) and when it has ended
(`< number`).
"""

from __future__ import annotations

import itertools
import os

from runicornfs.content.contents import Interruption
from runicornfs.main import main
from runicornfs.mount.operations import StoreOperations


def trace(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    numbers = itertools.count()
    read_untraced = StoreOperations.read

    def read(self: StoreOperations, handle: int, offset: int, size: int, interrupted: Interruption) -> bytes:
        number = next(numbers)
        os.write(fd, b"> %d %d %d %d\n" % (number, handle, offset, size))
        try:
            return read_untraced(self, handle, offset, size, interrupted)
        finally:
            os.write(fd, b"< %d\n" % number)

    StoreOperations.read = read  # type: ignore[method-assign]


if __name__ == "__main__":
    trace(os.environ["TRACE_FILE"])
    main()

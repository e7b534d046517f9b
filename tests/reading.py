"""A program that reads files of a mount at random for as long as there is one, and compares every byte.

    python -m tests.reading EXPECTED MOUNT SEED

EXPECTED is a folder with the same files. Ends with 0 when the mount is gone, and with 1, and a line, on a wrong byte.
"""

from __future__ import annotations

import errno
import os
import random
import sys
from pathlib import Path

# What a read may be told while the daemon ends or was killed: there is no mount any more, or nothing is read any more.
ENDED = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV)
REFUSED = (errno.ENOENT, errno.ENETUNREACH)


def main(expected: Path, mount: Path, seed: int) -> int:
    choose = random.Random(seed)
    files = sorted(path.relative_to(expected) for path in expected.rglob("*") if path.is_file())
    while os.path.ismount(mount):
        file = choose.choice(files)
        content = (expected / file).read_bytes()
        size = choose.choice([4096, 100_000, 1 << 20])
        offset = choose.choice([0, choose.randrange(len(content))])
        try:
            with open(mount / file, "rb", buffering=0) as opened:
                while data := os.pread(opened.fileno(), size, offset):
                    if data != content[offset : offset + len(data)]:
                        print(f"{file}: wrong bytes at {offset}")
                        return 1
                    offset += len(data)
        except OSError as error:
            if error.errno in ENDED:
                break
            if error.errno not in REFUSED:
                print(f"{file}: {error}")
                return 1
        else:
            if offset != len(content):
                print(f"{file}: it ends at {offset}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))

#!/usr/bin/env python3
"""An SFTP server that lies about file data. sshd_config names it; the environment variable LIE_FILE names a file that
says how: it is read at each start.

It stands between sshd and OpenSSH's own sftp-server and tampers with the answers.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

SFTP_SERVER = "/usr/lib/openssh/sftp-server"
STATUS, DATA, ATTRS = 101, 103, 105


def packets(stream: BinaryIO) -> list[bytes]:
    """The packets that have come: one, waited for; none at the end."""
    head = stream.read(4)
    return [stream.read(int.from_bytes(head, "big"))] if len(head) == 4 else []


def framed(packet: bytes) -> bytes:
    return struct.pack(">I", len(packet)) + packet


def status(code: int) -> Callable[[bytes], bytes]:
    return lambda answer: framed(bytes([STATUS]) + answer[1:5] + struct.pack(">III", code, 0, 0))


def with_data(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def changed(answer: bytes) -> bytes:
        data = change(answer[9:])
        return framed(answer[:5] + struct.pack(">I", len(data)) + data)

    return changed


# What is sent in place of a DATA packet.
LIES: dict[str, Callable[[bytes], bytes]] = {
    "honest": framed,
    "another id": lambda answer: framed(answer[:1] + b"\xff\xff\xff\x00" + answer[5:]),
    "twice": lambda answer: framed(answer) * 2,
    "another kind": lambda answer: framed(bytes([ATTRS]) + answer[1:5] + bytes(4)),
    "longer": with_data(lambda data: data + b"more"),
    "empty": with_data(lambda data: b""),
    "other bytes": with_data(lambda data: bytes(len(data))),
    "four gigabytes": lambda answer: b"\xff\xff\xff\xff" + answer,
    "nothing": lambda answer: bytes(4),
    "done": status(0),
    "failed": status(4),
    "ended": status(1),
}


def main() -> None:
    lie = LIES[Path(os.environ["LIE_FILE"]).read_text()]
    server = subprocess.Popen([SFTP_SERVER], stdin=sys.stdin.buffer, stdout=subprocess.PIPE)
    assert server.stdout is not None

    def answers(source: BinaryIO) -> None:
        while came := packets(source):
            sys.stdout.buffer.write(lie(came[0]) if came[0][0] == DATA else framed(came[0]))
            sys.stdout.buffer.flush()

    thread = threading.Thread(target=answers, args=(server.stdout,))
    thread.start()
    thread.join()
    os._exit(server.wait())


if __name__ == "__main__":
    main()

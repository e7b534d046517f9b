#!/usr/bin/env python3
"""An SFTP server that returns at most 32 KiB of a READ and does not say so: older servers and appliances do that.

It stands between sshd and OpenSSH's own sftp-server and shortens every READ on its way there. sshd_config names it.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from typing import BinaryIO

SFTP_SERVER = "/usr/lib/openssh/sftp-server"
MOST = 32 << 10
READ, VERSION = 5, 2


def packets(stream: BinaryIO) -> list[bytes]:
    """The packets that have come: one, waited for; none at the end."""
    head = stream.read(4)
    return [stream.read(int.from_bytes(head, "big"))] if len(head) == 4 else []


def shortened(packet: bytes) -> bytes:
    """A READ ends with its length."""
    if packet[0] != READ:
        return packet
    length = min(int.from_bytes(packet[-4:], "big"), MOST)
    return packet[:-4] + struct.pack(">I", length)


def without_extensions(packet: bytes) -> bytes:
    return packet[:5] if packet[0] == VERSION else packet


def main() -> None:
    server = subprocess.Popen([SFTP_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None

    def answers(source: BinaryIO) -> None:
        while came := packets(source):
            packet = without_extensions(came[0])
            sys.stdout.buffer.write(struct.pack(">I", len(packet)) + packet)
            sys.stdout.buffer.flush()

    thread = threading.Thread(target=answers, args=(server.stdout,))
    thread.start()
    while came := packets(sys.stdin.buffer):
        packet = shortened(came[0])
        server.stdin.write(struct.pack(">I", len(packet)) + packet)
        server.stdin.flush()
    server.stdin.close()
    thread.join()
    os._exit(server.wait())


if __name__ == "__main__":
    main()

"""SSH packets and greetings of a size that SSH has. paramiko would take whatever a server announces, up to 4 GiB, and
wait for the end of a greeting without end: both before anybody has seen whose server it is."""

from __future__ import annotations

import paramiko
from paramiko.packet import Packetizer

# Bytes. What we tell servers is the most data of a packet; its head, padding and digest come to less than this again.
LARGEST_DATA = 256 << 10
_LARGEST_READ = 2 * LARGEST_DATA
# Bytes of what a server says before SSH begins: RFC 4253, section 4.2, lets it print lines; sshd prints none.
_LONGEST_GREETING = 64 << 10


class BoundedPacketizer(Packetizer):
    """Used by paramiko's own thread."""

    _greeting = 0

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Raises SSHException where a packet is announced that nobody sends."""
        if n > _LARGEST_READ:
            raise paramiko.SSHException(f"Invalid packet of {n} bytes")
        data: bytes = super().read_all(n, check_rekey)
        return data

    def _read_timeout(self, timeout: float) -> bytes:
        """A piece of the greeting; paramiko calls it for nothing else."""
        data: bytes = super()._read_timeout(timeout)  # type: ignore[misc]
        self._greeting += len(data)
        if self._greeting > _LONGEST_GREETING:
            raise paramiko.SSHException(": Invalid SSH banner, without end")
        return data

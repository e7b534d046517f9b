"""Agents to log in with: OpenSSH's own, and one that hangs, dies or holds a hardware key as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_REQUEST_IDENTITIES, _IDENTITIES, _SIGNATURE = 11, 12, 14  # messages of the agent protocol
_TOUCHED = 1  # the flag in a signature which says that somebody touched the security key


@contextlib.contextmanager
def running_agent(path: Path, *keys: Path) -> Iterator[Path]:
    """An ssh-agent that listens at `path` and holds `keys`."""
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it says where it listens when it does
            if keys:
                add_keys(path, *keys)
            yield path
        finally:
            process.terminate()


def add_keys(agent: Path, *keys: Path) -> None:
    subprocess.run(["ssh-add", "-q", *keys], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(agent)})


class HardwareKey:
    """What an agent with a FIDO security key does: it signs over the application's name, a flag and a counter."""

    application = b"ssh:"

    def __init__(self) -> None:
        self._key = ed25519.Ed25519PrivateKey.generate()
        message = paramiko.Message()
        message.add_string("sk-ssh-ed25519@openssh.com")
        message.add_string(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        message.add_string(self.application)
        self.blob = message.asbytes()

    def sign(self, data: bytes) -> bytes:
        flags, counter = bytes([_TOUCHED]), (7).to_bytes(4, "big")
        signed = hashlib.sha256(self.application).digest() + flags + counter + hashlib.sha256(data).digest()
        message = paramiko.Message()
        message.add_string("sk-ssh-ed25519@openssh.com")
        message.add_string(self._key.sign(signed))
        return message.asbytes() + flags + counter


Sign = Callable[[bytes], "bytes | None"]


@contextlib.contextmanager
def scripted_agent(path: Path, blob: bytes, sign: Sign) -> Iterator[Path]:
    """An agent with one key. `sign` gets the data and returns the signature; None hangs up instead of an answer."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as stream:
                    _serve(stream.read, stream.write, stream.flush, blob, sign)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield path
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _serve(
    read: Callable[[int], bytes],
    write: Callable[[bytes], object],
    flush: Callable[[], None],
    blob: bytes,
    sign: Sign,
) -> None:
    while size := int.from_bytes(read(4), "big"):
        request = paramiko.Message(read(size))
        answer = paramiko.Message()
        if request.get_byte()[0] == _REQUEST_IDENTITIES:
            answer.add_byte(bytes([_IDENTITIES]))
            answer.add_int(1)
            answer.add_string(blob)
            answer.add_string("scripted")
        else:
            request.get_binary()
            signature = sign(request.get_binary())
            if signature is None:
                return
            answer.add_byte(bytes([_SIGNATURE]))
            answer.add_string(signature)
        data = answer.asbytes()
        write(len(data).to_bytes(4, "big") + data)
        flush()

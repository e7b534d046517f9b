"""Servers that say whatever a test wants, whatever they are asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def answering(*parts: bytes, again: int = 1, close: bool = True) -> Iterator[str]:
    """A server that answers every connection with these bytes, the last of them so many times; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    connected, _ = listener.accept()
                    with connected:
                        take_request(connected)
                        for part in (*parts[:-1], *(parts[-1:] * again)):
                            connected.sendall(part)
                        if not close:
                            ended.wait()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def take_request(connected: socket.socket) -> None:
    """Reads all of it: what is closed with something unread in it is torn for the other end."""
    with connected.makefile("rb") as stream:
        size = 0
        while (line := stream.readline()) not in (b"", b"\r\n"):
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        stream.read(size)


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body

"""What a client command says to whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from runicornfs.cli import client
from runicornfs.cli.answers import Mode
from runicornfs.cli.client import ApiClient
from runicornfs.workspace.running import DaemonRecord

TOKEN = "a-token-0815"


class Listener(HTTPServer):
    """Whoever listens at the usual address: it may be another account of this machine."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.heard.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"mode": "local", "remote_connected": false}')

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("RUNICORNFS_TOKEN", TOKEN)
    monkeypatch.delenv("RUNICORNFS_API", raising=False)
    with Listener() as listener:
        monkeypatch.setattr(client, "DEFAULT_API_PORT", listener.server_port)
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        yield listener
        listener.shutdown()
        thread.join()


def test_an_address_that_nobody_has_told_us_gets_no_token(listener: Listener) -> None:
    """Without a daemon of ours any account may listen there."""
    ApiClient(None).get("/api/remote/mode", Mode)
    assert listener.heard == [None]


@pytest.mark.parametrize("told", ["option", "environment", "daemon"])
def test_an_address_that_we_were_told_gets_the_token(
    listener: Listener, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{listener.server_port}"
    record = DaemonRecord(f"http://{address}", "", []) if told == "daemon" else None
    if told == "environment":
        monkeypatch.setenv("RUNICORNFS_API", address)
    ApiClient(address if told == "option" else None).get("/api/remote/mode", Mode)
    assert listener.heard == [f"Bearer {TOKEN}"]
    if record is not None:
        record.close()

"""Random frames at the socket of a cache's owner: they cost whoever sends them the connection at most."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runicornfs.content import wire
from runicornfs.content.blocks import BLOCK
from runicornfs.content.cache import ContentCache
from runicornfs.content.guest import GuestContents
from runicornfs.content.identity import Identity
from runicornfs.content.owner import METHODS, OwnerSocket
from tests.fake_transfers import Caches, FakeTransfers, content_of
from tests.waiting import wait_until

FILE = content_of(3 * BLOCK + 5)
# Many times what an answer takes.
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def _quiet_log() -> None:
    """Instead of the one for all tests: here nonsense is expected, and logged."""


class Owned:
    """A cache with its socket, and one well-behaved guest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        server = FakeTransfers(folder / "server")
        self.identity: Identity = server.add("a", FILE)
        self.caches = Caches(self.folder, server)
        self.cache: ContentCache = self.caches.__enter__().open()
        self.door = OwnerSocket(self.folder, self.cache, {"echo": lambda arguments: arguments})
        self.guest = GuestContents(self.folder)

    def is_well(self) -> bool:
        """Whether the guest reads what it should."""
        reader = self.guest.open(self.identity)
        data = reader.read(0, len(FILE))
        reader.close()
        return data == FILE

    def close(self) -> None:
        self.guest.close()
        self.door.close()
        self.caches.__exit__(None, None, None)


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owned]:
    owned = Owned(tmp_path_factory.mktemp("strangers"))
    yield owned
    owned.close()


plain = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("ab" * 32) | st.just("a")
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
fields = {
    "op": st.sampled_from(["hello", "join", "open", "read", "close", "call"]) | values,
    "version": st.just(wire.VERSION) | values,
    "handle": st.integers(-1, 3) | values,
    "offset": st.integers(-1, len(FILE) + 1) | st.integers() | values,
    "size": st.integers(0, 2**21) | st.integers() | values,
    "name": st.sampled_from([*sorted(METHODS - {"clear"}), "echo", "close", "__init__"]) | values,
    **dict.fromkeys(("key", "path", "sha256", "mtime_s", "given", "hits", "bytes_served"), values),
}
headers: st.SearchStrategy[Any] = st.fixed_dictionaries({}, optional=fields) | values
arguments = st.dictionaries(st.sampled_from(["keys", "label", "sizes", "sort", "limit"]), values).map(json.dumps)
bodies = st.binary(max_size=50) | arguments.map(str.encode)


def framed(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("!II", len(text), len(body)) + text + body


frames = st.builds(framed, headers, bodies) | st.binary(max_size=60)


@settings(max_examples=150)
@given(joined=st.booleans(), sent=st.lists(frames, min_size=1, max_size=6))
def test_a_stranger_gets_answers_or_the_end_and_the_others_read_on(
    owned: Owned, joined: bool, sent: list[bytes]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.settimeout(PATIENCE_S)
        with wire._address(owned.folder) as address:
            stranger.connect(address)
        if joined:
            stranger.sendall(framed({"op": "join", "version": wire.VERSION, "token": owned.guest._token}, b""))
        try:
            stranger.sendall(b"".join(sent))
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1 << 20):
                continue
        except ConnectionError:
            pass  # it was told to go before it had said it all
    assert owned.is_well()


def test_afterwards_nothing_is_left_of_them(owned: Owned) -> None:
    wait_until(lambda: len(owned.door._connections) <= 1 + len(owned.guest._idle), "the end of all other connections")
    assert len(owned.door._sessions) == 1
    assert len(os.listdir("/proc/self/fd")) < 100

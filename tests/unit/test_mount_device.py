"""The connection to the kernel, with a socket in the kernel's place: no request may end it but the last."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.nodes import inode_of
from runicornfs.content.blocks import BLOCK
from runicornfs.mount import fuse, protocol
from runicornfs.mount.device import Device
from runicornfs.mount.fuse import Callbacks
from runicornfs.mount.operations import StoreOperations
from runicornfs.mount.options import MountOptions
from runicornfs.mount.protocol import IN_HEADER, OUT_HEADER, Init, Opcode
from tests.fake_transfers import Caches, FakeTransfers, content_of
from tests.unit.observing import apply, document, index

# Many times what an answer takes.
PATIENCE_S = 20.0
ANSWER = 1 << 20  # bytes of the longest answer
PATH = "artifacts/model/net/v1/files/w.bin"
NUMBERS = [0, 1, 2, 2**64 - 1, *(inode_of(path) for path in ("artifacts", "artifacts/model/net/latest", PATH))]


@pytest.fixture(autouse=True)
def _quiet_log() -> None:
    """Instead of the one for all tests: here nonsense is expected, and logged."""


def request(opcode: int, body: bytes = b"", unique: int = 7, number: int = 1) -> bytes:
    return IN_HEADER.pack(IN_HEADER.size + len(body), opcode, unique, number, 0, 0, 0, 0, 0) + body


HELLO = request(Opcode.INIT, protocol.INIT_IN.pack(7, 40, 131072, Init.ASYNC_READ | Init.INIT_EXT) + bytes(48))


class Kernel:
    """The other end."""

    def __init__(self, operations: StoreOperations) -> None:
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(PATIENCE_S)
        self.end.send(HELLO)
        self.device = Device(theirs.detach())
        self.end.recv(protocol.REQUEST_SIZE)
        callbacks = Callbacks(operations, MountOptions(xattr=True), fuse.Kernel(), lambda: None)
        self.thread = threading.Thread(target=callbacks.serve, args=[self.device])
        self.thread.start()

    def answers(self) -> bool:
        """Whether a request gets its answer."""
        unique = 2**63 + 1
        self.end.send(request(Opcode.STATFS, unique=unique))
        while True:
            told = self.end.recv(ANSWER)
            size, status, answered = OUT_HEADER.unpack_from(told)
            if answered == unique:
                return (size, status) == (len(told), 0)

    def close(self) -> None:
        self.end.close()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.device.close()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("device")
    server = FakeTransfers(folder / "server")
    sha256 = server.add(PATH, content_of(3 * BLOCK)).sha256
    assert sha256 is not None
    files = [{"path": "w.bin", "size": 3 * BLOCK, "digest": f"sha256:{sha256.hex()}", "modified_at": None}]
    catalog = Catalog.open(folder / "index.db")
    apply(
        catalog,
        document("artifacts/model/net/versions.json", index({1: "ready"}, {"latest": 1})),
        document("artifacts/model/net/v1/metadata.json", {"name": "net", "status": "ready"}),
        document("artifacts/model/net/v1/manifest.json", {"files": files, "references": []}),
    )
    with Caches(folder / "cache", server) as caches:
        operations = StoreOperations(catalog, caches.open(), MountOptions(xattr=True))
        kernel = Kernel(operations)
        yield kernel
        kernel.close()
        operations.close()
    catalog.close()


numbers = st.sampled_from(NUMBERS) | st.integers(0, 2**64 - 1)
small = st.integers(0, 20)
names = st.sampled_from(
    [b"artifacts", b"model", b"net", b"v1", b"latest", b"files", b"w.bin", b"..", b"", b"a/b", b"\xff"]
)
bodies = st.one_of(
    st.binary(max_size=100),
    names.map(lambda name: name + b"\0"),
    st.binary(max_size=30).map(lambda name: name + b"\0"),
    st.builds(
        protocol.READ_IN.pack, small, st.sampled_from([0, 1, BLOCK, 2**63, 2**64 - 1]), st.integers(0, 2 * BLOCK)
    ),
    st.builds(protocol.OPEN_IN.pack, st.integers(0, 3), st.just(0)),
    st.builds(protocol.GETATTR_IN.pack, st.integers(0, 1), st.just(0), small),
    st.builds(protocol.GETXATTR_IN.pack, st.sampled_from([0, 1, 4096]), st.just(0)).map(
        lambda b: b + b"user.runicorn.state\0"
    ),
    st.builds(protocol.BATCH_FORGET_IN.pack, st.integers(0, 2**32 - 1), st.just(0)),
    st.builds(protocol.INTERRUPT_IN.pack, small),
)
messages = st.one_of(
    st.binary(min_size=1, max_size=200),
    st.builds(request, st.sampled_from(sorted(Opcode)) | st.integers(0, 2**32 - 1), bodies, small, numbers),
    st.builds(
        request, st.sampled_from([Opcode.LOOKUP, Opcode.OPEN, Opcode.OPENDIR, Opcode.READ]), bodies, small, numbers
    ),
)


@settings(max_examples=400)
@given(st.lists(messages, min_size=1, max_size=12))
def test_requests_of_random_bytes_end_nothing(kernel: Kernel, sent: list[bytes]) -> None:
    for message in sent:
        kernel.end.send(message)
    assert kernel.answers()

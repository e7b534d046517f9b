"""What a sync costs where little or nothing is new, counted: commands, bytes on the line, files that are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.remote.address import RemoteSource
from runicornfs.remote.identities import Credentials
from runicornfs.workspace.connection import Access, SshFiles
from runicornfs.workspace.opening import Keeping
from runicornfs.workspace.workspace import Workspace
from tests.conftest import MakeRelay
from tests.relay import Relay
from tests.stores import add_many_artifacts, add_many_runs


class Client:
    """A workspace that is connected to a store through a line that counts."""

    def __init__(self, folder: Path, sshd: PrivateSshd, line: Relay, store: Path) -> None:
        config = folder / "ssh_config"
        config.touch()
        self.cache_dir = folder / "cache"
        self.line = line
        self.workspace = Workspace(Keeping(self.cache_dir, 1 << 30), SshFiles(config, sshd.known_hosts))
        source = RemoteSource("127.0.0.1", str(store), sshd.user, line.port)
        self.store = self.workspace.connection.connect(Access("store", source, Credentials((sshd.identity,))))

    def sync(self) -> tuple[int, int, int]:
        """Commands, and bytes up and down, that it took."""
        assert self.store.server is not None
        before, commands = self.line.stats(), self.store.server.counters.execs
        run = self.workspace.sync()
        run.wait(run.finished, 30)
        after = self.line.stats()
        return self.store.server.counters.execs - commands, after.up - before.up, after.down - before.down

    def files(self) -> dict[str, tuple[int, int, int]]:
        """Inode, time and size of everything in the cache folder, but for what processes share as memory."""
        found = {}
        for path in self.cache_dir.rglob("*"):
            if not path.name.endswith("-shm"):
                status = path.stat()
                found[str(path.relative_to(self.cache_dir))] = (status.st_ino, status.st_mtime_ns, status.st_size)
        return found


@pytest.fixture
def client(tmp_path: Path, sshd: PrivateSshd, relay: MakeRelay, store_writer: StoreWriter) -> Client:
    add_many_artifacts(store_writer, 20, 2)
    add_many_runs(store_writer, 20)
    client = Client(tmp_path, sshd, relay(sshd), store_writer.root)
    client.sync()
    return client


@pytest.fixture(autouse=True)
def _closed(client: Client) -> object:
    yield
    client.workspace.close()


def test_with_nothing_new_it_is_one_command_and_no_file_is_written(client: Client) -> None:
    before = client.files()
    commands, up, down = client.sync()
    assert commands == 1
    assert client.files() == before
    assert up < 14_600, "the program, and a token for each known path"
    assert down < 2_000


def test_with_one_new_version_only_its_records_travel_and_are_written(
    client: Client, store_writer: StoreWriter
) -> None:
    before = client.files()
    store_writer.add_version("model", "model-007", {"weights.bin": b"new"})
    commands, _, down = client.sync()
    assert commands == 1
    assert down < 5_000
    after = client.files()
    written = {path for path in after if before.get(path) != after[path] and path.endswith(".json")}
    folder = next(path for path in after if path.endswith("/metadata"))
    assert written == {
        f"{folder}/artifacts/model/model-007/{name}"
        for name in ("versions.json", "v3/metadata.json", "v3/manifest.json")
    }

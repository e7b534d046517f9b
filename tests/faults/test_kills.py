"""A daemon is killed again and again, whatever it is doing, and a stranger looks at what it leaves.

The moments are random, the seeds are not: they choose what is done and for how long.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.cacheverifier import verify_cache
from tests.mounts import PATIENCE_S, Mounted, login_options, require_fuse, source_of
from tests.waiting import wait_until

KILLS = 6
# The contents have three times the room, so that a reader evicts what another has just read.
CACHE_SIZE = "8MiB"
SIZES = (3_000_000, 1_000_001, 400_000, 131_072, 5_000, 1)
DONE_TO_THE_CACHE = ("cache/clear", "cache/cleanup", "cache/verify", "sync", "sync?full=true", "download/model0/v1")


class Killing:
    """One store, one cache and one mount point; daemons come and go."""

    def __init__(self, folder: Path, store: StoreWriter, sshd: PrivateSshd, seed: int) -> None:
        self.folder = folder
        self.store = store
        self.sshd = sshd
        self.choose = random.Random(seed)
        self.mountpoint = folder / "mount"
        self.contents: dict[str, bytes] = {}
        self.expected = folder / "expected"
        for number in range(5):
            self._add("model", f"model{number}", {f"{size}.bin": self.choose.randbytes(size) for size in SIZES})
        self._add("dataset", "edited", {"a.bin": b"a"})
        self._add("dataset", "edited", {"b.bin": b"b"})

    def daemon(self, name: str) -> Mounted:
        folder = self.folder / name
        folder.mkdir()
        options = ["--cache-dir", str(self.folder / "cache"), "--cache-size", CACHE_SIZE, *login_options(self.sshd)]
        return Mounted(folder, source_of(self.sshd, self.store.root), *options, mountpoint=self.mountpoint)

    @property
    def cache(self) -> Path | None:
        return next((self.folder / "cache").glob("*"), None)

    def verify(self, at_rest: bool = False) -> None:
        if self.cache is not None:
            verify_cache(self.cache, self.contents, at_rest)

    def untouched(self) -> dict[str, bytes]:
        """Every file of the store that nobody asked to change."""
        found = {}
        for path in self.store.root.rglob("*"):
            if path.is_file() and path.name != ".lock" and "edited" not in path.parts:
                found[str(path.relative_to(self.store.root))] = path.read_bytes()
        return found

    def edited(self) -> dict[str, int]:
        """The aliases of the artifact that was edited; its records must be readable."""
        folder = self.store.folder("dataset", "edited")
        for version in (1, 2):
            json.loads((folder / f"v{version}/metadata.json").read_text())
        return dict(json.loads((folder / "versions.json").read_text())["aliases"])

    @contextmanager
    def busy(self, mounted: Mounted) -> Iterator[None]:
        """Programs read, and somebody asks for all that can be asked for."""
        readers = [self._reader() for _ in range(self.choose.choice([1, 4]))]
        asker = threading.Thread(target=self._ask, args=(mounted.api, random.Random(self.choose.random())))
        asker.start()
        yield
        asker.join(PATIENCE_S)
        assert not asker.is_alive(), "a call of the API has not ended with its daemon"
        for reader in readers:
            said, _ = reader.communicate(timeout=PATIENCE_S)
            assert reader.returncode == 0, said

    def _add(self, type_: str, name: str, files: dict[str, bytes]) -> None:
        version = self.store.add_version(type_, name, files)
        for path, content in files.items():
            self.contents[hashlib.sha256(content).hexdigest()] = content
            file = self.expected / f"artifacts/{type_}/{name}/v{version}/files/{path}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def _reader(self) -> subprocess.Popen[str]:
        arguments = [str(self.expected), str(self.mountpoint), str(self.choose.randrange(1000))]
        command = [sys.executable, "-m", "tests.reading", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def _ask(self, api: str, choose: random.Random) -> None:
        """Until there is nobody who answers."""
        with httpx.Client(base_url=api, trust_env=False, timeout=PATIENCE_S) as client:
            while True:
                try:
                    if choose.random() < 0.5:
                        client.post(f"/api/remote/{choose.choice(DONE_TO_THE_CACHE)}", json={"overwrite": True})
                    else:
                        version = choose.choice([1, 2])
                        client.post(f"/api/remote/artifacts/edited/v{version}/alias", json={"alias": "killed"})
                        client.post(f"/api/remote/artifacts/edited/v{version}/tags", json={"tags": [str(version)]})
                except httpx.TransportError:
                    return
                time.sleep(choose.random() / 10)


@pytest.mark.promise("C4")
@pytest.mark.promise("E2")
@pytest.mark.promise("W2")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_daemon_that_is_killed_at_any_moment_leaves_nothing_wrong(
    tmp_path: Path, store_writer: StoreWriter, sshd: PrivateSshd, seed: int
) -> None:
    require_fuse()
    killing = Killing(tmp_path, store_writer, sshd, seed)
    before = killing.untouched()
    choose = killing.choose
    with ExitStack() as stack:
        for number in range(KILLS):
            mounted = killing.daemon(f"killed{number}")
            stack.callback(mounted.close)
            mounted.expect_log(".*")  # what a program says that is ended in the middle of everything
            moment = choose.choice(["start", "work", "work", "end"])
            if moment == "start":
                time.sleep(choose.random())
                mounted.kill()
            else:
                mounted.wait()  # the mount that the one before has left is taken over
                with killing.busy(mounted):
                    time.sleep(choose.random())
                    if moment == "end":
                        mounted.process.send_signal(signal.SIGTERM)
                        time.sleep(choose.random() / 5)
                    mounted.kill()
            killing.verify()
            assert killing.untouched() == before
            assert killing.edited().get("killed") in (None, 1, 2)
        last = killing.daemon("last")
        stack.callback(last.close)
        last.wait()
        client = stack.enter_context(httpx.Client(base_url=last.api, trust_env=False, timeout=PATIENCE_S))
        wait_until(lambda: not client.get("/api/remote/downloads").json()["active_count"], "the downloads to end")
        assert client.post("/api/remote/artifacts/edited/v1/alias", json={"alias": "killed"}).is_success
        last.stop()
    killing.verify(at_rest=True)
    assert killing.edited()["killed"] == 1
    assert not list(store_writer.root.rglob(".runicornfs-*"))

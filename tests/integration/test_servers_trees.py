"""Whichever way a store is synced, and whatever is written meanwhile, the catalog shows the same true state."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runicornfs.demo.samplestore import StoreWriter, write_sample_store
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.remote.server import Server
from tests.remotes import server_at
from tests.scans import SyncedCatalog, synced_catalog
from tests.stores import file_names, file_trees
from tests.waiting import wait_until

ROUNDS_S = 4.0  # how long an SDK writes while we sync
SAVES = """
import sys
from pathlib import Path
from runicornfs.demo.samplestore import StoreWriter
writer = StoreWriter(Path(sys.argv[1]))
for number in range(100_000):
    writer.add_version("model", "net", {"w.bin": b"%d" % number})
    if number % 7 == 0:
        writer.set_alias("model", "net", "best", number + 1)
"""


@pytest.fixture(scope="module")
def sftp_only() -> Iterator[PrivateSshd]:
    with PrivateSshd(config_lines=["ForceCommand internal-sftp"]) as sshd:
        yield sshd


@contextmanager
def both_ways(
    sshd: PrivateSshd, sftp_only: PrivateSshd, root: Path, folder: Path
) -> Iterator[tuple[SyncedCatalog, SyncedCatalog]]:
    """The same store, synced by the helper and over SFTP."""
    with (
        server_at(sshd, root) as server,
        server_at(sftp_only, root) as other,
        synced_catalog(server, folder / "helper") as by_helper,
        synced_catalog(other, folder / "sftp") as by_sftp,
    ):
        yield by_helper, by_sftp
        assert server.runs_helper is True
        assert other.runs_helper is False


def test_the_sdks_own_store(sshd: PrivateSshd, sftp_only: PrivateSshd, sample_store: Path, tmp_path: Path) -> None:
    with both_ways(sshd, sftp_only, sample_store, tmp_path) as (by_helper, by_sftp):
        assert by_helper.sync() == by_sftp.sync()
        assert by_helper.tree() == by_sftp.tree()
        assert len(by_sftp.tree()) > 100


def test_a_store_that_changes_between_syncs(
    sshd: PrivateSshd, sftp_only: PrivateSshd, store_writer: StoreWriter, tmp_path: Path
) -> None:
    writer = write_sample_store(store_writer.root)
    with both_ways(sshd, sftp_only, writer.root, tmp_path) as (by_helper, by_sftp):
        for step in range(5):
            if step == 1:
                writer.add_version("model", "net", {"w.bin": b"new"})
            elif step == 2:
                writer.set_alias("model", "net", "best", 1)
                writer.add_run("vision", "train", summary={"loss": 0.1})
            elif step == 3:
                writer.soft_delete("model", "net", 1)
            elif step == 4:
                writer.delete_permanently("model", "net", 1)
                shutil.rmtree(next(writer.root.glob("*/*/runs/*")))
            by_helper.sync()
            by_sftp.sync()
            assert by_helper.tree() == by_sftp.tree()


@given(
    names=st.lists(file_names(), min_size=1, max_size=3, unique=True),
    files=file_trees(4),
    run_files=file_trees(4),
    aliases=st.lists(file_names(), max_size=2),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_stores_with_any_names(
    sshd: PrivateSshd,
    sftp_only: PrivateSshd,
    names: list[str],
    files: dict[str, bytes],
    run_files: dict[str, bytes],
    aliases: list[str],
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        writer = StoreWriter(folder / "store")
        for name in names:
            writer.add_version("model", name, files)
            for alias in aliases:
                writer.set_alias("model", name, alias, 1)
        run = writer.run_folder(writer.add_run("p", "e"))
        for path, content in run_files.items():
            target = run / "media" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        with both_ways(sshd, sftp_only, writer.root, folder) as (by_helper, by_sftp):
            assert by_helper.sync() == by_sftp.sync()
            assert by_helper.tree() == by_sftp.tree()


@pytest.fixture(params=["helper", "sftp"])
def server(
    request: pytest.FixtureRequest, sshd: PrivateSshd, sftp_only: PrivateSshd, store_writer: StoreWriter
) -> Iterator[Server]:
    with server_at(sshd if request.param == "helper" else sftp_only, store_writer.root) as server:
        yield server


@pytest.mark.promise("S1")
def test_while_an_sdk_saves_versions_every_sync_shows_a_whole_state(
    server: Server, store_writer: StoreWriter, tmp_path: Path
) -> None:
    """All versions that an index names are shown with their records; every alias leads somewhere."""
    folder = "artifacts/model/net"
    saving = subprocess.Popen([sys.executable, "-c", SAVES, str(store_writer.root)])
    try:
        index = store_writer.root / folder / "versions.json"
        wait_until(index.exists, "the first version")
        with synced_catalog(server, tmp_path) as synced:
            counts: list[int] = []
            deadline = time.monotonic() + ROUNDS_S
            while time.monotonic() < deadline or len(counts) < 3:
                problems = synced.sync()
                assert problems == []
                tree = synced.tree()
                document = tree[f"{folder}/versions.json"][-1]
                assert isinstance(document, bytes)
                named = {f"v{version['version']}" for version in json.loads(document)["versions"]}
                shown = {name for name in synced.names(folder) if name.startswith("v") and name != "versions.json"}
                assert shown == named
                for version in shown:
                    assert tree[f"{folder}/{version}/manifest.json"][-1] is not None
                    assert tree[f"{folder}/{version}/files/w.bin"]
                assert synced.target(f"{folder}/latest") == f"v{len(named)}"
                counts.append(len(named))
            assert counts == sorted(counts)
            assert counts[-1] > counts[0]
            assert saving.poll() is None
            os.kill(saving.pid, signal.SIGSTOP)  # in the middle of whatever it does
            synced.sync()
    finally:
        saving.kill()
        saving.wait(30)

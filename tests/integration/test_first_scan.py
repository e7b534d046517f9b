"""How a store on a server is found and first read: by one and the same command there."""

from __future__ import annotations

from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import StoreUnusable
from runicornfs.remote.events import Event, Gone
from runicornfs.store.observed import Observed
from runicornfs.workspace.firstscan import ServerScan
from tests.remotes import server_at


def seen(events: list[Event]) -> list[str]:
    return sorted(event.path for event in events if isinstance(event, Observed))


def test_the_first_sync_goes_on_with_the_scan_that_found_the_store(sshd: PrivateSshd, sample_store: Path) -> None:
    with server_at(sshd, sample_store) as server:
        expected = list(ServerScan(server)(()))
        before = server.counters.execs
        scan = ServerScan(server)
        scan.begin()
        assert list(scan(iter(()))) == expected
        assert server.counters.execs == before + 1
        assert seen(list(scan(()))) == seen(expected), "the next one is a scan like any other"
        assert server.counters.execs == before + 2


def test_whoever_knows_something_already_scans_anew(sshd: PrivateSshd, sample_store: Path) -> None:
    with server_at(sshd, sample_store) as server:
        scan = ServerScan(server)
        scan.begin()
        assert Gone("runs/old") in list(scan([(b"runs/old", b"token")]))


def test_a_store_of_runs_alone_is_a_store(sshd: PrivateSshd, store_writer: StoreWriter) -> None:
    store_writer.add_run("vision", "train")
    (store_writer.root / "artifacts/.dedup").rmdir()
    (store_writer.root / "artifacts").rmdir()
    with server_at(sshd, store_writer.root) as server:
        scan = ServerScan(server)
        scan.begin()
        assert any(path.endswith("meta.json") for path in seen(list(scan(()))))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [([], "there is no folder"), (["store"], "is no Runicorn store"), (["store", "store/artifacts", "store/x"], None)],
)
def test_what_is_no_store_is_said_at_once(
    sshd: PrivateSshd, tmp_path: Path, names: list[str], sentence: str | None
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    with server_at(sshd, tmp_path / "store") as server:
        scan = ServerScan(server)
        if sentence is None:
            scan.begin()
            scan.close()
            scan.close()
        else:
            with pytest.raises(StoreUnusable, match=sentence):
                scan.begin()

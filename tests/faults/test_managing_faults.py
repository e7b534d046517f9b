"""A line that breaks while something is changed on the server: nobody is told what is not known, and what the server
did after all shows as soon as the line is back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import OutcomeUnknown, RunicornFSError, Unreachable
from runicornfs.store import edits
from tests.conftest import MakeRelay
from tests.managing import SFTP_ONLY, Managed, managed
from tests.relay import Relay
from tests.waiting import wait_until

FAR = 100_000_000  # bytes: a cut that does not come


@pytest.fixture
def store(store_writer: StoreWriter) -> StoreWriter:
    for number in range(2):
        store_writer.add_version("model", "net", {"w.bin": b"%d" % number})
    return store_writer


@pytest.fixture(scope="module")
def sftp_only() -> Iterator[PrivateSshd]:
    with PrivateSshd(config_lines=SFTP_ONLY) as server:
        yield server


@pytest.fixture(params=["program", "sftp"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def line(way: str, sshd: PrivateSshd, sftp_only: PrivateSshd, relay: MakeRelay) -> Relay:
    return relay(sftp_only if way == "sftp" else sshd)


@pytest.fixture
def net(
    way: str,
    line: Relay,
    store: StoreWriter,
    tmp_path: Path,
    sshd: PrivateSshd,
    sftp_only: PrivateSshd,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Managed]:
    """Behind `line`. Takes the log: a lost line is told there."""
    server = sftp_only if way == "sftp" else sshd
    with managed(way, tmp_path / "catalog", store.root, server, line.port) as found:
        yield found


def outcome(change: Callable[[], object]) -> RunicornFSError | None:
    try:
        change()
    except RunicornFSError as error:
        return error
    return None


def aliases_there(store: StoreWriter) -> set[str]:
    return set(store.index("model", "net")["aliases"])


@pytest.mark.timeout(120)
@pytest.mark.promise("W6")
def test_a_change_that_is_cut_anywhere_is_told_as_it_is_and_seen_as_it_is(
    way: str, net: Managed, line: Relay, store: StoreWriter
) -> None:
    kinds = set()
    counts = range(40, 900, 120) if way == "program" else range(60, 2600, 360)
    for number, count in enumerate(counts):
        alias = f"a{number}"
        line.drop_after(count)
        error = outcome(lambda alias=alias: net.edit(edits.SET_ALIAS, 1, alias=alias))  # type: ignore[misc]
        line.drop_after(FAR)
        made = alias in aliases_there(store)
        if not isinstance(error, OutcomeUnknown):
            assert made == (error is None), f"after {count} bytes: {error}"
            assert error is None or isinstance(error, Unreachable)
        wait_until(lambda made=made, alias=alias: (alias in net.aliases()) == made, "the catalog to follow")  # type: ignore[misc]
        wait_until(net.is_connected, "the line to be back")
        kinds.add(type(error))
    assert OutcomeUnknown in kinds


def test_a_change_that_nobody_waits_for_any_more_is_not_made_behind_their_back(
    own_sshd: PrivateSshd, relay: MakeRelay, store: StoreWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK holds its lock while the line breaks: when the lock is free, whoever asked has been told long ago."""
    line = relay(own_sshd)
    errors: list[RunicornFSError | None] = []
    with managed("program", tmp_path / "catalog", store.root, own_sshd, line.port) as net:
        lock = os.open(store.folder("model", "net") / ".lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        asking = threading.Thread(target=lambda: errors.append(outcome(lambda: net.edit(edits.DELETE_FOR_GOOD, 1))))
        asking.start()
        wait_until(lambda: is_open(store.folder("model", "net"), own_sshd), "the program to wait for the lock")
        line.drop()
        asking.join(30)
        os.close(lock)
        wait_until(lambda: not is_open(store.folder("model", "net"), own_sshd), "the program to end")
    (error,) = errors
    assert isinstance(error, OutcomeUnknown)
    assert "whether the change was made is not known" in str(error)
    assert store.version_folder("model", "net", 1).is_dir()


def is_open(folder: Path, sshd: PrivateSshd) -> bool:
    """Whether a program that runs for a client of this server has the folder open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            connection = re.search(rb"SSH_CONNECTION=(.*?)\0", (process / "environ").read_bytes())
            if connection is None or not connection[1].endswith(b" %d" % sshd.port):
                continue
            if any(opened.readlink() == folder for opened in (process / "fd").iterdir()):
                return True
    return False

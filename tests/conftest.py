"""What tests are given: private servers, stores, lines with faults and real mounts. All of it ends with its test."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.mounts import Mounted, login_options, require_fuse, source_of
from tests.relay import Relay

REFERENCE_STORE = Path(__file__).parent / "data" / "runicorn-0.4.1-store.tar.gz"

# How long an example takes says something about the machine, nothing about the code.
settings.register_profile("runicornfs", deadline=None, print_blob=True)
settings.load_profile("runicornfs")


class MakeRelay(Protocol):
    """The fixture `relay`."""

    def __call__(self, sshd: PrivateSshd, *, rtt_ms: float = 0, mbit: float = 0) -> Relay: ...


class MountStore(Protocol):
    """The fixture `mount_store`."""

    def __call__(
        self,
        root: Path,
        *options: str,
        sshd: PrivateSshd | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
        mountpoint: Path | None = None,
        wait: bool = True,
    ) -> Mounted: ...


class MountLocal(Protocol):
    """The fixture `mount_local`."""

    def __call__(self, root: Path, *options: str, wait: bool = True) -> Mounted: ...


class _Watch(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def _quiet_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test in which our code logs a warning or worse. A test that takes `caplog` looks after its log itself."""
    watch = _Watch()
    logging.getLogger("runicornfs").addHandler(watch)
    yield
    logging.getLogger("runicornfs").removeHandler(watch)
    if "caplog" not in request.fixturenames:
        assert not watch.seen, "unexpected in the log: " + "; ".join(watch.seen)


@pytest.fixture(scope="session")
def sshd() -> Iterator[PrivateSshd]:
    """One SSH server for all tests. Leave it running, and count only what your own connections do."""
    with PrivateSshd() as server:
        yield server


@pytest.fixture
def own_sshd() -> Iterator[PrivateSshd]:
    """An SSH server for this test alone, to stop, kill and start again."""
    with PrivateSshd() as server:
        yield server


@pytest.fixture
def relay() -> Iterator[MakeRelay]:
    """Makes a line before a server, which `known_hosts` trusts too: `line = relay(sshd, rtt_ms=50)`."""
    with ExitStack() as stack:

        def make(sshd: PrivateSshd, *, rtt_ms: float = 0, mbit: float = 0) -> Relay:
            line = stack.enter_context(Relay(sshd.port, rtt_ms=rtt_ms, mbit=mbit))
            sshd.trust(line.port)
            return line

        yield make


@pytest.fixture(scope="session")
def _reference_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run(["tar", "xzf", str(REFERENCE_STORE), "-C", str(folder)], check=True)
    return folder / "runicorn"


@pytest.fixture
def sample_store(_reference_store: Path, tmp_path: Path) -> Path:
    """The root of a store that the SDK itself (0.4.1) wrote, this test's own copy."""
    root = tmp_path / "store" / "runicorn"
    shutil.copytree(_reference_store, root, symlinks=True)
    return root


@pytest.fixture
def store_writer(tmp_path: Path) -> StoreWriter:
    """Writes an empty store of this test's own, at `store_writer.root`."""
    return StoreWriter(tmp_path / "server" / "runicorn")


def _time_limit(request: pytest.FixtureRequest) -> float:
    """The seconds that pytest-timeout gives this test."""
    marker = request.node.get_closest_marker("timeout")
    return float(marker.args[0] if marker else request.config.getoption("timeout") or request.config.getini("timeout"))


@pytest.fixture
def _mount(request: pytest.FixtureRequest, tmp_path: Path, relay: MakeRelay) -> Iterator[Callable[..., Mounted]]:
    """Starts mounts in folders of their own; at the end all must be in order. Lines outlive the mounts behind them."""
    require_fuse()
    with ExitStack() as stack:
        folders = (tmp_path / f"mount{number}" for number in range(1000))

        def mount(source: str, *options: str, mountpoint: Path | None = None, wait: bool = True) -> Mounted:
            folder = next(folders)
            folder.mkdir()
            mounted = Mounted(folder, source, *options, mountpoint=mountpoint)
            stack.callback(mounted.close)
            watchdog = threading.Timer(_time_limit(request), mounted.give_up)
            watchdog.start()
            stack.callback(watchdog.cancel)
            if wait:
                mounted.wait()
            return mounted

        yield mount


@pytest.fixture
def mount_store(sshd: PrivateSshd, _mount: Callable[..., Mounted]) -> MountStore:
    """Mounts stores through SSH: `mount_store(root, "--cache-size", "1MiB")`.

    sshd: another server than the shared one. port: that of a relay before it. mountpoint: another than a new one.
    wait: False where it may as well refuse to start.
    """
    shared = sshd

    def mount(
        root: Path,
        *options: str,
        sshd: PrivateSshd | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
        mountpoint: Path | None = None,
        wait: bool = True,
    ) -> Mounted:
        server = sshd or shared
        source = source_of(server, root, port, host)
        return _mount(source, *login_options(server), *options, mountpoint=mountpoint, wait=wait)

    return mount


@pytest.fixture
def mount_local(_mount: Callable[..., Mounted]) -> MountLocal:
    """Mounts stores of this machine: `mount_local(root)`; with `wait=False` it may as well refuse to start."""

    def mount(root: Path, *options: str, wait: bool = True) -> Mounted:
        return _mount(str(root), *options, wait=wait)

    return mount


@pytest.fixture
def mounted(mount_store: MountStore, sample_store: Path) -> Mounted:
    """The sample store, mounted through SSH by a process of its own."""
    return mount_store(sample_store)

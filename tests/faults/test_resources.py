"""What a daemon takes of the machine, and what happens where it gets no more: descriptors, memory, processes."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MountStore
from tests.mounts import Mounted
from tests.waiting import wait_until

MIB = 1 << 20
READERS = 64
# All transfers together have 64 MiB in flight at most; what is read for the kernel at the same time is 1 MiB a reader.
IN_FLIGHT = 64 * MIB + READERS * MIB
FILES = "artifacts/model/net/v1/files"


def descriptors(mounted: Mounted) -> int:
    return len(os.listdir(f"/proc/{mounted.process.pid}/fd"))


def most_memory(mounted: Mounted) -> int:
    """The most that it ever had at one time, in bytes (proc(5))."""
    status = Path(f"/proc/{mounted.process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@contextmanager
def few_descriptors(mounted: Mounted, more: int) -> Iterator[None]:
    """The daemon may open so many more than it has."""
    pid = mounted.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(mounted) + more, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def failure(read: Callable[[], object]) -> int | None:
    try:
        read()
    except OSError as error:
        return error.errno
    return None


def answers(mounted: Mounted) -> bool:
    try:
        return httpx.get(f"{mounted.api}/api/health", trust_env=False, timeout=1).is_success
    except httpx.TransportError:
        return False


@pytest.mark.promise("X3")
def test_without_descriptors_reads_fail_with_a_word_and_everything_comes_back(
    store_writer: StoreWriter, mount_store: MountStore
) -> None:
    files = {f"{number}.bin": os.urandom(200_000) for number in range(60)}
    store_writer.add_version("model", "net", files)
    mounted = mount_store(store_writer.root)
    mounted.expect_log("Too many open files|no descriptors left")
    before = descriptors(mounted)
    folder = mounted.mountpoint / FILES
    address = urlsplit(mounted.api)
    with ExitStack() as stack, few_descriptors(mounted, 20):
        opened = [stack.enter_context(open(folder / name, "rb", buffering=0)) for name in files]
        failures = {failure(lambda: os.pread(file.fileno(), 10, 0)) for file in opened}  # noqa: B023
        assert failures == {None, errno.EMFILE}
        assert len(os.listdir(folder)) == len(files)
        for _ in range(30):
            stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
        assert not answers(mounted)
        wait_until(lambda: "no descriptors left" in mounted.log(), "a word in the log")
        assert len(os.listdir(folder)) == len(files)
    assert {name: (folder / name).read_bytes() for name in files} == files
    wait_until(lambda: answers(mounted), "the API to answer again")
    wait_until(lambda: descriptors(mounted) <= before + 3, "all descriptors to be given back")
    assert mounted.log().count("no descriptors left") == 1, "asyncio would write thousands of tracebacks"


def test_memory_is_bounded_however_many_read(store_writer: StoreWriter, mount_store: MountStore) -> None:
    piece = os.urandom(MIB)
    files = {f"{number}.bin": (piece[number:] + piece[:number]) * 2 for number in range(READERS)}
    shared = piece * 8
    store_writer.add_version("model", "net", files | {"shared.bin": shared})
    store_writer.add_version("model", "small", {f"{number}.bin": b"%d" % number for number in range(1000)})
    mounted = mount_store(store_writer.root)
    before = most_memory(mounted)
    folder = mounted.mountpoint / FILES
    with ThreadPoolExecutor(READERS) as readers:
        assert all(readers.map(lambda name: (folder / name).read_bytes() == files[name], files))
        assert all(readers.map(lambda _: (folder / "shared.bin").read_bytes() == shared, range(READERS)))
    small = mounted.mountpoint / "artifacts/model/small/v1/files"
    with ExitStack() as stack:
        opened = [stack.enter_context(open(path, "rb", buffering=0)) for path in small.iterdir()]
        assert all(file.read(1) for file in opened[::20])
        assert most_memory(mounted) < before + IN_FLIGHT
    wait_until(lambda: descriptors(mounted) < 100, "the handles to be given back")


def programs(mounted: Mounted) -> dict[int, str]:
    """What it has started and is still there, by the command; threads start programs, too."""
    found = {}
    for task in os.listdir(f"/proc/{mounted.process.pid}/task"):
        for child in Path(f"/proc/{mounted.process.pid}/task/{task}/children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().partition("\0")[0]
    return found


def test_a_daemon_that_is_killed_takes_what_it_has_started_with_it(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd
) -> None:
    """None of it has the lock or the mount, which would outlive the daemon with it."""
    store_writer.add_version("model", "net", {"a.bin": os.urandom(32 * MIB)})
    folder = Path(mount_store(store_writer.root).folder)
    jump = f"ssh -F none -i {sshd.identity} -o UserKnownHostsFile={sshd.known_hosts} -p {sshd.port} -W %h:%p 127.0.0.1"
    config = folder / "jump"
    config.write_text(f"Host 127.0.0.1\n  ProxyCommand {jump}\n")
    mounted = mount_store(store_writer.root, "--transport", "ssh", "--ssh-config", str(config))
    assert len((mounted.mountpoint / FILES / "a.bin").read_bytes()) == 32 * MIB
    wait_until(lambda: len(programs(mounted)) >= 2, "a jump and an ssh for large transfers")
    started = programs(mounted)
    for pid in started:
        opened = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        assert not [path for path in opened if str(mounted.cache_dir) in path or path == "/dev/fuse"]
    mounted.kill()
    wait_until(lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()], f"the end of {started}")

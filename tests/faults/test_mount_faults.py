"""The server goes away, the daemon is killed, the server's bytes are not the manifest's."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.cacheverifier import recorded_bytes
from tests.conftest import MakeRelay, MountStore
from tests.waiting import wait_until

MIB = 1024 * 1024
NET = "artifacts/model/net"
LOST = "the connection to 127.0.0.1 "


@pytest.mark.promise("A1")
@pytest.mark.promise("A2")
def test_with_the_server_away_cached_files_read_and_others_fail(
    store_writer: StoreWriter, own_sshd: PrivateSshd, mount_store: MountStore
) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a" * MIB, "b.bin": b"b" * MIB})
    mounted = mount_store(store_writer.root, sshd=own_sshd)
    mounted.expect_log(LOST)
    folder = mounted.mountpoint / NET / "v1/files"
    assert (folder / "a.bin").read_bytes() == b"a" * MIB
    own_sshd.kill()
    assert (folder / "a.bin").read_bytes() == b"a" * MIB
    with pytest.raises(OSError, match="Network is unreachable") as caught:
        (folder / "b.bin").read_bytes()
    assert caught.value.errno == errno.ENETUNREACH
    listing = subprocess.run(["ls", "-lR", mounted.mountpoint], capture_output=True, text=True, check=True)
    assert "b.bin" in listing.stdout
    assert "reconnecting" in mounted.run("status").stdout


@pytest.mark.promise("A5")
def test_a_server_that_comes_back_is_used_again(
    store_writer: StoreWriter, own_sshd: PrivateSshd, mount_store: MountStore
) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a" * MIB})
    mounted = mount_store(store_writer.root, sshd=own_sshd)
    mounted.expect_log(LOST)
    path = mounted.mountpoint / NET / "v1/files/a.bin"
    own_sshd.stop()
    with pytest.raises(OSError, match="Network is unreachable"):
        path.read_bytes()
    own_sshd.start()

    def reads() -> bool:
        try:
            return path.read_bytes() == b"a" * MIB
        except OSError:
            return False

    wait_until(reads, "the server to be noticed again")


@pytest.mark.parametrize("transport", ["paramiko", "ssh"])
@pytest.mark.promise("A4")
def test_a_line_that_is_cut_in_the_middle_of_a_file_is_not_noticed_by_its_reader(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay, transport: str
) -> None:
    content = os.urandom(24 * MIB)
    store_writer.add_version("model", "net", {"a.bin": content})
    line = relay(sshd)
    mounted = mount_store(store_writer.root, "--transport", transport, port=line.port)
    mounted.expect_log(LOST)
    before = line.stats().down
    line.drop_after(8 * MIB)
    assert (mounted.mountpoint / NET / "v1/files/a.bin").read_bytes() == content
    assert line.stats().connections == 2 or (transport == "ssh" and line.stats().connections <= 4)
    # What was under way when the line broke may come again, but not what had arrived.
    assert line.stats().down - before < 24 * MIB + 12 * MIB


@pytest.mark.timeout(120)
@pytest.mark.promise("A3")
def test_a_line_that_stalls_ends_the_read_within_the_time_out(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a" * MIB})
    line = relay(sshd)
    mounted = mount_store(store_writer.root, port=line.port)
    mounted.expect_log(LOST)
    line.stall()
    with pytest.raises(OSError) as caught:  # noqa: PT011 -- which of the two depends on who noticed first
        (mounted.mountpoint / NET / "v1/files/a.bin").read_bytes()
    assert caught.value.errno in (errno.ETIMEDOUT, errno.ENETUNREACH)
    assert os.listdir(mounted.mountpoint / NET / "v1/files") == ["a.bin"]
    line.resume()


@pytest.mark.promise("A7")
def test_a_reader_that_is_killed_while_it_waits_dies(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a" * MIB})
    line = relay(sshd)
    mounted = mount_store(store_writer.root, port=line.port)
    mounted.expect_log(LOST)
    line.stall()
    with subprocess.Popen(["cat", mounted.mountpoint / NET / "v1/files/a.bin"], stdout=subprocess.DEVNULL) as reader:
        wait_until(lambda: waits_in_fuse(reader.pid), "the reader to wait in the mount")
        reader.kill()
        reader.wait(10)
    line.resume()


def waits_in_fuse(pid: int) -> bool:
    """The kernel function in which a process sleeps, as proc(5) tells it."""
    return Path(f"/proc/{pid}/wchan").read_text() in ("request_wait_answer", "folio_wait_bit_common")


def test_a_daemon_killed_in_the_middle_of_a_read_loses_nothing(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    content = os.urandom(32 * MIB)
    store_writer.add_version("model", "net", {"a.bin": content})
    line = relay(sshd, mbit=200)
    first = mount_store(store_writer.root, port=line.port)
    (folder,) = first.cache_dir.iterdir()
    path = f"{NET}/v1/files/a.bin"

    def read() -> None:
        with contextlib.suppress(OSError):
            (first.mountpoint / path).read_bytes()

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: recorded_bytes(folder) > 16 * MIB, "half of the file")
    first.kill()
    reader.join()
    before = line.stats().down
    again = mount_store(store_writer.root, "--cache-dir", str(first.cache_dir), port=line.port)
    assert (again.mountpoint / path).read_bytes() == content
    assert line.stats().down - before < 24 * MIB, "the first half was in the cache"


@pytest.mark.promise("E2")
def test_a_stale_mount_is_taken_over(store_writer: StoreWriter, mount_store: MountStore) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a"})
    first = mount_store(store_writer.root)
    first.kill()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(first.mountpoint)
    again = mount_store(store_writer.root, "--cache-dir", str(first.cache_dir), mountpoint=first.mountpoint)
    assert (again.mountpoint / NET / "v1/files/a.bin").read_bytes() == b"a"


@pytest.mark.promise("R4")
@pytest.mark.promise("R5")
def test_bytes_that_do_not_match_their_sha256_are_never_kept(
    store_writer: StoreWriter, mount_store: MountStore
) -> None:
    content = os.urandom(3 * MIB)
    store_writer.add_version("model", "net", {"a.bin": content})
    there = store_writer.version_folder("model", "net", 1) / "files/a.bin"
    mounted = mount_store(store_writer.root)
    mounted.expect_log("sha256|digest|mismatch")
    damaged = bytearray(content)
    damaged[MIB] ^= 1
    there.write_bytes(damaged)
    path = mounted.mountpoint / NET / "v1/files/a.bin"
    with pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()
    with pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()
    there.write_bytes(content)
    mounted.run("sync")
    wait_until(lambda: readable(path) == content, "the mended file")


def readable(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


@pytest.mark.promise("R2")
def test_a_file_of_another_size_than_its_manifest_is_stale(store_writer: StoreWriter, mount_store: MountStore) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a" * 1000})
    (store_writer.version_folder("model", "net", 1) / "files/a.bin").write_bytes(b"a" * 999)
    mounted = mount_store(store_writer.root)
    with pytest.raises(OSError, match="Stale file handle"):
        (mounted.mountpoint / NET / "v1/files/a.bin").read_bytes()


@pytest.mark.promise("X1")
def test_a_file_that_the_server_lost_is_not_there(store_writer: StoreWriter, mount_store: MountStore) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a" * 1000})
    (store_writer.version_folder("model", "net", 1) / "files/a.bin").unlink()
    mounted = mount_store(store_writer.root)
    with pytest.raises(OSError, match="No such file"):
        (mounted.mountpoint / NET / "v1/files/a.bin").read_bytes()


@pytest.mark.promise("S2")
@pytest.mark.promise("S3")
def test_a_sync_that_breaks_off_changes_nothing_and_is_resumed(
    store_writer: StoreWriter, mount_store: MountStore, sshd: PrivateSshd, relay: MakeRelay
) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a"})
    line = relay(sshd)
    mounted = mount_store(store_writer.root, port=line.port)
    mounted.expect_log(LOST)
    for number in range(400):
        store_writer.add_version("dataset", f"d{number}", {f"{n}": os.urandom(8) for n in range(20)})
    line.drop_after(300_000)
    failed = mounted.run("sync", check=False)
    assert failed.returncode == 1
    assert "Sync failed" in failed.stderr
    assert not (mounted.mountpoint / "artifacts/dataset").exists()
    wait_until(lambda: "connected" in mounted.run("status").stdout.split(), "the line to be back")
    before = line.stats().down
    mounted.run("sync")
    assert len(os.listdir(mounted.mountpoint / "artifacts/dataset")) == 400
    assert line.stats().down - before > 0


@pytest.mark.promise("E1")
def test_ctrl_c_ends_a_mount_that_is_in_use(store_writer: StoreWriter, mount_store: MountStore) -> None:
    store_writer.add_version("model", "net", {"a.bin": b"a" * 1000})
    mounted = mount_store(store_writer.root)
    mounted.expect_log("was in use")
    held = os.open(mounted.mountpoint / NET / "v1/files/a.bin", os.O_RDONLY)
    assert os.read(held, 1) == b"a"
    mounted.stop()
    with pytest.raises(OSError, match="not connected"):
        os.close(held)


@pytest.mark.promise("E2")
def test_a_stale_mount_can_be_unmounted_at_once(store_writer: StoreWriter, mount_store: MountStore) -> None:
    """The kernel still answers stat for it, from what it keeps."""
    store_writer.add_version("model", "net", {"a.bin": b"a"})
    mounted = mount_store(store_writer.root)
    os.listdir(mounted.mountpoint)
    mounted.kill()
    mounted.run("umount", str(mounted.mountpoint))
    assert not mounted.is_mounted()

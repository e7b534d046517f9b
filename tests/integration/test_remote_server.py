"""A Server in use, against a real sshd: transfers, what is checked at open, the store's structure, commands."""

from __future__ import annotations

import os
import random
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import (
    AccessDenied,
    MissingOnServer,
    StaleFile,
    StoreUnusable,
    TimedOut,
    Unreachable,
    UnsafePath,
)
from runicornfs.remote.server import RemoteFile, Server
from tests.remotes import MIB, QUICK, Target, Targets, ranges, server_at
from tests.waiting import wait_until

SIZE = 5 * MIB + 12_345


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    root.mkdir()
    return root


@pytest.fixture
def content(root: Path) -> bytes:
    """The content of `big`, which lies at the root."""
    data = random.Random(7).randbytes(SIZE)
    (root / "big").write_bytes(data)
    return data


@pytest.fixture
def server(sshd: PrivateSshd, root: Path) -> Iterator[Server]:
    with server_at(sshd, root) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path / "target")
    yield target
    target.close()


BIG = RemoteFile("big", SIZE, None)


class TestFill:
    """Ranges arrive where they belong."""

    def test_a_whole_file(self, server: Server, target: Target, content: bytes) -> None:
        target.fill(server, BIG)
        assert target.content(SIZE + 1) == content
        assert sorted(target.received) == ranges(SIZE)
        assert server.counters.sftp_bytes == SIZE

    def test_some_ranges_in_any_order(self, server: Server, target: Target, content: bytes) -> None:
        wanted = [(3 * MIB, MIB), (SIZE - 10, 10), (17, 1000), (MIB, 128 << 10)]
        target.fill(server, BIG, wanted)
        assert sorted(target.received) == sorted(wanted)
        for offset, length in wanted:
            assert target.content(length, offset) == content[offset : offset + length]
        assert server.counters.sftp_bytes == sum(length for _, length in wanted)

    @pytest.mark.parametrize("sftp_server", ["internal-sftp", "/usr/lib/openssh/sftp-server"])
    def test_both_of_opensshs_servers(
        self, sftp_server: str, root: Path, target: Target, content: bytes, tmp_path: Path
    ) -> None:
        if not sftp_server.startswith("internal") and not Path(sftp_server).exists():
            pytest.skip(f"there is no {sftp_server}")
        lines = [f"ForceCommand {sftp_server}"]  # the subsystem is that command then
        with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd, server_at(sshd, root) as server:
            target.fill(server, BIG)
        assert target.content(SIZE) == content

    def test_names_with_odd_bytes(self, server: Server, root: Path, target: Target) -> None:
        name = os.fsdecode("ä ü/".encode() + b"\xff\n'$(id)")
        (root / name).parent.mkdir()
        (root / name).write_bytes(b"odd")
        target.fill(server, RemoteFile(name, 3, None))
        assert target.content(3) == b"odd"

    def test_a_path_that_climbs_never_reaches_the_server(self, server: Server, target: Target) -> None:
        for path in ("../etc/passwd", "/etc/passwd", "a/../../b", ""):
            with pytest.raises(UnsafePath):
                target.fill(server, RemoteFile(path, 1, None))
        assert server.counters.sftp_opens == 0

    def test_a_file_stays_open_between_fills(self, server: Server, target: Target, content: bytes) -> None:
        for offset in range(0, SIZE, MIB):
            target.fill(server, BIG, [(offset, 10)])
        assert server.counters.sftp_opens == 1
        assert server.counters.sftp_reads == 6

    def test_files_side_by_side_share_one_connection(self, server: Server, root: Path, tmp_path: Path) -> None:
        contents = [random.Random(number).randbytes(3 * MIB) for number in range(6)]
        targets = [Target(tmp_path / f"target{number}") for number in range(6)]
        threads = []
        for number, (data, target) in enumerate(zip(contents, targets, strict=True)):
            (root / f"f{number}").write_bytes(data)
            threads.append(threading.Thread(target=target.fill, args=(server, RemoteFile(f"f{number}", 3 * MIB, None))))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for data, target in zip(contents, targets, strict=True):
            assert target.content(3 * MIB) == data
            target.close()
        assert server.counters.connections == 1

    def test_a_server_that_allows_one_session_is_enough(self, root: Path, content: bytes, tmp_path: Path) -> None:
        targets = [Target(tmp_path / f"target{number}") for number in range(3)]
        with PrivateSshd(tmp_path / "sshd", config_lines=["MaxSessions 1"]) as sshd, server_at(sshd, root) as server:
            threads = [threading.Thread(target=target.fill, args=(server, BIG)) for target in targets]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
        for target in targets:
            assert target.content(SIZE) == content
            target.close()

    def test_a_full_disk_is_the_callers_error_and_the_server_goes_on(
        self, server: Server, target: Target, content: bytes
    ) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                target.fill(server, BIG)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        target.fill(server, BIG)
        assert target.content(SIZE) == content
        assert server.counters.connections == 1

    def test_the_line_is_measured(self, server: Server, target: Target, content: bytes) -> None:
        assert server.line()[1] == 0
        target.fill(server, BIG)
        round_trip, rate = server.line()
        assert 0 < round_trip < 5
        assert rate > 0


class TestWhatIsCheckedAtOpen:
    """The file there has to be the one that the catalog describes."""

    @pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
    def test_a_file_with_a_digest_has_its_very_size(
        self, server: Server, target: Target, content: bytes, size: int
    ) -> None:
        with pytest.raises(StaleFile, match=f"{SIZE} bytes instead of {size}"):
            target.fill(server, RemoteFile("big", size, None), [(0, 10)])
        assert target.received == []
        assert server.counters.sftp_reads == 0

    def test_a_log_may_have_grown(self, server: Server, root: Path, target: Target) -> None:
        (root / "log").write_bytes(b"12345")
        target.fill(server, RemoteFile("log", 3, 0))
        assert target.content(3) == b"123"

    def test_a_log_may_not_have_shrunk(self, server: Server, root: Path, target: Target) -> None:
        (root / "log").write_bytes(b"12")
        with pytest.raises(StaleFile):
            target.fill(server, RemoteFile("log", 3, 0))

    def test_a_log_of_the_same_size_is_as_old_as_it_was(self, server: Server, root: Path, target: Target) -> None:
        (root / "log").write_bytes(b"123")
        os.utime(root / "log", (1000, 1000))
        target.fill(server, RemoteFile("log", 3, 1000))
        with pytest.raises(StaleFile, match="changed since"):
            target.fill(server, RemoteFile("log", 3, 999))

    def test_a_log_that_has_grown_while_it_was_open_is_read_on(
        self, server: Server, root: Path, target: Target
    ) -> None:
        (root / "log").write_bytes(b"123")
        target.fill(server, RemoteFile("log", 3, int((root / "log").stat().st_mtime), "short"), [(0, 1)])
        (root / "log").write_bytes(b"123456")
        target.fill(server, RemoteFile("log", 6, int((root / "log").stat().st_mtime), "long"), [(3, 3)])
        assert target.content(3, 3) == b"456"

    def test_a_file_that_was_cut_short_under_an_open_handle_is_stale(
        self, server: Server, root: Path, target: Target, content: bytes
    ) -> None:
        target.fill(server, BIG, [(0, 10)])
        (root / "big").write_bytes(content[:MIB])
        with pytest.raises(StaleFile, match="ends before"):
            target.fill(server, BIG)
        (root / "big").write_bytes(content)
        target.fill(server, BIG, [(2 * MIB, 10)])

    def test_a_file_that_is_gone(self, server: Server, target: Target) -> None:
        with pytest.raises(MissingOnServer, match="nothing"):
            target.fill(server, RemoteFile("nothing", 1, None))

    def test_a_folder_is_no_file(self, server: Server, root: Path, target: Target) -> None:
        (root / "folder").mkdir()
        with pytest.raises(StaleFile, match="no regular file"):
            target.fill(server, RemoteFile("folder", (root / "folder").stat().st_size, None))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, server: Server, root: Path, target: Target, content: bytes) -> None:
        (root / "big").chmod(0)
        with pytest.raises(AccessDenied):
            target.fill(server, BIG)


class TestStructure:
    """Whether there is a store, and what of it."""

    def test_a_store(self, server: Server, root: Path) -> None:
        (root / "artifacts/model/m").mkdir(parents=True)
        (root / "artifacts/odd type").mkdir()
        (root / "artifacts/.dedup").mkdir()
        (root / "vision/train/runs").mkdir(parents=True)
        report = server.verify_store()
        assert report.types == ("model", "odd type")
        assert report.as_dict() == {
            "root_exists": True,
            "readable": True,
            "artifacts_exists": True,
            "has_model": True,
            "has_dataset": False,
            "has_config": False,
            "has_code": False,
            "has_custom": False,
            "has_odd type": True,
            "has_experiments": True,
            "python3": None,
        }

    def test_the_sdks_own_store(self, sshd: PrivateSshd, sample_store: Path) -> None:
        with server_at(sshd, sample_store) as server:
            report = server.verify_store()
        assert report.problem is None
        assert "model" in report.types
        assert report.has_experiments

    def test_runs_without_artifacts_are_a_store(self, server: Server, root: Path) -> None:
        (root / "empty").mkdir()
        (root / "vision/train/runs").mkdir(parents=True)
        report = server.verify_store()
        assert not report.artifacts_exists
        assert report.has_experiments

    def test_the_runs_of_older_stores_count_too(self, server: Server, root: Path) -> None:
        (root / "runs").mkdir()
        assert server.verify_store().has_experiments

    def test_a_folder_without_anything_of_the_kind_is_no_store(self, server: Server, root: Path) -> None:
        (root / "some/where").mkdir(parents=True)
        with pytest.raises(StoreUnusable, match="no Runicorn store"):
            server.verify_store()

    def test_a_root_that_is_not_there(self, sshd: PrivateSshd, root: Path) -> None:
        with server_at(sshd, root / "missing") as server:
            with pytest.raises(StoreUnusable, match="there is no folder"):
                server.verify_store()
            assert not server.inspect_store().root_exists

    def test_a_root_that_is_a_file(self, sshd: PrivateSshd, root: Path, content: bytes) -> None:
        with server_at(sshd, root / "big") as server, pytest.raises(StoreUnusable, match="not a folder"):
            server.verify_store()


class TestExec:
    """Commands on the server."""

    def test_input_output_and_status(self, server: Server) -> None:
        with server.exec("tr a-z A-Z; echo no good >&2; exit 3") as command:
            command.write(b"hello")
            command.end_input()
            output = b"".join(iter(lambda: command.read(3), b""))
            assert output == b"HELLO"
            assert command.exit_status() == 3
            assert command.stderr_tail() == b"no good\n"
        assert server.counters.execs == 1
        assert server.counters.exec_bytes_in == 5

    def test_much_input_and_much_output_at_once(self, server: Server) -> None:
        data = random.Random(5).randbytes(8 * MIB)
        with server.exec("cat") as command:

            def send() -> None:
                command.write(data)
                command.end_input()

            sender = threading.Thread(target=send)
            sender.start()
            assert b"".join(iter(lambda: command.read(MIB), b"")) == data
            sender.join(30)
            assert command.exit_status() == 0

    def test_of_much_standard_error_the_end_is_kept(self, server: Server) -> None:
        with server.exec("head -c 1000000 /dev/zero >&2; echo the end >&2; echo done") as command:
            output = b"".join(iter(lambda: command.read(100), b""))
            assert output == b"done\n"
            assert command.exit_status() == 0
            assert command.stderr_tail().endswith(b"the end\n")
            assert len(command.stderr_tail()) <= 8192

    def test_a_command_that_says_nothing_times_out(self, sshd: PrivateSshd, root: Path) -> None:
        with server_at(sshd, root, timeouts=QUICK) as server:
            with server.exec("sleep 600") as command, pytest.raises(TimedOut):
                command.read(1)
            with server.exec("echo still here") as command:
                assert command.read(100) == b"still here\n"

    def test_a_command_may_be_given_more_time(self, sshd: PrivateSshd, root: Path) -> None:
        with server_at(sshd, root, timeouts=QUICK) as server, server.exec("sleep 1; echo x", timeout=20) as command:
            assert command.read(10) == b"x\n"

    def test_a_command_that_takes_no_input_times_out(self, sshd: PrivateSshd, root: Path) -> None:
        with (
            server_at(sshd, root, timeouts=QUICK) as server,
            server.exec("sleep 600") as command,
            pytest.raises(TimedOut),
        ):
            command.write(bytes(64 * MIB))

    def test_leaving_early_ends_the_command(self, server: Server, tmp_path: Path) -> None:
        marker = tmp_path / "ended"
        with server.exec(f"cat >/dev/null; touch '{marker}'"):
            pass
        wait_until(marker.exists, "the command to see the end of its input")

    def test_an_account_without_commands_is_told_apart(self, root: Path, content: bytes, tmp_path: Path) -> None:
        lines = ["ForceCommand internal-sftp"]
        with (
            PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd,
            server_at(sshd, root) as server,
            server.exec("echo hello") as command,
        ):
            command.end_input()
            assert b"hello" not in b"".join(iter(lambda: command.read(100), b""))

    def test_an_account_without_sftp_is_told_apart(self, root: Path, tmp_path: Path, target: Target) -> None:
        lines = ["ForceCommand /bin/false"]
        with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd, server_at(sshd, root) as server:
            with pytest.raises(Unreachable):
                target.fill(server, BIG)
            assert server.state == "connected"


def test_reads_take_few_requests(sshd: PrivateSshd, root: Path, content: bytes) -> None:
    """The first byte of a cold file costs two round trips: open with stat, then read. Later ones cost one each."""
    with server_at(sshd, root) as server:
        fd = os.memfd_create("target")
        server.fill(BIG, iter([(0, 4096)]), fd, lambda offset, length: None)
        server.fill(BIG, iter([(MIB, 4096)]), fd, lambda offset, length: None)
        os.close(fd)
        assert server.counters.sftp_opens == 1
        assert server.counters.sftp_reads == 2


class TestManySmallFiles:
    """`fill_many`: a file that is bad costs itself."""

    @pytest.fixture
    def small(self, root: Path) -> dict[str, bytes]:
        files = {f"small {number}": random.Random(number).randbytes(1000 * number + 1) for number in range(100)}
        for name, data in files.items():
            (root / name).write_bytes(data)
        return files

    def test_they_come_with_few_requests(self, server: Server, small: dict[str, bytes], tmp_path: Path) -> None:
        with Targets(tmp_path, small) as targets:
            assert server.fill_many(targets.jobs()) == [None] * 100
            assert targets.contents() == small
        counters = server.counters
        assert (counters.sftp_opens, counters.sftp_reads) == (100, 100)
        assert counters.sftp_bytes == sum(map(len, small.values()))
        assert counters.connections == 1

    def test_each_has_its_error(self, server: Server, root: Path, small: dict[str, bytes], tmp_path: Path) -> None:
        (root / "small 1").unlink()
        (root / "small 2").write_bytes(b"another")
        (root / "small 3").unlink()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(root / "small 3"))
            with Targets(tmp_path, small) as targets:
                errors = server.fill_many(targets.jobs())
                contents = targets.contents()
        kinds = [type(error) for error in errors]
        assert kinds[:5] == [type(None), MissingOnServer, StaleFile, StaleFile, type(None)]
        assert kinds[5:] == [type(None)] * 95
        good = [name for name in small if name not in ("small 1", "small 2", "small 3")]
        assert {name: contents[name] for name in good} == {name: small[name] for name in good}

    def test_without_a_server_all_have_the_same_error(self, sshd: PrivateSshd, root: Path, tmp_path: Path) -> None:
        small = {"a": b"a", "b": b"b"}
        with server_at(sshd, root, connect=False) as server, Targets(tmp_path, small) as targets:
            errors = server.fill_many(targets.jobs())
        assert [type(error) for error in errors] == [Unreachable] * 2

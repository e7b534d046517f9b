"""Large transfers move to an `ssh` process where the line is short, and come back where that cannot be."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from runicornfs.demo import sshd as private_sshd
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import ConnectionLost, TimedOut, Unreachable
from runicornfs.remote.bulk import Transport
from runicornfs.remote.identities import Credentials
from runicornfs.remote.line import Line
from runicornfs.remote.proxy import by_command
from runicornfs.remote.server import RemoteFile, Server
from runicornfs.remote.sftp import SftpSession
from runicornfs.remote.sshprocess import Entrance, started
from runicornfs.remote.timeouts import Timeouts
from tests.agents import running_agent
from tests.conftest import MakeRelay
from tests.remotes import MIB, QUICK, Target, ranges, settings_of
from tests.waiting import wait_until

SIZE = 40 * MIB + 12_345
BIG = RemoteFile("big", SIZE, None)
LARGE = 8  # MiB after which a transfer counts as large


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    root.mkdir()
    return root


@pytest.fixture
def content(root: Path) -> bytes:
    data = random.Random(7).randbytes(SIZE)
    (root / "big").write_bytes(data)
    return data


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path / "target")
    yield target
    target.close()


@contextmanager
def connected(
    sshd: PrivateSshd,
    root: Path,
    credentials: Credentials | None = None,
    *,
    port: int | None = None,
    timeouts: Timeouts | None = None,
    transport: Transport = "ssh",
    **settings: object,
) -> Iterator[Server]:
    if credentials is None:
        credentials = Credentials((sshd.identity,), use_agent=False)
    server = Server(settings_of(sshd, port, **settings), str(root), credentials, timeouts=timeouts, transport=transport)
    before = threading.active_count()
    try:
        server.connect()
        yield server
    finally:
        server.close()
    wait_until(lambda: threading.active_count() <= before, "all threads to end")


def in_pieces(at: int, do: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """All of BIG in ranges of 1 MiB; `do` when so many have been taken."""
    for number, wanted in enumerate(ranges(SIZE)):
        if number == at:
            do()
        yield wanted


def has_moved(server: Server) -> Callable[[], None]:
    """Waits, in the middle of a transfer, until a process is there to take the rest."""
    return lambda: wait_until(lambda: server.counters.ssh_processes > 0, "an ssh process")


def ssh_processes() -> list[int]:
    """Those that this process has started."""
    answer = subprocess.run(["pgrep", "-P", str(os.getpid()), "-x", "ssh"], capture_output=True, text=True, check=False)
    return [int(line) for line in answer.stdout.split()]


def test_the_rest_of_a_large_transfer_goes_over_a_process(
    sshd: PrivateSshd,
    root: Path,
    content: bytes,
    target: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = list(tmp_path.iterdir())
    with connected(sshd, root) as server:
        target.fill(server, BIG, in_pieces(2 * LARGE, has_moved(server)))
        assert target.content(SIZE + 1) == content
        assert sorted(target.received) == ranges(SIZE)
        assert server.counters.sftp_bytes == SIZE
        assert server.counters.sftp_opens == 2
        assert server.counters.connections == 1
        assert len(ssh_processes()) == 1
        target.fill(server, BIG)
        assert server.counters.ssh_processes == 1
    assert ssh_processes() == []
    assert list(tmp_path.iterdir()) == before


def test_a_small_transfer_starts_no_process(sshd: PrivateSshd, root: Path, content: bytes, target: Target) -> None:
    with connected(sshd, root) as server:
        target.fill(server, BIG, iter(ranges((LARGE - 1) * MIB)))
        assert server.counters.ssh_processes == 0
        assert ssh_processes() == []


def test_a_long_line_starts_no_process(
    sshd: PrivateSshd, relay: MakeRelay, root: Path, content: bytes, target: Target
) -> None:
    line = relay(sshd, rtt_ms=30)
    with connected(sshd, root, port=line.port, transport="auto") as server:
        target.fill(server, BIG)
        assert target.content(SIZE) == content
        assert line.stats().connections == 1


def test_no_process_is_used_where_somebody_says_so(
    sshd: PrivateSshd, root: Path, content: bytes, target: Target
) -> None:
    with connected(sshd, root, transport="paramiko") as server:
        target.fill(server, BIG)
        assert target.content(SIZE) == content
        assert server.counters.ssh_processes == 0


class TestHowItGetsIn:
    """A process has no more than our own connection had, and no secret."""

    @pytest.mark.parametrize("name", ["a key", 'a"quote', "100%h", "back\\slash", "$HOME", "-i"])
    def test_with_a_key_file_of_any_name(
        self, sshd: PrivateSshd, root: Path, content: bytes, target: Target, tmp_path: Path, name: str
    ) -> None:
        key = tmp_path / name
        key.write_bytes(sshd.identity.read_bytes())
        key.chmod(0o600)
        with connected(sshd, root, Credentials((key,), use_agent=False)) as server:
            target.fill(server, BIG, in_pieces(2 * LARGE, has_moved(server)))
            assert target.content(SIZE) == content

    def test_with_a_key_of_the_agent(
        self, sshd: PrivateSshd, root: Path, content: bytes, target: Target, tmp_path: Path
    ) -> None:
        with (
            running_agent(tmp_path / "an agent", sshd.identity) as agent,
            connected(sshd, root, Credentials(), agent_socket=str(agent)) as server,
        ):
            target.fill(server, BIG, in_pieces(2 * LARGE, has_moved(server)))
            assert target.content(SIZE) == content

    def test_through_a_proxy(
        self, sshd: PrivateSshd, root: Path, content: bytes, target: Target, tmp_path: Path
    ) -> None:
        script = tmp_path / "100%.py"
        script.write_text(
            "import socket, sys, threading, shutil\n"
            "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
            "f = s.makefile('rwb', buffering=0)\n"
            "i, o = (open(n, mode, buffering=0) for n, mode in ((0, 'rb'), (1, 'wb')))\n"
            "def up():\n"
            "    while d := i.read(65536): s.sendall(d)\n"
            "    s.shutdown(socket.SHUT_WR)\n"
            "threading.Thread(target=up, daemon=True).start()\n"
            "while d := s.recv(65536):\n"
            "    while d: d = d[o.write(d):]\n"
        )
        tokens = {"h": "127.0.0.1", "p": str(sshd.port), "r": "", "n": ""}
        proxy = by_command(f"{sys.executable} '{script}'".replace("%", "%%") + " %h %p", tokens)
        with connected(sshd, root, proxy=proxy) as server:
            target.fill(server, BIG, in_pieces(2 * LARGE, has_moved(server)))
            assert target.content(SIZE) == content

    def test_a_key_under_a_passphrase_starts_no_process(
        self, sshd: PrivateSshd, root: Path, content: bytes, target: Target, tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        key.write_bytes(sshd.identity.read_bytes())
        key.chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True)
        failed = sshd.log().count("Failed")
        with connected(sshd, root, Credentials((key,), passphrase="open sesame", use_agent=False)) as server:
            target.fill(server, BIG)
            assert server.counters.ssh_processes == 0
            assert sshd.log().count("Failed") == failed

    def test_a_key_that_was_pasted_starts_no_process(
        self, sshd: PrivateSshd, root: Path, content: bytes, target: Target
    ) -> None:
        credentials = Credentials(private_key=sshd.identity.read_text(), use_agent=False)
        with connected(sshd, root, credentials) as server:
            target.fill(server, BIG)
            assert server.counters.ssh_processes == 0

    def test_another_host_key_than_the_one_that_was_checked_is_refused(self, sshd: PrivateSshd) -> None:
        """As when somebody takes the server's place between our connection and that of the process."""
        other = paramiko.Ed25519Key(filename=str(sshd.identity))
        with started(settings_of(sshd), Entrance(other, key_file=sshd.identity), QUICK) as process:
            with pytest.raises(ConnectionLost):
                SftpSession(process, Line()).start()
            assert "Host key verification failed" in str(process.last_words())
            process.close()


class TestFaults:
    """A process that fails costs itself; the connection and the next transfer do not notice."""

    def test_a_process_that_is_killed(self, sshd: PrivateSshd, root: Path, content: bytes, target: Target) -> None:
        with connected(sshd, root, timeouts=QUICK) as server:
            target.fill(server, BIG, in_pieces(2 * LARGE, has_moved(server)))
            (process,) = ssh_processes()
            with pytest.raises(ConnectionLost):
                target.fill(server, BIG, in_pieces(4, lambda: os.kill(process, signal.SIGKILL)))
            target.fill(server, BIG)
            assert target.content(SIZE) == content
            assert server.counters.connections == 1

    def test_a_process_that_stands_still(
        self, sshd: PrivateSshd, root: Path, content: bytes, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing was heard of the server for the whole time-out, so the connection is made anew, too."""
        with connected(sshd, root, timeouts=QUICK) as server:
            target.fill(server, BIG, in_pieces(2 * LARGE, has_moved(server)))
            (process,) = ssh_processes()
            with pytest.raises(TimedOut):
                target.fill(server, BIG, in_pieces(4, lambda: os.kill(process, signal.SIGSTOP)))
            target.fill(server, BIG)
            assert target.content(SIZE) == content

    def test_closing_ends_a_transfer_over_a_process(
        self, sshd: PrivateSshd, root: Path, content: bytes, target: Target
    ) -> None:
        with connected(sshd, root) as server:
            target.fill(server, BIG, in_pieces(2 * LARGE, has_moved(server)))
            (process,) = ssh_processes()
            closing = threading.Thread(target=server.close)

            def close() -> None:
                os.kill(process, signal.SIGSTOP)  # so that the transfer waits
                closing.start()

            with pytest.raises(Unreachable):
                target.fill(server, BIG, in_pieces(4, close))
            closing.join(10)
            assert not closing.is_alive()

    def test_a_full_disk_costs_no_process_its_place(
        self, sshd: PrivateSshd, root: Path, content: bytes, target: Target
    ) -> None:
        with connected(sshd, root) as server:
            target.fill(server, BIG, in_pieces(2 * LARGE, has_moved(server)))
            with open("/dev/full", "wb") as full, pytest.raises(OSError, match="No space left"):
                server.fill(BIG, iter(ranges(SIZE)), full.fileno(), lambda offset, length: None)
            target.fill(server, BIG, in_pieces(2 * LARGE, lambda: wait_until(ssh_processes, "another process")))
            assert target.content(SIZE) == content


@pytest.mark.parametrize("transport", ["paramiko", "ssh"])
def test_a_server_that_caps_its_answers_at_32_kib(
    root: Path, content: bytes, target: Target, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    capped = Path(__file__).parent.parent / "capped_sftp.py"
    monkeypatch.setattr(
        private_sshd, "CONFIG", private_sshd.CONFIG.replace("internal-sftp", f"{sys.executable} {capped}")
    )
    with (
        PrivateSshd() as sshd,
        connected(sshd, root, transport=transport) as server,
    ):
        target.fill(server, BIG)
        assert target.content(SIZE) == content
        assert sorted(target.received) == ranges(SIZE)
        assert server.counters.sftp_reads >= SIZE // (32 << 10)

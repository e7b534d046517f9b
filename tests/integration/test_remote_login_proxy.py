"""Reaching a host through others: ProxyJump and ProxyCommand, with real sshds on the way, and every way it can fail."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import AuthenticationFailed, InvalidInput, RunicornFSError, TimedOut, Unreachable
from runicornfs.remote import program, proxy
from runicornfs.remote.address import RemoteSource
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import RemoteFile, Server
from runicornfs.remote.sshconfig import resolve_host
from runicornfs.remote.timeouts import Timeouts
from tests.conftest import MakeRelay
from tests.remotes import MIB, Target
from tests.waiting import wait_until

# What stands between standard input and output and a TCP connection, as nc(1) does.
NETCAT = """\
import os, socket, sys, threading
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        line.sendall(data)
    line.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := line.recv(65536):
    os.write(1, data)
"""


@pytest.fixture(scope="module")
def jump() -> Iterator[PrivateSshd]:
    with PrivateSshd() as sshd:
        yield sshd


def entry(name: str, sshd: PrivateSshd, *lines: str, port: int | None = None) -> str:
    """What ~/.ssh/config has about a host."""
    own = [
        "HostName 127.0.0.1",
        f"Port {port or sshd.port}",
        f"User {sshd.user}",
        f"IdentityFile {sshd.identity}",
        "IdentitiesOnly yes",
        f"UserKnownHostsFile {sshd.known_hosts}",
        "GlobalKnownHostsFile none",
    ]
    return "".join([f"Host {name}\n", *(f"  {line}\n" for line in (*own, *lines))])


class Way:
    """The SSH configuration of a test, and the programs that connections started for it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config"
        self.netcat = folder / "netcat.py"
        self.netcat.write_text(NETCAT)

    def write(self, *entries: str) -> None:
        self.config.write_text("".join(entries))

    def server(self, root: Path | str = "/", *, user: str | None = None, timeouts: Timeouts | None = None) -> Server:
        host = resolve_host(RemoteSource("gpu", str(root), user), config_file=self.config)
        return Server(host, str(root), timeouts=timeouts)

    def lets_in(self, **options: str) -> None:
        server = self.server(**options)  # type: ignore[arg-type]
        try:
            server.connect()
            assert server.inspect_store().readable
        finally:
            server.close()

    def fails(self, timeouts: Timeouts | None = None) -> RunicornFSError:
        threads = threading.active_count()
        server = self.server(timeouts=timeouts)
        with pytest.raises(RunicornFSError) as failure:
            server.connect()
        server.close()
        wait_until(lambda: threading.active_count() <= threads, "all threads to end")
        assert not str(failure.value).endswith(".")
        return failure.value


def children() -> set[int]:
    """The processes that this one has started, those that nobody has waited for included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except OSError:
            continue  # a thread that has ended
    return found


@pytest.fixture
def way(tmp_path: Path, sshd: PrivateSshd, jump: PrivateSshd) -> Iterator[Way]:
    """All that a connection started has ended and was reaped when it is over."""
    before = children()
    yield Way(tmp_path)
    assert children() == before


class TestJump:
    """ProxyJump, by `ssh -W`."""

    def test_through_one_host(self, way: Way, sshd: PrivateSshd, jump: PrivateSshd) -> None:
        before = jump.log().count("Accepted publickey")
        way.write(entry("jump", jump), entry("gpu", sshd, "ProxyJump jump"))
        way.lets_in()
        assert jump.log().count("Accepted publickey") == before + 1

    def test_through_two_hosts(self, way: Way, sshd: PrivateSshd, jump: PrivateSshd, own_sshd: PrivateSshd) -> None:
        way.write(entry("a", jump), entry("b", own_sshd), entry("gpu", sshd, "ProxyJump a,b"))
        before = jump.log().count("Accepted publickey")
        way.lets_in()
        assert jump.log().count("Accepted publickey") == before + 1
        assert own_sshd.log().count("Accepted publickey") == 1

    def test_a_jump_that_has_a_jump_itself(
        self, way: Way, sshd: PrivateSshd, jump: PrivateSshd, own_sshd: PrivateSshd
    ) -> None:
        way.write(entry("a", jump), entry("b", own_sshd, "ProxyJump a"), entry("gpu", sshd, "ProxyJump b"))
        way.lets_in()
        assert own_sshd.log().count("Accepted publickey") == 1

    def test_a_jump_by_user_address_and_port(self, way: Way, sshd: PrivateSshd, jump: PrivateSshd) -> None:
        access = f"IdentityFile {jump.identity}\n  UserKnownHostsFile {jump.known_hosts} {sshd.known_hosts}"
        hosts = f"Host 127.0.0.1\n  {access}\n"
        way.write(hosts, entry("gpu", sshd, f"ProxyJump {jump.user}@127.0.0.1:{jump.port}"))
        way.lets_in()

    def test_none_is_a_direct_way(self, way: Way, sshd: PrivateSshd) -> None:
        way.write(entry("gpu", sshd, "ProxyJump none"), "Host *\n  ProxyJump nowhere\n")
        way.lets_in()

    def test_the_transfer_is_whole(self, way: Way, sshd: PrivateSshd, jump: PrivateSshd, tmp_path: Path) -> None:
        data = os.urandom(3 * MIB + 17)
        (tmp_path / "file").write_bytes(data)
        way.write(entry("jump", jump), entry("gpu", sshd, "ProxyJump jump"))
        server, target = way.server(tmp_path), Target(tmp_path / "target")
        try:
            server.connect()
            target.fill(server, RemoteFile("file", len(data), None))
            assert target.content(len(data)) == data
        finally:
            server.close()
            target.close()

    def test_a_key_that_the_jump_does_not_take(self, way: Way, sshd: PrivateSshd, jump: PrivateSshd) -> None:
        way.write(
            entry("jump", jump).replace(str(jump.identity), str(sshd.identity)), entry("gpu", sshd, "ProxyJump jump")
        )
        error = way.fails()
        assert isinstance(error, AuthenticationFailed)
        assert f"gpu:{sshd.port} cannot be reached through ProxyJump jump: " in str(error)
        assert "Permission denied (publickey)" in str(error)

    def test_a_jump_whose_key_is_not_known(
        self, way: Way, sshd: PrivateSshd, jump: PrivateSshd, tmp_path: Path
    ) -> None:
        way.write(
            entry("jump", jump).replace(str(jump.known_hosts), str(tmp_path / "none")),
            entry("gpu", sshd, "ProxyJump jump"),
        )
        error = way.fails()
        assert isinstance(error, AuthenticationFailed)
        assert "Host key verification failed" in str(error)
        assert not (tmp_path / "none").exists()

    def test_a_jump_that_does_not_listen(self, way: Way, sshd: PrivateSshd, own_sshd: PrivateSshd) -> None:
        own_sshd.stop()
        way.write(entry("jump", own_sshd), entry("gpu", sshd, "ProxyJump jump"))
        error = way.fails()
        assert isinstance(error, Unreachable)
        assert "Connection refused" in str(error)

    def test_a_jump_that_forwards_nothing(self, way: Way, sshd: PrivateSshd, tmp_path: Path) -> None:
        with PrivateSshd(tmp_path / "closed", config_lines=["AllowTcpForwarding no"]) as closed:
            way.write(entry("jump", closed), entry("gpu", sshd, "ProxyJump jump"))
            error = way.fails()
        assert isinstance(error, Unreachable)
        assert "administratively prohibited" in str(error)

    def test_a_target_that_does_not_listen(self, way: Way, own_sshd: PrivateSshd, jump: PrivateSshd) -> None:
        own_sshd.stop()
        way.write(entry("jump", jump), entry("gpu", own_sshd, "ProxyJump jump"))
        error = way.fails()
        assert isinstance(error, Unreachable)
        assert "Connection refused" in str(error)

    def test_a_refusal_of_the_target_is_its_own(
        self, way: Way, sshd: PrivateSshd, jump: PrivateSshd, tmp_path: Path
    ) -> None:
        way.write(entry("jump", jump), entry("gpu", sshd, "ProxyJump jump").replace(str(sshd.identity), "none"))
        error = way.fails()
        assert isinstance(error, AuthenticationFailed)
        assert f"{sshd.user}@gpu refused the login: there was nothing to try" in str(error)

    def test_a_stalled_jump_has_an_end(self, way: Way, sshd: PrivateSshd, jump: PrivateSshd, relay: MakeRelay) -> None:
        line = relay(jump)
        way.write(entry("jump", jump, port=line.port), entry("gpu", sshd, "ProxyJump jump"))
        line.stall()
        error = way.fails(Timeouts(connect=0.3, read=0.5))
        assert isinstance(error, TimedOut)

    def test_a_jump_that_breaks_is_connected_through_again(
        self, way: Way, sshd: PrivateSshd, own_sshd: PrivateSshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = os.urandom(MIB)
        (tmp_path / "file").write_bytes(data)
        way.write(entry("jump", own_sshd), entry("gpu", sshd, "ProxyJump jump"))
        server, target = way.server(tmp_path), Target(tmp_path / "target")
        try:
            server.connect()
            own_sshd.drop_sessions()
            wait_until(lambda: server.counters.connections == 2, "another connection")
            wait_until(lambda: server.state == "connected", "it to be announced")
            target.fill(server, RemoteFile("file", len(data), None))
            assert target.content(len(data)) == data
        finally:
            server.close()
            target.close()
        assert "was lost" in caplog.text

    def test_a_jump_that_dies_in_the_middle_of_a_transfer(
        self,
        way: Way,
        sshd: PrivateSshd,
        jump: PrivateSshd,
        relay: MakeRelay,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        data = os.urandom(8 * MIB)
        (tmp_path / "file").write_bytes(data)
        line = relay(jump)
        way.write(entry("jump", jump, port=line.port), entry("gpu", sshd, "ProxyJump jump"))
        server, target = way.server(tmp_path), Target(tmp_path / "target")
        try:
            server.connect()
            line.drop_after(2 * MIB)
            with pytest.raises(Unreachable):
                target.fill(server, RemoteFile("file", len(data), None))
            wait_until(lambda: server.counters.connections == 2, "another connection")
            target.fill(server, RemoteFile("file", len(data), None))
            assert target.content(len(data)) == data
        finally:
            server.close()
            target.close()

    def test_without_ssh_the_sentence_says_what_is_missing(
        self, way: Way, sshd: PrivateSshd, jump: PrivateSshd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        way.write(entry("jump", jump), entry("gpu", sshd, "ProxyJump jump"))
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(InvalidInput, match="gpu is reached through ProxyJump, which needs ssh: install OpenSSH"):
            way.server()


class TestCommand:
    """ProxyCommand, by the shell."""

    def test_a_command_gets_host_port_and_user(self, way: Way, sshd: PrivateSshd, tmp_path: Path) -> None:
        said = tmp_path / "said"
        command = f"echo %h %p %r %n 100%% > {said}; exec {sys.executable} {way.netcat} %h %p"
        way.write(entry("gpu", sshd, f"ProxyCommand sh -c '{command}'"))
        way.lets_in()
        assert said.read_text() == f"127.0.0.1 {sshd.port} {sshd.user} gpu 100%\n"

    def test_ssh_itself_as_the_command(self, way: Way, sshd: PrivateSshd, jump: PrivateSshd) -> None:
        way.write(entry("jump", jump), entry("gpu", sshd, f"ProxyCommand ssh -F {way.config} -W [%h]:%p jump"))
        way.lets_in()

    def test_a_pipeline_ends_as_a_whole(self, way: Way, sshd: PrivateSshd) -> None:
        way.write(entry("gpu", sshd, f"ProxyCommand {sys.executable} {way.netcat} %h %p | cat"))
        way.lets_in()

    def test_none_is_a_direct_way(self, way: Way, sshd: PrivateSshd) -> None:
        way.write(entry("gpu", sshd, "ProxyCommand none"), "Host *\n  ProxyCommand false\n")
        way.lets_in()

    def test_a_command_that_there_is_not(self, way: Way, sshd: PrivateSshd) -> None:
        way.write(entry("gpu", sshd, "ProxyCommand no-such-program %h"))
        error = way.fails()
        assert isinstance(error, Unreachable)
        assert "through ProxyCommand: " in str(error)
        assert "no-such-program: not found" in str(error)

    def test_a_command_that_fails_in_silence(self, way: Way, sshd: PrivateSshd) -> None:
        way.write(entry("gpu", sshd, "ProxyCommand sh -c 'exit 7'"))
        assert "it ended with status 7 and said nothing" in str(way.fails())

    def test_what_a_command_says_is_made_one_harmless_line(self, way: Way, sshd: PrivateSshd) -> None:
        way.write(entry("gpu", sshd, r"ProxyCommand printf 'first\n\n\033[31mred\007\nlast.\n' >&2"))
        assert str(way.fails()).endswith("through ProxyCommand: first; [31mred; last")

    def test_a_command_that_says_something_else_than_ssh(self, way: Way, sshd: PrivateSshd) -> None:
        way.write(entry("gpu", sshd, "ProxyCommand yes"))
        assert "is no SSH server" in str(way.fails(Timeouts(connect=2, read=1)))

    def test_a_command_that_hangs_and_does_not_listen_to_signals(
        self, way: Way, sshd: PrivateSshd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(program, "_FAREWELL_TIME", 0.2)
        way.write(entry("gpu", sshd, """ProxyCommand sh -c 'trap "" TERM; while true; do sleep 0.1; done'"""))
        assert isinstance(way.fails(Timeouts(connect=0.2, read=0.2)), TimedOut)

    def test_closing_while_it_connects_ends_it(self, way: Way, sshd: PrivateSshd, tmp_path: Path) -> None:
        started = tmp_path / "started"
        way.write(entry("gpu", sshd, f"ProxyCommand sh -c 'touch {started}; exec cat > /dev/null'"))
        server = way.server(timeouts=Timeouts(connect=20, read=20))
        failures: list[RunicornFSError] = []

        def connect() -> None:
            try:
                server.connect()
            except RunicornFSError as error:
                failures.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        wait_until(started.exists, "the command to run")
        server.close()
        thread.join(15)
        assert not thread.is_alive()
        assert len(failures) == 1

    def test_no_secret_of_ours_reaches_the_command(self, way: Way, sshd: PrivateSshd, tmp_path: Path) -> None:
        seen = tmp_path / "seen"
        spy = tmp_path / "spy.sh"
        spy.write_text(
            f"tr '\\0' '\\n' < /proc/$$/environ > {seen}; ps -eo args >> {seen}\n"
            f"exec {sys.executable} {way.netcat} $1 $2\n"
        )
        way.write(entry("gpu", sshd, f"ProxyCommand sh {spy} %h %p"))
        host = resolve_host(RemoteSource("gpu", "/"), config_file=way.config)
        server = Server(host, "/", Credentials(password="pass-word", passphrase="open sesame"))
        try:
            server.connect()
        finally:
            server.close()
        assert "PATH=" in seen.read_text()
        assert "pass-word" not in seen.read_text()
        assert "sesame" not in seen.read_text()


def test_the_line_is_a_socket_that_shutdown_wakes() -> None:
    process = proxy.ProxyProcess(proxy.by_command("cat", {"h": "", "p": "", "r": "", "n": ""}))
    with process.line as line:
        line.sendall(b"back")
        assert line.recv(10) == b"back"
        threading.Timer(0.1, line.shutdown, (socket.SHUT_RDWR,)).start()
        assert line.recv(10) == b""
    process.close()
    process.close()

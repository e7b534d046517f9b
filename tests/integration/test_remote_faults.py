"""What a line can do to a transfer: nothing hangs, what was received stays, the next call has a new connection."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import ConnectionLost, ServerError, TimedOut, Unreachable
from runicornfs.remote.connection import connect
from runicornfs.remote.hostkeys import HostKeyPolicy
from runicornfs.remote.identities import Credentials
from runicornfs.remote.lifeline import State
from runicornfs.remote.line import Line
from runicornfs.remote.packets import Kind, read_body
from runicornfs.remote.server import RemoteFile, Server
from runicornfs.remote.sftp import SftpSession
from runicornfs.remote.timeouts import Timeouts
from tests.conftest import MakeRelay
from tests.relay import Relay
from tests.remotes import MIB, QUICK, Target, Targets, ranges, server_at, settings_of
from tests.waiting import wait_until

SIZE = 24 * MIB
BIG = RemoteFile("big", SIZE, None)
SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    (root / "artifacts").mkdir(parents=True)
    return root


@pytest.fixture
def content(root: Path) -> bytes:
    data = os.urandom(SIZE)
    (root / "big").write_bytes(data)
    return data


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path / "target")
    yield target
    target.close()


@pytest.fixture
def line(sshd: PrivateSshd, relay: MakeRelay) -> Relay:
    return relay(sshd, mbit=800)  # slow enough to be met amid a transfer


@pytest.fixture
def server(sshd: PrivateSshd, line: Relay, root: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Server]:
    """Behind `line`. Takes the log: a lost line is told there."""
    threads = threading.active_count()
    with server_at(sshd, root, port=line.port, timeouts=QUICK) as server:
        yield server
    wait_until(lambda: threading.active_count() <= threads, "all threads to end")


class After:
    """Ranges to ask for; something is done when a number of them has been taken."""

    def __init__(self, count: int, do: Callable[[], object]) -> None:
        self._count = count
        self._do = do

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for number, wanted in enumerate(ranges(SIZE)):
            if number == self._count:
                self._do()
            yield wanted


def the_rest(target: Target) -> list[tuple[int, int]]:
    return [wanted for wanted in ranges(SIZE) if wanted not in target.received]


@pytest.mark.promise("A4")
def test_a_transfer_that_is_cut_goes_on_over_a_new_connection(
    server: Server, line: Relay, target: Target, content: bytes
) -> None:
    with pytest.raises(ConnectionLost) as loss:
        target.fill(server, BIG, After(10, line.drop))
    assert loss.value.is_temporary
    kept = len(target.received)
    assert 0 < kept < 24
    target.fill(server, BIG, the_rest(target))
    assert target.content(SIZE) == content
    whole = [offset for offset, length in target.received if length == MIB]
    assert sorted(whole) == list(range(0, SIZE, MIB)), "none came twice"
    assert server.counters.connections == 2
    wait_until(lambda: server.state == "connected", "the state to say so")
    assert server.last_error is None


def test_of_many_files_what_came_before_the_cut_stays(server: Server, line: Relay, root: Path, tmp_path: Path) -> None:
    small = {f"small {number}": random.Random(number).randbytes(200_000) for number in range(100)}
    for name, data in small.items():
        (root / name).write_bytes(data)
    with Targets(tmp_path, small) as targets:

        def cut() -> None:
            wait_until(lambda: targets.received, "the first file")
            line.drop()

        cutter = threading.Thread(target=cut)
        cutter.start()
        errors = server.fill_many(targets.jobs())
        cutter.join()
        kept = set(targets.received)
        assert 0 < len(kept) < 100
        assert {name for name, error in zip(small, errors, strict=True) if error is None} == kept
        assert {type(error) for error in errors} == {type(None), ConnectionLost}
        assert {name for name, data in targets.contents().items() if data == small[name]} >= kept
        left = [name for name in small if name not in kept]
        assert server.fill_many(targets.jobs(left)) == [None] * len(left)
        assert targets.contents() == small
        assert sorted(targets.received) == sorted(small)
    assert server.counters.connections == 2


def test_a_line_that_stalls_is_a_time_out_and_the_next_call_has_a_new_connection(
    server: Server, line: Relay, target: Target, content: bytes
) -> None:
    with pytest.raises(TimedOut) as stall:
        target.fill(server, BIG, After(10, line.stall))
    assert stall.value.is_temporary
    line.resume()
    target.fill(server, BIG, the_rest(target))
    assert target.content(SIZE) == content
    assert server.counters.connections == 2


@pytest.mark.promise("A3")
def test_a_time_out_is_about_progress_not_about_the_time_a_transfer_takes(
    sshd: PrivateSshd, relay: MakeRelay, root: Path, target: Target, content: bytes
) -> None:
    slow = relay(sshd, mbit=32)  # 4 MB/s: four times the time-out
    with server_at(sshd, root, port=slow.port, timeouts=QUICK) as server:
        target.fill(server, BIG, ranges(8 * MIB))
    assert target.content(8 * MIB) == content[: 8 * MIB]


@pytest.mark.promise("A3")
def test_a_packet_may_trickle_in_for_longer_than_the_time_out(
    sshd: PrivateSshd, root: Path, target: Target, relay: MakeRelay
) -> None:
    """It is of no use before it is whole, but while it comes the line is not silent."""
    content = random.Random(1).randbytes(100_000)
    (root / "small").write_bytes(content)
    trickle = relay(sshd, mbit=0.32)  # 40 kB/s: a packet of 32 KiB takes 0.8 s
    with server_at(sshd, root, port=trickle.port, timeouts=QUICK) as server:
        target.fill(server, RemoteFile("small", len(content), None), [(0, len(content))])
        assert server.counters.connections == 1
    assert target.content(len(content)) == content


def test_a_trickle_that_dries_up_is_a_time_out(
    sshd: PrivateSshd, root: Path, target: Target, relay: MakeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "small").write_bytes(bytes(100_000))
    trickle = relay(sshd, mbit=0.32)
    with server_at(sshd, root, port=trickle.port, timeouts=QUICK) as server:
        before = trickle.stats().down

        def dry_up() -> None:
            wait_until(lambda: trickle.stats().down > before + 40_000, "a part of it")
            trickle.stall()

        drying = threading.Thread(target=dry_up)
        drying.start()
        with pytest.raises(TimedOut):
            target.fill(server, RemoteFile("small", 100_000, None), [(0, 100_000)])
        drying.join()
        wait_until(lambda: server.state == "reconnecting", "the line to count as lost")
        trickle.resume()


def test_a_session_that_hangs_beside_a_busy_one_is_a_time_out(
    root: Path, tmp_path: Path, content: bytes, relay: MakeRelay
) -> None:
    """What comes for others counts only as far as it may have been in front."""
    pids = tmp_path / "pids"
    lines = [f"ForceCommand echo $$ >> {pids}; exec {SFTP_SERVER}"]
    ended = threading.Event()
    with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd:
        settings = settings_of(sshd, relay(sshd, mbit=200).port)  # so that packets come in pieces
        connection = connect(settings, Credentials((sshd.identity,)), HostKeyPolicy(settings, None), QUICK)
        with contextlib.closing(connection):
            hung = SftpSession(connection.open_sftp(), Line())
            hung.start()
            os.kill(int(pids.read_text()), signal.SIGSTOP)
            busy = SftpSession(connection.open_sftp(), Line())
            busy.start()
            opened = busy.open(os.fsencode(root / "big"))

            def read() -> None:
                while not ended.is_set():
                    busy.ask(Kind.READ, read_body(opened.handle, 0, busy.read_limit))

            reader = threading.Thread(target=read)
            reader.start()
            with pytest.raises(TimedOut):
                hung.stat(os.fsencode(root))
            ended.set()
            reader.join()
            assert busy.is_open


@pytest.mark.parametrize("stalled_in", ["open", "verify", "exec", "exec input"])
def test_nothing_hangs_on_a_stalled_line(
    server: Server, line: Relay, target: Target, content: bytes, stalled_in: str
) -> None:
    def use() -> None:
        if stalled_in == "open":
            target.fill(server, BIG)
        elif stalled_in == "verify":
            server.verify_store()
        else:
            with server.exec("cat") as command:
                if stalled_in == "exec input":
                    command.write(bytes(64 * MIB))
                command.read(1)

    line.stall()
    with pytest.raises((TimedOut, Unreachable)):
        use()
    line.resume()
    wait_until(lambda: server.state == "connected", "the line to come back")
    server.verify_store()


def test_all_readers_of_a_stalled_line_are_told(
    server: Server, line: Relay, root: Path, tmp_path: Path, content: bytes
) -> None:
    targets = [Target(tmp_path / f"target{number}") for number in range(4)]
    errors: list[ServerError] = []
    stall = threading.Barrier(5)

    def fill(target: Target) -> None:
        try:
            target.fill(server, BIG, After(3, lambda: stall.wait(20) and stall.wait(20)))
        except ServerError as error:
            errors.append(error)

    threads = [threading.Thread(target=fill, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    stall.wait(20)
    line.stall()
    stall.wait(20)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(errors) == 4
    line.resume()
    for target in targets:
        target.fill(server, BIG, the_rest(target))
        assert target.content(SIZE) == content
        target.close()


@pytest.mark.promise("A2")
def test_while_the_server_is_away_calls_fail_at_once_until_it_is_back(
    server: Server, line: Relay, target: Target, content: bytes
) -> None:
    states: list[State] = []
    server.on_state(states.append)
    line.refuse()
    wait_until(lambda: isinstance(server.last_error, Unreachable), "the attempt to reconnect to fail")
    wait_until(lambda: "127.0.0.1" in str(server.last_error), "the reason of the attempt")
    for _ in range(3):
        with pytest.raises(Unreachable, match="not connected"):
            target.fill(server, BIG)
        with pytest.raises(Unreachable), server.exec("true"):
            pass
    assert server.state == "reconnecting"
    line.accept()
    wait_until(lambda: server.state == "connected", "the server to be found again")
    target.fill(server, BIG)
    assert target.content(SIZE) == content
    assert states == ["reconnecting", "connected"]


def test_an_idle_line_that_is_cut_is_replaced_before_anybody_asks(server: Server, line: Relay) -> None:
    line.drop()
    wait_until(lambda: server.counters.connections == 2, "a new connection")
    server.verify_store()


def test_closing_ends_a_transfer_that_waits(server: Server, line: Relay, target: Target, content: bytes) -> None:
    errors: list[ServerError] = []

    def fill() -> None:
        try:
            target.fill(server, BIG, After(10, line.stall))
        except ServerError as error:
            errors.append(error)

    reader = threading.Thread(target=fill)
    reader.start()
    wait_until(lambda: len(target.received) >= 3, "the transfer to run")
    server.close()
    reader.join(20)
    assert not reader.is_alive()
    assert len(errors) == 1
    assert server.state == "disconnected"
    with pytest.raises(Unreachable):
        target.fill(server, BIG)


def test_closing_ends_while_the_server_is_away(server: Server, line: Relay) -> None:
    line.refuse()
    wait_until(lambda: server.state == "reconnecting", "the loss to be noticed")
    server.close()
    assert server.state == "disconnected"


def test_a_server_that_was_closed_can_be_connected_again(
    server: Server, line: Relay, target: Target, content: bytes
) -> None:
    server.close()
    server.close()
    line.resume()
    server.connect()
    target.fill(server, BIG)
    assert target.content(SIZE) == content


def test_a_server_that_is_started_again_is_found_again(
    own_sshd: PrivateSshd, root: Path, target: Target, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server_at(own_sshd, root, timeouts=QUICK) as server:
        with pytest.raises(ConnectionLost):
            target.fill(server, BIG, After(5, own_sshd.kill))
        own_sshd.start()
        wait_until(lambda: server.state == "connected", "the server to be found again")
        target.fill(server, BIG, the_rest(target))
        assert target.content(SIZE) == content


@pytest.mark.skipif(not SFTP_SERVER.exists(), reason=f"there is no {SFTP_SERVER}")
def test_a_session_that_dies_alone_costs_no_connection(
    root: Path, target: Target, content: bytes, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    lines = [f"ForceCommand echo $$ >> {pids}; exec {SFTP_SERVER}"]

    def end_the_sessions() -> None:
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGKILL)

    with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd, server_at(sshd, root) as server:
        with pytest.raises(ConnectionLost):
            target.fill(server, BIG, After(5, end_the_sessions))
        while the_rest(target):
            with contextlib.suppress(ConnectionLost):  # another session, which died the same moment
                target.fill(server, BIG, the_rest(target))
        assert target.content(SIZE) == content
        assert server.counters.connections == 1


def test_a_command_that_ends_costs_no_connection_however_long_the_line_was_idle(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Silence counts from when something was asked."""
    with PrivateSshd(tmp_path / "sshd", config_lines=["ForceCommand true"]) as sshd, server_at(sshd, root) as server:
        link = server._lifeline.link
        assert link is not None
        link.connection._wire.heard_at -= 60  # as after a minute in which nobody asked for anything
        with pytest.raises(ConnectionLost), server.exec("anything") as command:
            command.write(bytes(16 * MIB))  # more than the server takes for a command that reads nothing
        assert server.state == "connected"
        assert server.counters.connections == 1
    assert "was lost" not in caplog.text


@pytest.mark.parametrize("ends", ["we", "the server"])
def test_what_is_said_too_late_on_a_channel_costs_no_connection(root: Path, tmp_path: Path, ends: str) -> None:
    """paramiko lets go of a channel before it sends, so another thread may say CLOSE in between, and the server ends
    the whole connection for data behind that."""
    command = "cat" if ends == "we" else "true"
    with PrivateSshd(tmp_path / "sshd", config_lines=[f"ForceCommand {command}"]) as sshd:
        settings = settings_of(sshd)
        connection = connect(settings, Credentials((sshd.identity,)), HostKeyPolicy(settings, None), Timeouts())
        with contextlib.closing(connection):
            channel = connection.open_exec("anything")
            late = paramiko.Message()
            late.add_byte(paramiko.common.cMSG_CHANNEL_DATA)
            late.add_int(channel.remote_chanid)
            late.add_string(b"too late")
            if ends == "we":
                channel.close()
            wait_until(lambda: channel.closed, "the end of the channel")
            wait_until(lambda: sshd.log().count("Close session") == 1, "the server to forget the channel")
            channel.transport._send_user_message(late)  # type: ignore[union-attr]
            again = connection.open_exec("anything")
            assert again.recv(1) == b"" if ends == "the server" else again.send(b"x") == 1
            assert connection.is_alive


def test_a_login_that_is_cut_anywhere_is_a_line_that_broke(sshd: PrivateSshd, relay: MakeRelay, root: Path) -> None:
    """Above all it is no refused login, after which nobody would try again."""
    line = relay(sshd)
    outcomes = set()
    for count in range(1, 2000, 90):  # the login has some 1900 bytes
        line.drop_after(count)
        with server_at(sshd, root, port=line.port, connect=False) as server:
            try:
                server.connect()
            except ServerError as error:
                outcomes.add(type(error))
        line.drop()
    assert outcomes <= {ConnectionLost, Unreachable}
    assert ConnectionLost in outcomes

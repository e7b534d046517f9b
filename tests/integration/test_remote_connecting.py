"""Connecting: host keys, ways to log in, and one clear sentence for everything that can go wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko import common
from paramiko.server import InteractiveQuery

from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import (
    AuthenticationFailed,
    HostKeyChanged,
    HostKeyUnknown,
    InvalidInput,
    ProtocolError,
    RunicornFSError,
    TimedOut,
    Unreachable,
)
from runicornfs.remote.address import RemoteSource
from runicornfs.remote.hostkeys import UnknownHostKey, accept_fingerprint
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import Server
from runicornfs.remote.sshconfig import HostSettings, resolve_host
from runicornfs.remote.timeouts import Timeouts
from tests.remotes import server_at, settings_of
from tests.waiting import wait_until


def keygen(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", path, "-t", "ed25519", *options], check=True)
    return path


def connect(settings: HostSettings, credentials: Credentials | None = None, timeouts: Timeouts | None = None) -> None:
    """Connect, see that it works, disconnect; raises what connecting raises."""
    server = Server(settings, "/", credentials, timeouts=timeouts)
    threads = threading.active_count()
    try:
        server.connect()
        assert server.inspect_store().readable
    finally:
        server.close()
        wait_until(lambda: threading.active_count() <= threads, "all threads to end")


class TestHostKey:
    """No login before the server's key is known."""

    def test_a_known_key(self, sshd: PrivateSshd) -> None:
        connect(settings_of(sshd), Credentials((sshd.identity,)))

    def test_an_unknown_key_is_refused_and_nothing_is_tried(self, own_sshd: PrivateSshd, tmp_path: Path) -> None:
        settings = settings_of(own_sshd, user_known_hosts=(tmp_path / "none",))
        with pytest.raises(HostKeyUnknown) as refusal:
            connect(settings, Credentials((own_sshd.identity,), password="secret"))
        assert refusal.value.fingerprint == own_sshd.host_key_fingerprint
        assert refusal.value.key_type == "ssh-ed25519"
        assert not (tmp_path / "none").exists()
        assert "Accepted" not in own_sshd.log()
        assert "Failed" not in own_sshd.log()

    def test_the_right_fingerprint_is_accepted_once_and_for_all(self, sshd: PrivateSshd, tmp_path: Path) -> None:
        settings = settings_of(sshd, user_known_hosts=(tmp_path / "hosts",))
        server = Server(
            settings, "/", Credentials((sshd.identity,)), confirm=accept_fingerprint(sshd.host_key_fingerprint)
        )
        server.connect()
        server.close()
        connect(settings, Credentials((sshd.identity,)))

    def test_another_fingerprint_is_not(self, sshd: PrivateSshd, tmp_path: Path) -> None:
        settings = settings_of(sshd, user_known_hosts=(tmp_path / "hosts",))
        server = Server(settings, "/", Credentials((sshd.identity,)), confirm=accept_fingerprint("SHA256:AAAA"))
        with pytest.raises(HostKeyUnknown):
            server.connect()
        server.close()

    def test_a_changed_key_is_refused_whatever_is_confirmed(self, sshd: PrivateSshd, tmp_path: Path) -> None:
        other = keygen(tmp_path / "other").with_suffix(".pub").read_text()
        (tmp_path / "hosts").write_text(f"[127.0.0.1]:{sshd.port} {other}")
        asked: list[UnknownHostKey] = []

        def confirm(unknown: UnknownHostKey) -> bool:
            asked.append(unknown)
            return True

        settings = settings_of(sshd, user_known_hosts=(tmp_path / "hosts",))
        server = Server(settings, "/", Credentials((sshd.identity,)), confirm=confirm)
        with pytest.raises(HostKeyChanged, match="CHANGED"):
            server.connect()
        assert asked == []
        assert isinstance(server.last_error, HostKeyChanged)
        server.close()

    @pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
    def test_the_server_is_asked_for_the_type_of_key_that_is_known(self, tmp_path: Path, kind: str) -> None:
        lines = []
        for name in ("rsa", "ecdsa"):
            lines.append(f"HostKey {keygen(tmp_path / name, '-t', name)}")
        with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd:
            public = tmp_path / f"{kind}.pub" if kind != "ed25519" else sshd.folder / "host_key.pub"
            (tmp_path / "hosts").write_text(f"[127.0.0.1]:{sshd.port} {public.read_text()}")
            connect(settings_of(sshd, user_known_hosts=(tmp_path / "hosts",)), Credentials((sshd.identity,)))


class TestLogin:
    """Ways to log in, and what is said when none of them does."""

    def test_a_key_as_text(self, sshd: PrivateSshd) -> None:
        connect(settings_of(sshd), Credentials(private_key=sshd.identity.read_text()))

    def test_a_key_of_the_configuration(self, sshd: PrivateSshd) -> None:
        connect(settings_of(sshd, identity_files=(Path("/nowhere"), sshd.identity)))

    @pytest.mark.parametrize("options", [("-t", "rsa", "-m", "PKCS8"), ("-t", "ecdsa", "-m", "PEM"), ("-t", "rsa")])
    def test_keys_of_other_types_and_formats(self, own_sshd: PrivateSshd, tmp_path: Path, options: list[str]) -> None:
        key = keygen(tmp_path / "key", *options)
        with open(own_sshd.folder / "authorized_keys", "a") as file:
            file.write((tmp_path / "key.pub").read_text())
        connect(settings_of(own_sshd), Credentials((key,)))

    def test_an_encrypted_key(self, sshd: PrivateSshd, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_bytes(sshd.identity.read_bytes())
        key.chmod(0o600)
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True)
        connect(settings_of(sshd), Credentials((key,), passphrase="open sesame"))
        with pytest.raises(AuthenticationFailed, match="encrypted"):
            connect(settings_of(sshd), Credentials((key,)))
        with pytest.raises(AuthenticationFailed, match="does not open"):
            connect(settings_of(sshd), Credentials((key,), passphrase="a guess"))
        with pytest.raises(AuthenticationFailed, match=r"not usable: .*key \(encrypted\)"):
            connect(settings_of(sshd, identity_files=(key,)))

    def test_a_key_that_is_not_there(self, sshd: PrivateSshd) -> None:
        with pytest.raises(InvalidInput, match="there is no key file /nowhere"):
            connect(settings_of(sshd), Credentials((Path("/nowhere"),)))

    def test_a_refused_key(self, sshd: PrivateSshd, tmp_path: Path) -> None:
        key = keygen(tmp_path / "key")
        with pytest.raises(AuthenticationFailed) as refusal:
            connect(settings_of(sshd), Credentials((key,), password="secret"))
        said = str(refusal.value)
        assert f"tried key {key}; the password was not asked for; the server takes publickey: check that" in said
        assert "authorized_keys" in str(refusal.value)
        assert "secret" not in str(refusal.value)

    def test_nothing_to_try(self, sshd: PrivateSshd) -> None:
        with pytest.raises(
            AuthenticationFailed,
            match="there was nothing to try; the server takes publickey: name a key with --identity",
        ):
            connect(settings_of(sshd))

    def test_more_keys_than_the_server_lets_try(self, sshd: PrivateSshd, tmp_path: Path) -> None:
        keys = tuple(keygen(tmp_path / f"key{number}") for number in range(8))
        with pytest.raises(AuthenticationFailed, match="tried key"):
            connect(settings_of(sshd), Credentials(keys))

    def test_an_unknown_user(self, sshd: PrivateSshd) -> None:
        with pytest.raises(AuthenticationFailed, match="nobody-here@127"):
            connect(settings_of(sshd, user="nobody-here"), Credentials((sshd.identity,)))

    def test_a_certificate(self, tmp_path: Path) -> None:
        authority, key = keygen(tmp_path / "ca"), keygen(tmp_path / "key")
        lines = [f"TrustedUserCAKeys {authority}.pub"]
        with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd:
            sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "x", "-n", sshd.user, f"{key}.pub"]
            subprocess.run(sign, check=True)
            connect(settings_of(sshd), Credentials((key,)))


class TestAgent:
    """Keys that an agent holds."""

    @pytest.fixture
    def agent(self, tmp_path: Path) -> Iterator[Path]:
        path = tmp_path / "agent"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # it says where it listens when it does
        yield path
        process.terminate()
        process.communicate(timeout=10)

    @staticmethod
    def add(agent: Path, key: Path) -> None:
        subprocess.run(["ssh-add", "-q", key], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(agent)})

    def test_a_key_of_the_agent(self, sshd: PrivateSshd, agent: Path) -> None:
        self.add(agent, sshd.identity)
        connect(settings_of(sshd, agent_socket=str(agent)))

    def test_an_agent_that_is_not_to_be_asked(self, sshd: PrivateSshd, agent: Path) -> None:
        self.add(agent, sshd.identity)
        with pytest.raises(AuthenticationFailed, match="nothing to try"):
            connect(settings_of(sshd, agent_socket=str(agent)), Credentials(use_agent=False))

    def test_with_identities_only_the_agent_may_use_the_configured_keys_alone(
        self, sshd: PrivateSshd, agent: Path, tmp_path: Path
    ) -> None:
        self.add(agent, sshd.identity)
        settings = settings_of(sshd, agent_socket=str(agent), identities_only=True)
        with pytest.raises(AuthenticationFailed):
            connect(settings)
        public = tmp_path / "only.pub"  # the private half is in the agent alone
        public.write_text(sshd.identity.with_suffix(".pub").read_text())
        connect(dataclasses.replace(settings, identity_files=(tmp_path / "only",)))

    def test_an_agent_that_is_gone_is_named(self, sshd: PrivateSshd, tmp_path: Path) -> None:
        with pytest.raises(AuthenticationFailed, match="not usable: the agent at"):
            connect(settings_of(sshd, agent_socket=str(tmp_path / "gone")))
        connect(settings_of(sshd, agent_socket=str(tmp_path / "gone")), Credentials((sshd.identity,)))


class PasswordServer(paramiko.ServerInterface):
    """What paramiko needs for a server that takes one password, plainly or as the answer to a question."""

    def __init__(self, ways: str, questions: list[list[tuple[str, bool]]]) -> None:
        self._ways = ways
        self._questions = questions
        self.answers: list[list[str]] = []

    def get_allowed_auths(self, username: str) -> str:
        return self._ways

    def check_auth_password(self, username: str, password: str) -> int:
        right = "password" in self._ways.split(",") and password == "pass-word"
        return common.AUTH_SUCCESSFUL if right else common.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> InteractiveQuery | int:
        return InteractiveQuery("", "", *self._questions[0])

    def check_auth_interactive_response(self, responses: list[str]) -> InteractiveQuery | int:
        self.answers.append(responses)
        if len(self.answers) < len(self._questions):
            return InteractiveQuery("", "", *self._questions[len(self.answers)])
        return common.AUTH_SUCCESSFUL if ["pass-word"] in self.answers and len(responses) < 2 else common.AUTH_FAILED


Ask = Callable[..., tuple[HostSettings, PasswordServer]]


class TestPassword:
    """Passwords, with a server of paramiko's that asks what sshd cannot be made to ask for."""

    @pytest.fixture
    def at(self, tmp_path: Path) -> Iterator[Ask]:
        """Starts a server for one connection that allows these ways and asks these questions, list after list."""
        key = paramiko.ECDSAKey.generate()
        listener = socket.create_server(("127.0.0.1", 0))
        transports: list[paramiko.Transport] = []
        threads: list[threading.Thread] = []

        def start(ways: str, *questions: list[tuple[str, bool]]) -> tuple[HostSettings, PasswordServer]:
            server = PasswordServer(ways, list(questions))

            def serve() -> None:
                connection, _ = listener.accept()
                transports.append(paramiko.Transport(connection))
                transports[0].add_server_key(key)
                transports[0].start_server(threading.Event(), server)

            threads.append(threading.Thread(target=serve))
            threads[0].start()
            port = listener.getsockname()[1]
            hosts = tmp_path / "hosts"
            hosts.write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
            return HostSettings("127.0.0.1", "127.0.0.1", port, "ada", user_known_hosts=(hosts,)), server

        yield start
        threads[0].join(10)
        listener.close()
        transports[0].close()

    @staticmethod
    def lets_in(settings: HostSettings) -> None:
        server = Server(settings, "/", Credentials(password="pass-word"))
        server.connect()
        assert server.state == "connected"
        server.close()

    @staticmethod
    def refuses(settings: HostSettings, password: str = "pass-word") -> str:
        server = Server(settings, "/", Credentials(password=password))
        with pytest.raises(AuthenticationFailed) as refusal:
            server.connect()
        server.close()
        assert password not in str(refusal.value)
        return str(refusal.value)

    def test_the_right_password(self, at: Ask) -> None:
        self.lets_in(at("password")[0])

    def test_a_question_that_asks_for_it(self, at: Ask) -> None:
        self.lets_in(at("keyboard-interactive", [("Password: ", False)])[0])

    def test_a_message_after_it_needs_no_answer(self, at: Ask) -> None:
        settings, server = at("keyboard-interactive", [("Password: ", False)], [])
        self.lets_in(settings)
        assert server.answers == [["pass-word"], []]

    @pytest.mark.parametrize("ways", ["password", "keyboard-interactive"])
    def test_a_wrong_one_is_not_repeated(self, at: Ask, ways: str) -> None:
        settings, server = at(ways, [("Password: ", False)])
        assert "tried password" in self.refuses(settings, "a-guess")
        assert server.answers in ([], [["a-guess"]])

    def test_a_second_question_gets_no_password_and_is_named(self, at: Ask) -> None:
        settings, server = at(
            "keyboard-interactive", [("Password: ", False)], [("Code\x1b[2J: ", False), ("PIN:", False)]
        )
        said = self.refuses(settings)
        assert said.endswith("let it ask nothing else than a password: 'PIN:' cannot be answered here")
        assert server.answers == [["pass-word"], ["", ""]]

    def test_a_question_whose_answer_is_shown_gets_no_password(self, at: Ask) -> None:
        settings, server = at("keyboard-interactive", [("Name\x1b[2J:\n", True)])
        assert "'Name[2J:' cannot be answered here" in self.refuses(settings)
        assert server.answers == [[""]]

    def test_a_server_that_takes_neither_is_said_to(self, at: Ask) -> None:
        said = self.refuses(at("gssapi-with-mic,hostbased")[0])
        assert "the server takes gssapi-with-mic, hostbased: runicornfs logs in with a key or a password only" in said


Speech = Callable[[socket.socket], None]


class TestNoServer:
    """Whatever answers at the address, or does not."""

    QUICK = Timeouts(connect=0.5, read=0.5)

    @pytest.fixture
    def at(self, tmp_path: Path) -> Iterator[Callable[[Speech], HostSettings]]:
        """Starts a server that says what it is told to; it hangs up at the end of the test."""
        listener = socket.create_server(("127.0.0.1", 0))
        over = threading.Event()
        threads: list[threading.Thread] = []

        def start(speak: Speech) -> HostSettings:
            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    speak(connection)
                    over.wait(20)

            threads.append(threading.Thread(target=serve))
            threads[0].start()
            port = listener.getsockname()[1]
            return HostSettings("127.0.0.1", "127.0.0.1", port, "ada", user_known_hosts=(tmp_path / "hosts",))

        yield start
        over.set()
        for thread in threads:
            thread.join(10)
        listener.close()

    def fails(self, settings: HostSettings) -> RunicornFSError:
        server = Server(settings, "/", timeouts=self.QUICK)
        threads = threading.active_count()
        with pytest.raises(RunicornFSError) as failure:
            server.connect()
        assert server.state == "disconnected"
        assert server.last_error is failure.value
        assert not str(failure.value).endswith(".")
        server.close()
        wait_until(lambda: threading.active_count() <= threads, "all threads to end")
        return failure.value

    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        error = self.fails(HostSettings("gpu", "127.0.0.1", port, "ada"))
        assert isinstance(error, Unreachable)
        assert f"gpu:{port} refuses connections" in str(error)

    def test_a_name_that_there_is_not(self) -> None:
        error = self.fails(HostSettings("gpu", "no-such-host.invalid", 22, "ada"))
        assert isinstance(error, Unreachable)
        assert "no-such-host.invalid cannot be found" in str(error)

    def test_a_name_that_can_be_none(self) -> None:
        assert isinstance(self.fails(HostSettings("gpu", "a" * 300, 22, "ada")), Unreachable)

    def test_a_server_that_takes_no_connection(self) -> None:
        with socket.socket() as full:  # a queue of one that is full: further SYNs are dropped
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            waiting = [socket.socket() for _ in range(3)]
            for queued in waiting:
                queued.setblocking(False)
                queued.connect_ex(("127.0.0.1", port))
            error = self.fails(HostSettings("gpu", "127.0.0.1", port, "ada"))
            for queued in waiting:
                queued.close()
        assert isinstance(error, TimedOut)
        assert "did not answer within 0.5 s" in str(error)

    def test_silence(self, at: Callable[[Speech], HostSettings]) -> None:
        error = self.fails(at(lambda connection: None))
        assert isinstance(error, TimedOut)
        assert "did not speak SSH" in str(error)

    def test_silence_after_the_greeting(self, at: Callable[[Speech], HostSettings]) -> None:
        assert isinstance(self.fails(at(lambda connection: connection.sendall(b"SSH-2.0-x\r\n"))), TimedOut)

    def test_a_connection_that_is_hung_up_at_once(self, at: Callable[[Speech], HostSettings]) -> None:
        error = self.fails(at(lambda connection: connection.shutdown(socket.SHUT_RDWR)))
        assert isinstance(error, Unreachable)
        assert "is sshd running there?" in str(error)

    def test_a_connection_that_breaks_after_the_greeting(self, at: Callable[[Speech], HostSettings]) -> None:
        def speak(connection: socket.socket) -> None:
            connection.sendall(b"SSH-2.0-x\r\n")
            connection.recv(10)
            connection.shutdown(socket.SHUT_RDWR)

        assert isinstance(self.fails(at(speak)), Unreachable)

    def test_something_else_than_ssh(self, at: Callable[[Speech], HostSettings]) -> None:
        error = self.fails(at(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 200)))
        assert isinstance(error, ProtocolError)
        assert "is no SSH server" in str(error)

    def test_a_protocol_of_long_ago(self, at: Callable[[Speech], HostSettings]) -> None:
        assert isinstance(self.fails(at(lambda connection: connection.sendall(b"SSH-1.5-x\r\n"))), ProtocolError)

    def test_noise_after_the_greeting(self, at: Callable[[Speech], HostSettings]) -> None:
        error = self.fails(at(lambda connection: connection.sendall(b"SSH-2.0-x\r\n" + b"noise" * 1000)))
        assert isinstance(error, (ProtocolError, TimedOut, Unreachable))

    @pytest.mark.promise("S8")
    def test_a_greeting_without_end(self, at: Callable[[Speech], HostSettings]) -> None:
        def speak(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):  # until we hang up
                while True:
                    connection.sendall(b"Welcome. " * 1000)

        error = self.fails(at(speak))
        assert isinstance(error, ProtocolError)
        assert "is no SSH server" in str(error)

    @pytest.mark.promise("S8")
    def test_a_packet_of_two_gigabytes(self, at: Callable[[Speech], HostSettings]) -> None:
        sent = 0

        def speak(connection: socket.socket) -> None:
            nonlocal sent
            connection.sendall(b"SSH-2.0-x\r\n" + (0x7FFFFFF4).to_bytes(4, "big"))
            with contextlib.suppress(OSError):
                while True:
                    sent += connection.send(bytes(1 << 16))

        assert isinstance(self.fails(at(speak)), ProtocolError)
        assert sent < 64 << 20, "what the sockets hold, and no more"


def test_a_host_alias_from_an_ssh_configuration(sshd: PrivateSshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host gpu\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n"
        f"  IdentityFile {sshd.identity}\n  UserKnownHostsFile {sshd.known_hosts}\n"
    )
    server = Server(resolve_host(RemoteSource("gpu", "/"), config_file=config), "/")
    assert str(server.address) == f"sftp://{sshd.user}@gpu:{sshd.port}/"
    server.connect()
    server.close()


def test_connecting_twice_is_one_connection(sshd: PrivateSshd, tmp_path: Path) -> None:
    with server_at(sshd, tmp_path) as server:
        server.connect()
        assert server.counters.connections == 1


def test_the_cipher_is_the_fast_one(sshd: PrivateSshd, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "runicornfs.remote.paramiko")
    with server_at(sshd, tmp_path):
        pass
    assert "Cipher: aes128-gcm@openssh.com" in caplog.text


@pytest.mark.parametrize(
    "weak", [("Ciphers aes128-ctr", "MACs hmac-sha1,hmac-sha1-etm@openssh.com"), ("Ciphers aes128-cbc",)]
)
def test_a_server_that_has_weak_algorithms_only_is_refused(tmp_path: Path, weak: tuple[str, ...]) -> None:
    with (
        PrivateSshd(config_lines=weak) as sshd,
        pytest.raises(ProtocolError, match="no way to encrypt in common"),
        server_at(sshd, tmp_path),
    ):
        pass


def test_paramikos_own_log_is_for_debugging_only(
    sshd: PrivateSshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with server_at(sshd, tmp_path):
        pass
    assert [record.name for record in caplog.records if "paramiko" in record.name] == []

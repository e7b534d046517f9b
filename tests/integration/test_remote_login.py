"""Logging in where a real sshd asks for it: passwords, questions, several methods, and what a refusal says.

The password is that of an account of this machine which exists for these tests alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import AuthenticationFailed
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import Server
from runicornfs.remote.sshconfig import HostSettings
from tests.agents import add_keys, running_agent
from tests.passwords import Account, account_with_password
from tests.remotes import settings_of
from tests.waiting import wait_until

PASSWORD = ("PasswordAuthentication yes",)
PASSWORD_BY_PAM = ("PasswordAuthentication yes", "UsePAM yes")
QUESTIONS = ("UsePAM yes", "KbdInteractiveAuthentication yes")
EITHER = (*QUESTIONS, "PasswordAuthentication yes")
KEY_AND_PASSWORD = ("PasswordAuthentication yes", "AuthenticationMethods publickey,password")
KEY_AND_QUESTIONS = (*QUESTIONS, "AuthenticationMethods publickey,keyboard-interactive")
TWO_KEYS = ("AuthenticationMethods publickey,publickey",)


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with account_with_password() as made:
        yield made


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can read, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    with running_agent(tmp_path / "agent") as path:
        yield path


class Door:
    """An sshd that lets the account in, as its configuration says."""

    def __init__(self, sshd: PrivateSshd, account: Account, authorized: Path) -> None:
        self.sshd = sshd
        self.account = account
        self.settings: HostSettings = settings_of(sshd, user=account.name)
        self.key = Credentials((sshd.identity,))
        self.password = Credentials(password=account.password)
        self._authorized = authorized

    def authorize(self, public: Path) -> None:
        with open(self._authorized, "a") as file:
            file.write(public.read_text())

    def lets_in(self, credentials: Credentials, settings: HostSettings | None = None) -> Server:
        """A connection that works, closed already."""
        server = Server(settings or self.settings, "/", credentials)
        try:
            server.connect()
            assert server.inspect_store().readable
        finally:
            server.close()
        return server

    def refuses(self, credentials: Credentials, settings: HostSettings | None = None) -> str:
        """The sentence, in which no secret is."""
        with pytest.raises(AuthenticationFailed) as refusal:
            self.lets_in(credentials, settings)
        said = str(refusal.value)
        assert said.startswith(f"{self.account.name}@127.0.0.1 refused the login: ")
        assert not said.endswith(".")
        for secret in (credentials.password, credentials.passphrase):
            assert secret is None or secret not in said
        return said


@pytest.fixture
def door(account: Account, open_folder: Path) -> Iterator[Callable[..., Door]]:
    with ExitStack() as stack:

        def make(*lines: str) -> Door:
            authorized = open_folder / "authorized_keys"
            own = [f"AllowUsers {account.name}", f"AuthorizedKeysFile {authorized}", *lines]
            sshd = stack.enter_context(PrivateSshd(config_lines=own))
            shutil.copyfile(sshd.folder / "authorized_keys", authorized)
            return Door(sshd, account, authorized)

        yield make


def keys(folder: Path, count: int) -> list[Path]:
    made = [folder / f"key{number}" for number in range(count)]
    for key in made:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return made


@pytest.mark.parametrize("lines", [PASSWORD, PASSWORD_BY_PAM, QUESTIONS])
def test_a_password_opens_whichever_way_it_is_asked_for(door: Callable[..., Door], lines: tuple[str, ...]) -> None:
    at = door(*lines)
    at.lets_in(at.password)


@pytest.mark.parametrize("lines", [PASSWORD, QUESTIONS, EITHER])
def test_a_wrong_password_is_sent_once_and_said_to_be_wrong(door: Callable[..., Door], lines: tuple[str, ...]) -> None:
    at = door(*lines)
    said = at.refuses(Credentials(password="a-wrong-guess"))
    assert "tried password" in said
    assert ": check the password, or name a key" in said
    wait_until(lambda: "Connection closed by" in at.sshd.log() or "Disconnected" in at.sshd.log(), "sshd to say so")
    assert len(re.findall(r"^Failed (?:password|keyboard)", at.sshd.log(), re.M)) == 1


@pytest.mark.parametrize("lines", [KEY_AND_PASSWORD, KEY_AND_QUESTIONS])
def test_a_key_and_a_password_where_both_are_demanded(door: Callable[..., Door], lines: tuple[str, ...]) -> None:
    at = door(*lines)
    at.lets_in(replace(at.key, password=at.account.password))
    at.lets_in(at.password, replace(at.settings, identity_files=(at.sshd.identity,)))


@pytest.mark.parametrize("lines", [KEY_AND_PASSWORD, KEY_AND_QUESTIONS])
def test_a_second_method_that_is_missing_is_named(door: Callable[..., Door], lines: tuple[str, ...]) -> None:
    at = door(*lines)
    method = lines[-1].rpartition(",")[2]
    said = at.refuses(at.key)
    assert f"user_key (accepted, but the server wants {method} as well); the server takes {method}: " in said
    assert said.endswith(": give a password with --password-stdin")


def test_a_password_is_not_sent_before_the_key_that_is_demanded_first(
    door: Callable[..., Door], tmp_path: Path
) -> None:
    at = door(*KEY_AND_PASSWORD)
    said = at.refuses(Credentials(tuple(keys(tmp_path, 1)), password=at.account.password))
    assert (
        "the password was not asked for; the server takes publickey: check that the account's authorized_keys" in said
    )
    assert "Failed password" not in at.sshd.log()
    assert "Accepted password" not in at.sshd.log()


def test_two_keys_where_two_are_demanded(door: Callable[..., Door], tmp_path: Path) -> None:
    at = door(*TWO_KEYS)
    second = keys(tmp_path, 1)[0]
    at.authorize(second.with_suffix(".pub"))
    assert "the server wants publickey as well" in at.refuses(at.key)
    at.lets_in(Credentials((at.sshd.identity, second)))


@pytest.mark.parametrize(("lines", "takes"), [(PASSWORD, "password"), (QUESTIONS, "keyboard-interactive")])
def test_a_server_that_takes_passwords_only_is_said_to(
    door: Callable[..., Door], lines: tuple[str, ...], takes: str
) -> None:
    at = door(*lines, "PubkeyAuthentication no")
    said = at.refuses(at.key)
    assert said.endswith(f"there was nothing to try; the server takes {takes}: give a password with --password-stdin")


def test_a_named_password_is_not_crowded_out_by_the_agents_keys(
    door: Callable[..., Door], agent: Path, tmp_path: Path
) -> None:
    at = door(*PASSWORD)
    add_keys(agent, *keys(tmp_path, 8))
    at.lets_in(at.password, replace(at.settings, agent_socket=str(agent)))


def test_a_server_that_hangs_up_after_too_many_keys(door: Callable[..., Door], agent: Path, tmp_path: Path) -> None:
    at = door("MaxAuthTries 3")
    many = keys(tmp_path, 5)
    add_keys(agent, *many)
    settings = replace(at.settings, agent_socket=str(agent))
    said = at.refuses(Credentials(), settings)
    assert said.count("agent key") < 5
    assert "IdentitiesOnly" in said
    at.lets_in(at.key, settings)
    right = at.sshd.identity
    at.authorize(many[-1].with_suffix(".pub"))
    at.lets_in(Credentials(), replace(settings, identity_files=(many[-1],)))
    at.lets_in(Credentials(), replace(settings, identities_only=True, identity_files=(right,)))


def test_methods_that_the_configuration_switches_off_are_not_used(door: Callable[..., Door]) -> None:
    at = door(*PASSWORD)
    said = at.refuses(at.password, replace(at.settings, methods=("publickey",)))
    assert "the password was not asked for" in said
    assert "Failed password" not in at.sshd.log()
    said = at.refuses(at.key, replace(at.settings, methods=()))
    assert said.endswith("allow publickey or password in the SSH configuration, which switches it off")


class TestAsking:
    """What nobody gave is asked of the person at the terminal, if there is one."""

    @staticmethod
    def person(*answers: str | None) -> tuple[list[str], Credentials]:
        asked: list[str] = []
        left = list(answers)

        def ask(question: str) -> str | None:
            asked.append(question)
            return left.pop(0)

        return asked, Credentials(ask=ask)

    @pytest.mark.parametrize("lines", [PASSWORD, QUESTIONS])
    def test_a_password_is_asked_for_until_it_is_right(self, door: Callable[..., Door], lines: tuple[str, ...]) -> None:
        at = door(*lines)
        asked, credentials = self.person("a-wrong-guess", at.account.password)
        at.lets_in(credentials)
        assert asked == [f"Password of {at.account.name}@127.0.0.1"] * 2

    def test_what_was_typed_serves_the_next_connection(self, door: Callable[..., Door]) -> None:
        at = door(*PASSWORD)
        asked, credentials = self.person(at.account.password)
        at.lets_in(credentials)
        at.lets_in(credentials)
        assert len(asked) == 1
        assert at.account.password not in repr(credentials)

    def test_after_three_wrong_ones_it_is_enough(self, door: Callable[..., Door]) -> None:
        at = door(*PASSWORD)
        asked, credentials = self.person("one-wrong", "two-wrong", "three-wrong")
        said = at.refuses(credentials)
        assert "wrong" not in said
        assert len(asked) == 3
        assert credentials.typed == {}

    def test_nobody_is_asked_where_a_key_opens(self, door: Callable[..., Door]) -> None:
        at = door(*PASSWORD)
        asked, credentials = self.person()
        at.lets_in(replace(credentials, identity_files=(at.sshd.identity,)))
        assert asked == []

    def test_nobody_is_asked_for_what_the_server_does_not_take(self, door: Callable[..., Door]) -> None:
        at = door()
        asked, credentials = self.person()
        at.refuses(credentials)
        assert asked == []

    def test_nobody_there_is_a_refusal(self, door: Callable[..., Door]) -> None:
        at = door(*PASSWORD)
        asked, credentials = self.person(None)
        assert at.refuses(credentials).endswith("give a password with --password-stdin")
        assert len(asked) == 1

    def test_the_passphrase_of_an_encrypted_key_is_asked_for_once(
        self, door: Callable[..., Door], tmp_path: Path
    ) -> None:
        at = door()
        key = keys(tmp_path, 1)[0]
        at.authorize(key.with_suffix(".pub"))
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True)
        for settings, named in ((at.settings, (key,)), (replace(at.settings, identity_files=(key,)), ())):
            asked, credentials = self.person("a-wrong-guess", "open sesame")
            credentials = replace(credentials, identity_files=named)
            at.lets_in(credentials, settings)
            at.lets_in(credentials, settings)
            assert asked == [f"Passphrase of the key {key}"] * 2

    def test_a_key_that_needs_no_passphrase_is_tried_before_one_that_does(
        self, door: Callable[..., Door], tmp_path: Path
    ) -> None:
        at = door()
        key = keys(tmp_path, 1)[0]
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True)
        asked, credentials = self.person()
        at.lets_in(credentials, replace(at.settings, identity_files=(key, at.sshd.identity)))
        assert asked == []

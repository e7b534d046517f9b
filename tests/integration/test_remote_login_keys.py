"""Every kind of key in every format, from files, text and agents, and certificates, against a real sshd."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import AuthenticationFailed, InvalidInput
from runicornfs.remote import agent as agents
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import Server
from runicornfs.remote.sshconfig import HostSettings
from tests.agents import HardwareKey, running_agent, scripted_agent
from tests.remotes import settings_of

KINDS = {
    "rsa": ("-t", "rsa", "-b", "2048"),
    "ecdsa-256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa-384": ("-t", "ecdsa", "-b", "384"),
    "ecdsa-521": ("-t", "ecdsa", "-b", "521"),
    "ed25519": ("-t", "ed25519"),
}
FORMATS = {"openssh": "RFC4716", "pem": "PEM", "pkcs8": "PKCS8"}
COMBINATIONS = [
    pytest.param(kind, form, passphrase, id=f"{kind}-{form}-{'encrypted' if passphrase else 'plain'}")
    for kind in KINDS
    for form in FORMATS
    for passphrase in ("", "open sesame")
    if (kind, form) != ("ed25519", "pem")  # there is no such format
]


def keygen(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-C", path.name, "-f", path, *options], check=True)
    return path


def lets_in(settings: HostSettings, credentials: Credentials | None = None) -> None:
    server = Server(settings, "/", credentials)
    try:
        server.connect()
        assert server.inspect_store().readable
    finally:
        server.close()


def refuses(settings: HostSettings, credentials: Credentials | None = None) -> str:
    with pytest.raises(AuthenticationFailed) as refusal:
        lets_in(settings, credentials)
    return str(refusal.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one key of every kind lies."""
    made = tmp_path_factory.mktemp("keys")
    for kind, options in KINDS.items():
        keygen(made / kind, *options)
    keygen(made / "ca", "-t", "ed25519")
    keygen(made / "rsa-ca", "-t", "rsa")
    (made / "cas").write_text((made / "ca.pub").read_text() + (made / "rsa-ca.pub").read_text())
    return made


@pytest.fixture(scope="module")
def door(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    """An sshd that takes all of them."""
    with PrivateSshd(tmp_path_factory.mktemp("door"), config_lines=[f"TrustedUserCAKeys {folder}/cas"]) as sshd:
        with open(sshd.folder / "authorized_keys", "w") as file:
            file.writelines((folder / f"{kind}.pub").read_text() for kind in KINDS)
        yield sshd


@pytest.fixture(scope="module")
def strict(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    """An sshd that takes none of them without a certificate."""
    lines = [f"TrustedUserCAKeys {folder}/cas"]
    with PrivateSshd(tmp_path_factory.mktemp("strict"), config_lines=lines) as sshd:
        yield sshd


def written_as(source: Path, target: Path, form: str, passphrase: str) -> Path:
    """A copy of the key in another format, by ssh-keygen where it can write it."""
    if (source.name, form) == ("ed25519", "pkcs8"):  # ssh-keygen writes OpenSSH's format instead
        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase:
            encryption = BestAvailableEncryption(passphrase.encode())
        loaded = load_ssh_private_key(source.read_bytes(), None)
        target.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return target
    shutil.copy(source, target)
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", passphrase, "-m", FORMATS[form], "-f", str(target)]
    subprocess.run(change, check=True, stdout=subprocess.DEVNULL)
    return target


@pytest.mark.parametrize(("kind", "form", "passphrase"), COMBINATIONS)
def test_a_key_opens_from_its_file_and_from_its_text(
    door: PrivateSshd, folder: Path, tmp_path: Path, kind: str, form: str, passphrase: str
) -> None:
    key = written_as(folder / kind, tmp_path / "key", form, passphrase)
    begins = {"openssh": "OPENSSH PRIVATE KEY", "pkcs8": "PRIVATE KEY", "pem": "PRIVATE KEY"}[form]
    assert begins in key.read_text().splitlines()[0]
    given = Credentials((key,), passphrase=passphrase or None)
    lets_in(settings_of(door), given)
    lets_in(settings_of(door), replace(given, identity_files=(), private_key=key.read_text()))
    lets_in(settings_of(door, identity_files=(key,)), replace(given, identity_files=()))
    if passphrase:
        for wrong in (None, "a guess"):
            with pytest.raises(AuthenticationFailed, match="cannot be used: .*--passphrase-stdin") as refusal:
                lets_in(settings_of(door), replace(given, passphrase=wrong))
            assert "guess" not in str(refusal.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_opens_from_an_agent(door: PrivateSshd, folder: Path, tmp_path: Path, kind: str) -> None:
    with running_agent(tmp_path / "agent", folder / kind) as agent:
        lets_in(settings_of(door, agent_socket=str(agent)))


def certified(folder: Path, kind: str, target: Path, *options: str, authority: str = "ca") -> Path:
    """A copy of the key with a certificate of the authority beside it."""
    shutil.copy(folder / kind, target)
    shutil.copy(folder / f"{kind}.pub", f"{target}.pub")
    sign = ["ssh-keygen", "-q", "-s", str(folder / authority), "-I", "x", *options, f"{target}.pub"]
    subprocess.run(sign, check=True)
    return target


class TestCertificate:
    """Certificates for users, from an authority that the sshd trusts; the keys alone it does not know."""

    @pytest.mark.parametrize("authority", ["ca", "rsa-ca"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_one_beside_the_key_opens(
        self, strict: PrivateSshd, folder: Path, tmp_path: Path, kind: str, authority: str
    ) -> None:
        key = certified(folder, kind, tmp_path / "key", "-n", strict.user, authority=authority)
        lets_in(settings_of(strict), Credentials((key,)))

    def test_one_that_the_configuration_names_opens(self, strict: PrivateSshd, folder: Path, tmp_path: Path) -> None:
        certified(folder, "ed25519", tmp_path / "key", "-n", strict.user)
        (tmp_path / "key-cert.pub").rename(tmp_path / "elsewhere")
        settings = settings_of(strict, certificate_files=(tmp_path / "none", folder / "ca", tmp_path / "elsewhere"))
        lets_in(settings, Credentials((tmp_path / "key",)))
        with running_agent(tmp_path / "agent", tmp_path / "key") as agent:
            lets_in(replace(settings, agent_socket=str(agent)))
            assert "tried agent key" in refuses(settings_of(strict, agent_socket=str(agent)))

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_in_an_agent_opens(self, strict: PrivateSshd, folder: Path, tmp_path: Path, kind: str) -> None:
        key = certified(folder, kind, tmp_path / "key", "-n", strict.user)
        with running_agent(tmp_path / "agent", key) as agent:
            lets_in(settings_of(strict, agent_socket=str(agent)))

    def test_a_key_whose_certificate_is_refused_is_tried_alone(
        self, door: PrivateSshd, folder: Path, tmp_path: Path
    ) -> None:
        key = certified(folder, "ed25519", tmp_path / "key", "-n", "somebody-else")
        lets_in(settings_of(door), Credentials((key,)))

    def test_a_refused_certificate_is_named(self, strict: PrivateSshd, folder: Path, tmp_path: Path) -> None:
        key = certified(folder, "ed25519", tmp_path / "key", "-n", strict.user, "-V", "20200101:20200102")
        assert f"tried key {key} with its certificate, key {key};" in refuses(settings_of(strict), Credentials((key,)))

    def test_the_certificate_of_another_key_is_passed_over(
        self, door: PrivateSshd, folder: Path, tmp_path: Path
    ) -> None:
        certified(folder, "ecdsa-256", tmp_path / "key", "-n", door.user)
        shutil.copy(folder / "ed25519", tmp_path / "key")
        lets_in(settings_of(door), Credentials((tmp_path / "key",)))


class TestAgent:
    """Agents that do not do what they should, and public keys that stand for what an agent holds."""

    @pytest.fixture
    def hardware(self) -> HardwareKey:
        return HardwareKey()

    @pytest.fixture
    def blob(self, folder: Path) -> bytes:
        """A key that the sshd takes, if only somebody signs with it."""
        return base64.b64decode((folder / "ed25519.pub").read_text().split()[1])

    def test_a_security_key_opens_through_its_agent(
        self, own_sshd: PrivateSshd, tmp_path: Path, hardware: HardwareKey
    ) -> None:
        with open(own_sshd.folder / "authorized_keys", "a") as file:
            file.write(f"sk-ssh-ed25519@openssh.com {base64.b64encode(hardware.blob).decode()}\n")
        with scripted_agent(tmp_path / "agent", hardware.blob, hardware.sign) as agent:
            lets_in(settings_of(own_sshd, agent_socket=str(agent)))

    def test_one_that_dies_costs_its_keys_and_not_the_login(
        self, door: PrivateSshd, folder: Path, tmp_path: Path, blob: bytes
    ) -> None:
        with scripted_agent(tmp_path / "agent", blob, lambda data: None) as agent:
            settings = settings_of(door, agent_socket=str(agent))
            assert "tried agent key scripted (the agent did not sign: lost ssh-agent)" in refuses(settings)
            lets_in(replace(settings, identity_files=(folder / "rsa",)))

    def test_one_that_hangs_has_an_end(
        self, door: PrivateSshd, folder: Path, tmp_path: Path, blob: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agents, "ANSWER_TIME", 0.3)
        over = threading.Event()

        def hang(data: bytes) -> None:
            over.wait(30)

        with scripted_agent(tmp_path / "agent", blob, hang) as agent:
            settings = settings_of(door, agent_socket=str(agent))
            assert "tried agent key scripted (the agent did not answer: timed out)" in refuses(settings)
            over.set()

    def test_what_is_no_agent_is_named(self, door: PrivateSshd, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        settings = settings_of(door, agent_socket=str(tmp_path / "file"))
        assert f"not usable: the agent at {tmp_path}/file" in refuses(settings)
        lets_in(settings, Credentials((folder / "rsa",)))

    def test_a_public_key_names_the_one_that_the_agent_holds(
        self, door: PrivateSshd, folder: Path, tmp_path: Path
    ) -> None:
        public = tmp_path / "public"
        public.write_text((folder / "ed25519.pub").read_text())
        with running_agent(tmp_path / "agent", folder / "rsa", folder / "ed25519") as agent:
            settings = settings_of(door, agent_socket=str(agent), identities_only=True)
            assert "nothing to try" in refuses(settings)
            lets_in(replace(settings, identity_files=(public,)))
            lets_in(settings, Credentials((public,)))
        said = refuses(settings_of(door), Credentials((public,)))
        assert f"not usable: {public} (a public key whose private half no agent has); the server takes" in said

    def test_an_encrypted_key_that_the_agent_holds_needs_no_passphrase(
        self, door: PrivateSshd, folder: Path, tmp_path: Path
    ) -> None:
        key = written_as(folder / "ed25519", tmp_path / "key", "openssh", "open sesame")
        shutil.copy(folder / "ed25519.pub", tmp_path / "key.pub")
        with running_agent(tmp_path / "agent", folder / "rsa", folder / "ed25519") as agent:
            settings = settings_of(door, agent_socket=str(agent), identities_only=True)
            lets_in(settings, Credentials((key,)))
            lets_in(replace(settings, identity_files=(key,)))


class TestUnusable:
    """Keys that are fine, and cannot be used from their file: the sentence says what to do."""

    def test_one_of_a_security_key(self, door: PrivateSshd, tmp_path: Path, folder: Path) -> None:
        text = (folder / "ed25519").read_bytes()
        body = base64.b64decode(b"".join(text.splitlines()[1:-1]))
        foreign = base64.encodebytes(
            body.replace(b"\x00\x00\x00\x0bssh-ed25519", b"\x00\x00\x00\x1ask-ssh-ed25519@openssh.com")
        )
        key = tmp_path / "key"
        key.write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + foreign + b"-----END OPENSSH PRIVATE KEY-----\n")
        with pytest.raises(InvalidInput, match="needs a security key to sign: load it into ssh-agent"):
            lets_in(settings_of(door), Credentials((key,)))

    def test_one_of_putty(self, door: PrivateSshd, tmp_path: Path) -> None:
        (tmp_path / "key.ppk").write_text("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n")
        with pytest.raises(InvalidInput, match="PuTTY's format: convert it"):
            lets_in(settings_of(door), Credentials((tmp_path / "key.ppk",)))

    def test_one_that_nobody_may_read(self, door: PrivateSshd, tmp_path: Path) -> None:
        (tmp_path / "key").mkdir()
        with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
            lets_in(settings_of(door), Credentials((tmp_path / "key",)))


def test_the_environment_is_not_asked_for_an_agent(
    door: PrivateSshd, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_agent(tmp_path / "agent", folder / "rsa") as agent:
        monkeypatch.setitem(os.environ, "SSH_AUTH_SOCK", str(agent))
        assert "nothing to try" in refuses(settings_of(door))

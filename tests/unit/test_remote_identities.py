"""Keys in all formats that people have, and what is said about those that cannot be used."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from runicornfs.errors import AuthenticationFailed, InvalidInput
from runicornfs.remote.identities import Credentials, load_private_key
from runicornfs.remote.login import Login
from runicornfs.remote.sshconfig import HostSettings

KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
NAMES = {"rsa": "ssh-rsa", "ecdsa": "ecdsa-sha2-nistp256", "ed25519": "ssh-ed25519"}
FORMATS = [
    (kind, form)
    for kind in KEYS
    for form in (PrivateFormat.OpenSSH, PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    if (kind, form) != ("ed25519", PrivateFormat.TraditionalOpenSSL)  # there is no such thing
]


def text_of(kind: str, form: PrivateFormat, passphrase: str | None = None) -> bytes:
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.encode())
    return KEYS[kind].private_bytes(Encoding.PEM, form, encryption)


def test_a_key_is_loaded_from_every_format() -> None:
    for kind, form in FORMATS:
        key = load_private_key(text_of(kind, form), None, "k")
        assert key.get_name() == NAMES[kind]
        assert key.can_sign()


@pytest.mark.parametrize(("kind", "form"), FORMATS)
def test_an_encrypted_key_needs_its_passphrase(kind: str, form: PrivateFormat) -> None:
    text = text_of(kind, form, "open sesame")
    assert load_private_key(text, "open sesame", "k").can_sign()
    with pytest.raises(AuthenticationFailed, match="it is encrypted and there is no passphrase"):
        load_private_key(text, None, "k")
    with pytest.raises(AuthenticationFailed, match="the passphrase does not open it") as refusal:
        load_private_key(text, "a guess", "k")
    assert "a guess" not in str(refusal.value)


@pytest.mark.parametrize(("kind", "form"), FORMATS)
def test_a_passphrase_that_is_not_needed_does_no_harm(kind: str, form: PrivateFormat) -> None:
    assert load_private_key(text_of(kind, form), "open sesame", "k").can_sign()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"ssh-ed25519 AAAA a public key",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"\xff" * 100,
    ],
)
def test_what_is_no_key_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="the key k is no private key"):
        load_private_key(text, None, "k")


def test_a_key_of_another_type_is_refused() -> None:
    text = ed448.Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InvalidInput, match="not supported"):
        load_private_key(text, None, "k")


def test_no_secret_is_in_the_repr_of_credentials() -> None:
    credentials = Credentials(private_key="key-text", passphrase="open sesame", password="pass-word")
    assert not any(secret in repr(credentials) for secret in ("key-text", "open sesame", "pass-word"))


@pytest.fixture
def settings(tmp_path: Path) -> HostSettings:
    return HostSettings("gpu", "gpu.lab", 22, "ada", identity_files=(tmp_path / "id_rsa", tmp_path / "id_ed25519"))


def ways(settings: HostSettings, credentials: Credentials) -> list[str]:
    return [attempt.name for attempt in Login(settings, credentials).get_sources()]


def test_what_was_named_comes_before_what_the_configuration_names(settings: HostSettings, tmp_path: Path) -> None:
    (tmp_path / "named").write_bytes(text_of("ecdsa", PrivateFormat.OpenSSH))
    (tmp_path / "id_ed25519").write_bytes(text_of("ed25519", PrivateFormat.OpenSSH))
    credentials = Credentials((tmp_path / "named",), text_of("rsa", PrivateFormat.PKCS8).decode(), None, "word")
    assert ways(settings, credentials) == [
        "the key that was given",
        f"key {tmp_path}/named",
        "password",
        "password as the answer to keyboard-interactive",
        f"key {tmp_path}/id_ed25519",
    ]


def test_a_key_is_tried_once_wherever_it_lies(settings: HostSettings, tmp_path: Path) -> None:
    for name in ("named", "id_rsa"):
        (tmp_path / name).write_bytes(text_of("rsa", PrivateFormat.OpenSSH))
    assert ways(settings, Credentials((tmp_path / "named",))) == [f"key {tmp_path}/named"]


def test_a_named_key_that_is_missing_is_an_error(settings: HostSettings, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no key file"):
        ways(settings, Credentials((tmp_path / "none",)))


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "huge"])
def test_a_named_key_that_could_be_read_without_end_is_an_error(
    settings: HostSettings, tmp_path: Path, kind: str
) -> None:
    """The API takes the name of a key file: it must not be a way to stop the daemon or to fill its memory."""
    path = tmp_path / "key"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    with pytest.raises(InvalidInput, match=r"no regular file|too large|Is a directory"):
        list(Login(settings, Credentials(identity_files=(path,), use_agent=False)).get_sources())


def test_what_a_file_that_is_no_key_holds_is_not_told(settings: HostSettings, tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("a secret of mine")
    with pytest.raises(InvalidInput) as refused:
        list(Login(settings, Credentials(identity_files=(tmp_path / "diary",), use_agent=False)).get_sources())
    assert "secret" not in str(refused.value)


def test_a_configured_key_that_cannot_be_used_is_passed_over(settings: HostSettings, tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_bytes(text_of("rsa", PrivateFormat.OpenSSH, "open sesame"))
    (tmp_path / "id_ed25519").write_bytes(b"nonsense")
    assert ways(settings, Credentials()) == []


def test_a_certificate_beside_the_key_is_used(tmp_path: Path) -> None:
    for name in ("ca", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    subprocess.run(["ssh-keygen", "-q", "-s", "ca", "-I", "x", "-n", "ada", "user.pub"], cwd=tmp_path, check=True)
    settings = HostSettings("gpu", "gpu.lab", 22, "ada")
    name = f"key {tmp_path}/user"
    assert ways(settings, Credentials((tmp_path / "user",))) == [f"{name} with its certificate", name]


def test_paramiko_signs_with_the_key_that_was_loaded() -> None:
    key = load_private_key(text_of("rsa", PrivateFormat.PKCS8), None, "k")
    signature = key.sign_ssh_data(b"data", "rsa-sha2-512")
    assert key.verify_ssh_sig(b"data", paramiko.Message(signature.asbytes()))

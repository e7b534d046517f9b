"""Keys and secrets: what a person gave to log in with, and private keys made ready from files and from text.

paramiko signs with the keys; this module loads formats that paramiko does not (PKCS#8) and finds the certificates that
belong to a key. Secrets never appear in a message, a log or a repr.
"""

from __future__ import annotations

import base64
import io
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificate,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_identity,
)
from paramiko.pkey import PublicBlob

from runicornfs.errors import AuthenticationFailed, InvalidInput

Ask = Callable[[str], "str | None"]

_PASSPHRASE_TRIES = 3  # as often as ssh(1) asks
_LARGEST = 1 << 20  # bytes of a key file; one of RSA with 16384 bits has 13 kB, and a certificate may list much
_OPENSSH = b"BEGIN OPENSSH PRIVATE KEY"
HARDWARE = ("sk-ssh-", "sk-ecdsa-")  # how the types of keys begin that live in a security key (FIDO)
_PUBLIC = (b"ssh-", b"ecdsa-", *map(str.encode, HARDWARE))  # how the text of a public key begins


@dataclass(frozen=True)
class Credentials:
    """What a person gave to log in with. Kept in memory only; no secret is in the repr.

    `ask` puts a question to a person at a terminal, without echo; None is the answer where there is nobody to ask now.
    What was typed and has worked is kept in `typed`, for reconnecting; only a thread that connects uses it.
    """

    identity_files: tuple[Path, ...] = ()  # named on purpose: tried first, and an unusable one is an error
    private_key: str | None = field(default=None, repr=False)  # the text of a key
    passphrase: str | None = field(default=None, repr=False)  # opens the keys above
    password: str | None = field(default=None, repr=False)
    use_agent: bool = True
    ask: Ask | None = field(default=None, repr=False)
    typed: dict[str, str] = field(default_factory=dict, repr=False, compare=False)


def load_private_key(data: bytes, passphrase: str | None, name: str) -> paramiko.PKey:
    """A key from the text of its file: OpenSSH's, PEM or PKCS#8 format; RSA, ECDSA or Ed25519.

    `name` says in messages which key it is. Raises AuthenticationFailed if it is encrypted and `passphrase` does not
    open it, InvalidInput if it is no such key.
    """
    secret = passphrase.encode() if passphrase else None
    load = load_ssh_private_key if _OPENSSH in data else load_pem_private_key
    try:
        try:
            loaded = load(data, secret)
        except TypeError:  # "Password was given but private key is not encrypted": then it is not needed
            if secret is None:
                raise
            loaded = load(data, None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        _refuse_foreign(data, name)
        if b"ENCRYPTED" in data or isinstance(error, TypeError):
            reason = "the passphrase does not open it" if secret else "it is encrypted and there is no passphrase"
            raise AuthenticationFailed(
                f"the key {name} cannot be used: {reason}; give the passphrase with --passphrase-stdin, or load the key"
                " into ssh-agent"
            ) from None
        if secret is not None and _OPENSSH in data:
            raise AuthenticationFailed(
                f"the key {name} cannot be used: the passphrase does not open it, or it is damaged; give the passphrase"
                " with --passphrase-stdin, or load the key into ssh-agent"
            ) from None
        raise InvalidInput(f"the key {name} is no private key in a format that is understood") from None
    kind: type[paramiko.PKey]
    if isinstance(loaded, rsa.RSAPrivateKey):
        kind = paramiko.RSAKey
    elif isinstance(loaded, ec.EllipticCurvePrivateKey):
        kind = paramiko.ECDSAKey
    elif isinstance(loaded, ed25519.Ed25519PrivateKey):
        kind = paramiko.Ed25519Key
    else:
        raise InvalidInput(f"the key {name} is of a type that is not supported: use Ed25519, ECDSA or RSA")
    plain = loaded.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return kind.from_private_key(io.StringIO(plain.decode()))


def read_key_file(path: Path) -> bytes:
    """The bytes of a key file. Raises InvalidInput, also for what could be read without end."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a FIFO makes nobody wait
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidInput(f"the key file {path} is no regular file")
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise InvalidInput(f"there is no key file {path}") from None
    except OSError as error:
        raise InvalidInput(f"the key file {path} cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in its name
        raise InvalidInput(f"the key file {str(path)!r} cannot be read: no file has such a name") from None
    if len(data) > _LARGEST:
        raise InvalidInput(f"the key file {path} is too large to be a key")
    return data


def open_key_file(path: Path, credentials: Credentials) -> paramiko.PKey:
    """The key of a file, opened with the passphrase that was given or, where somebody can be asked, with one typed.

    Raises what `load_private_key` and `read_key_file` raise.
    """
    data = read_key_file(path)
    question = f"Passphrase of the key {path}"
    passphrase = credentials.typed.get(question, credentials.passphrase)
    tries = _PASSPHRASE_TRIES if credentials.ask is not None else 0
    while True:
        try:
            key = load_private_key(data, passphrase, str(path))
        except AuthenticationFailed:
            passphrase = credentials.ask(question) if credentials.ask is not None and tries else None
            tries -= 1
            if not passphrase:
                raise
        else:
            if passphrase and passphrase != credentials.passphrase:
                credentials.typed[question] = passphrase
            return key


def is_encrypted(path: Path) -> bool:
    """Whether the key in this file needs a passphrase, or cannot be read any more."""
    try:
        load_private_key(read_key_file(path), None, str(path))
    except (AuthenticationFailed, InvalidInput):
        return True
    return False


def is_public_key(data: bytes) -> bool:
    """Whether this is the text of a public key: one may stand for a private key that an agent holds."""
    return data.lstrip().startswith(_PUBLIC)


def public_half(path: Path) -> bytes | None:
    """The public key that `path` is or has beside it, as SSH sends it."""
    for candidate in (path, path.with_name(path.name + ".pub")):
        try:
            words = read_key_file(candidate).decode().split()
            return PublicBlob.from_string(" ".join(words[:2])).key_blob
        except (InvalidInput, ValueError):
            continue
    return None


def certificates_for(key: paramiko.PKey, files: Iterable[Path]) -> list[PublicBlob]:
    """The certificates for `key` among these files. What is no certificate is passed over, as ssh(1) does."""
    found = []
    for file in dict.fromkeys(files):
        try:
            text = read_key_file(file)
            identity = load_ssh_public_identity(text)
        except (InvalidInput, ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(identity, SSHCertificate) and _same(identity, key):
            found.append(PublicBlob.from_string(text.decode()))
    return found


def _same(certificate: SSHCertificate, key: paramiko.PKey) -> bool:
    blob = certificate.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    return base64.b64decode(blob) == key.asbytes()


def _refuse_foreign(data: bytes, name: str) -> None:
    """Raises InvalidInput for keys that are fine but cannot be used from their file."""
    if data.startswith(b"PuTTY-User-Key-File"):
        raise InvalidInput(
            f"the key {name} is in PuTTY's format: convert it with `puttygen KEY -O private-openssh -o NEW`"
        )
    body = b"".join(line for line in data.splitlines() if not line.startswith(b"--")) if _OPENSSH in data else b""
    try:
        decoded = base64.b64decode(body)
    except ValueError:
        return
    if any(kind.encode() in decoded for kind in HARDWARE):
        raise InvalidInput(f"the key {name} needs a security key to sign: load it into ssh-agent with ssh-add")

"""Who we are to the server: keys from files, from text, from the agent, and passwords, tried in a sensible order.

paramiko authenticates; this module finds the keys, loads formats that paramiko does not (PKCS#8), and remembers what
was tried so that a refusal can say it. Secrets never appear in a message, a log or a repr.
"""

from __future__ import annotations

import io
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from paramiko.agent import AgentSSH
from paramiko.auth_strategy import AuthResult, AuthSource, AuthStrategy, SourceResult
from paramiko.pkey import PublicBlob

from runicornfs.errors import AuthenticationFailed, ConnectionLost, InvalidInput, TimedOut
from runicornfs.remote.sshconfig import HostSettings

log = logging.getLogger("runicornfs.remote.identities")

_AGENT_ANSWER_TIME = 30.0  # seconds that an agent may take: it may ask a person to confirm or to touch a hardware key


@dataclass(frozen=True)
class Credentials:
    """What a person gave to log in with. Kept in memory only; no secret is in the repr."""

    identity_files: tuple[Path, ...] = ()  # named on purpose: tried first, and an unusable one is an error
    private_key: str | None = field(default=None, repr=False)  # the text of a key
    passphrase: str | None = field(default=None, repr=False)  # opens the keys above
    password: str | None = field(default=None, repr=False)
    use_agent: bool = True


class RememberingTransport(paramiko.Transport):
    """A Transport that can say what broke it also after it has been asked once (`broken_by`; None: the server left)."""

    broken_by: Exception | None = None

    def get_exception(self) -> Exception | None:
        error = super().get_exception()
        if error is not None:
            self.broken_by = error
        return error


class _Attempt(AuthSource):
    """One way to log in; `log_in` returns what the server wants besides (nothing: we are in)."""

    def __init__(
        self, username: str, name: str, log_in: Callable[[paramiko.Transport], list[str]], patience: float = 0.0
    ) -> None:
        super().__init__(username)
        self.name = name
        self._log_in = log_in
        self._patience = patience  # seconds that this way may take at least

    def authenticate(self, transport: paramiko.Transport) -> list[str]:
        usual = transport.auth_timeout
        transport.auth_timeout = max(usual, self._patience)
        try:
            return self._log_in(transport)
        finally:
            transport.auth_timeout = usual


class Login(AuthStrategy):
    """One log-in of `settings.user`: what was named, then the agent, then the configuration's keys, then the password.

    Used by one thread for one connection.
    """

    def __init__(self, settings: HostSettings, credentials: Credentials) -> None:
        super().__init__(paramiko.SSHConfig())
        self._settings = settings
        self._credentials = credentials
        self._agent: _Agent | None = None
        self._unusable: list[str] = []

    def authenticate(self, transport: paramiko.Transport) -> AuthResult:
        """Try one way after the other. Raises AuthenticationFailed, InvalidInput, TimedOut, ConnectionLost."""
        tried: list[str] = []
        allowed: list[str] = []
        self._agent = self._open_agent()
        try:
            for attempt in self.get_sources():
                try:
                    still_wanted = attempt.authenticate(transport)
                except paramiko.BadAuthenticationType as error:
                    allowed = list(error.allowed_types)
                    tried.append(f"{attempt.name} (not allowed there)")
                    continue
                except paramiko.AuthenticationException as error:
                    if "timeout" in str(error):
                        raise TimedOut(f"{self._settings.host} did not answer to the login in time.") from error
                    if isinstance(transport, RememberingTransport) and transport.broken_by is not None:
                        raise ConnectionLost("The connection broke during the login.") from error
                    tried.append(attempt.name)
                    if not transport.is_active():
                        break  # the server says goodbye after a number of attempts (MaxAuthTries)
                    continue
                if not still_wanted:
                    log.info("logged in as %s with %s", self._settings.user, attempt.name)
                    result = AuthResult(strategy=self)
                    result.append(SourceResult(attempt, still_wanted))
                    return result
                tried.append(f"{attempt.name} (accepted, but the server wants {' and '.join(still_wanted)} as well)")
        finally:
            if self._agent is not None:
                self._agent.close()
        raise AuthenticationFailed(self._refusal(tried, allowed))

    def _refusal(self, tried: list[str], allowed: list[str]) -> str:
        settings = self._settings
        what = f"tried {', '.join(tried)}" if tried else "there was no key, no agent and no password to try"
        if self._unusable:
            what += f"; not usable: {', '.join(self._unusable)}"
        if allowed:
            what += f"; the server takes {', '.join(allowed)}"
        return (
            f"{settings.user}@{settings.host} refused the login: {what}. Name a key with --identity, load one into"
            " ssh-agent, or check that the account's authorized_keys has yours."
        )

    def get_sources(self) -> Iterator[_Attempt]:
        """The ways to log in, in the order to try them. Raises for an unusable key that was named on purpose."""
        credentials, settings, agent = self._credentials, self._settings, self._agent
        seen: set[bytes] = set()
        if credentials.private_key is not None:
            text = credentials.private_key.encode(errors="surrogateescape")
            given = load_private_key(text, credentials.passphrase, "that was given")
            yield self._with_key("the key that was given", given, seen)
        for path in credentials.identity_files:
            yield self._with_key(f"key {path}", _load_file(path, credentials.passphrase), seen)
        if agent is not None:
            only = self._public_keys() if settings.identities_only else None
            for offered in agent.get_keys():
                if only is None or offered.asbytes() in only:
                    name = f"agent key {offered.comment or offered.fingerprint}"
                    yield self._with_key(name, offered, seen, _AGENT_ANSWER_TIME)
        for path in settings.identity_files:
            if path.is_file() and path not in credentials.identity_files:
                try:
                    key = _load_file(path, credentials.passphrase)
                except (AuthenticationFailed, InvalidInput) as error:
                    self._unusable.append(f"{path} ({_reason(error)})")
                    continue
                if key.asbytes() not in seen:
                    yield self._with_key(f"key {path}", key, seen)
        if credentials.password is not None:
            password = credentials.password
            user = settings.user
            yield _Attempt(user, "password", lambda transport: transport.auth_password(user, password))

    def _with_key(self, name: str, key: paramiko.PKey, seen: set[bytes], patience: float = 0.0) -> _Attempt:
        user = self._settings.user
        seen.add(key.asbytes())
        return _Attempt(user, name, lambda transport: transport.auth_publickey(user, key), patience)

    def _public_keys(self) -> set[bytes]:
        """The public halves that lie beside the identity files: with IdentitiesOnly the agent may use just these."""
        found = set()
        for path in (*self._credentials.identity_files, *self._settings.identity_files):
            try:
                words = path.with_name(path.name + ".pub").read_text().split()
                found.add(PublicBlob.from_string(" ".join(words[:2])).key_blob)
            except (OSError, ValueError):
                continue  # no public half there: nothing that the agent could be asked for
        return found

    def _open_agent(self) -> _Agent | None:
        if not self._credentials.use_agent or self._settings.agent_socket is None:
            return None
        try:
            return _Agent(self._settings.agent_socket)
        except (OSError, paramiko.SSHException) as error:
            self._unusable.append(f"the agent at {self._settings.agent_socket} ({error})")
            return None


class _Agent(AgentSSH):
    """An agent at a socket that ssh_config names (paramiko's own Agent knows the environment only), with a time-out."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_AGENT_ANSWER_TIME)
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]  # what paramiko's own Agent calls
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


def load_private_key(data: bytes, passphrase: str | None, name: str) -> paramiko.PKey:
    """A key from the text of its file: OpenSSH's, PEM or PKCS#8 format; RSA, ECDSA or Ed25519.

    `name` says in messages which key it is. Raises AuthenticationFailed if it is encrypted and `passphrase` does not
    open it, InvalidInput if it is no such key.
    """
    secret = passphrase.encode() if passphrase else None
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        try:
            loaded = load(data, secret)
        except TypeError:  # "Password was given but private key is not encrypted": then it is not needed
            if secret is None:
                raise
            loaded = load(data, None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        if b"ENCRYPTED" in data or isinstance(error, TypeError):
            reason = "the passphrase does not open it" if secret else "it is encrypted and there is no passphrase"
            raise AuthenticationFailed(
                f"The key {name} cannot be used: {reason}. Give the passphrase with --passphrase-stdin, or load the key"
                " into ssh-agent."
            ) from None
        if secret is not None and b"BEGIN OPENSSH PRIVATE KEY" in data:
            raise AuthenticationFailed(
                f"The key {name} cannot be used: the passphrase does not open it, or it is damaged."
            ) from None
        raise InvalidInput(f"The key {name} is no private key in a format that is understood.") from None
    kind: type[paramiko.PKey]
    if isinstance(loaded, rsa.RSAPrivateKey):
        kind = paramiko.RSAKey
    elif isinstance(loaded, ec.EllipticCurvePrivateKey):
        kind = paramiko.ECDSAKey
    elif isinstance(loaded, ed25519.Ed25519PrivateKey):
        kind = paramiko.Ed25519Key
    else:
        raise InvalidInput(f"The key {name} is of a type that is not supported: use Ed25519, ECDSA or RSA.")
    plain = loaded.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return kind.from_private_key(io.StringIO(plain.decode()))


def _load_file(path: Path, passphrase: str | None) -> paramiko.PKey:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"There is no key file {path}.") from None
    except OSError as error:
        raise InvalidInput(f"The key file {path} cannot be read: {error.strerror}.") from None
    key = load_private_key(data, passphrase, str(path))
    certificate = path.with_name(path.name + "-cert.pub")
    if certificate.is_file():
        key.load_certificate(str(certificate))
    return key


def _reason(error: Exception) -> str:
    return "encrypted" if isinstance(error, AuthenticationFailed) else "not readable as a key"

"""One log-in: which ways there are, in which order they are tried, and the sentence for a refusal.

paramiko carries out each way. Before the first one the server is asked what it takes, as ssh(1) does: so nothing is
sent that it does not want, no attempt of the few it allows is wasted, and a refusal can say what it would take.
"""

from __future__ import annotations

import base64
import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
from paramiko.auth_strategy import AuthResult, AuthSource, AuthStrategy, SourceResult
from paramiko.pkey import PublicBlob

from runicornfs.errors import AuthenticationFailed, ConnectionLost, InvalidInput, TimedOut
from runicornfs.remote import agent as agents
from runicornfs.remote.agent import Agent, SigningKey
from runicornfs.remote.identities import (
    HARDWARE,
    Credentials,
    certificates_for,
    is_encrypted,
    is_public_key,
    load_private_key,
    open_key_file,
    public_half,
    read_key_file,
)
from runicornfs.remote.sshconfig import HostSettings
from runicornfs.remote.sshprocess import Entrance

log = logging.getLogger("runicornfs.remote.login")

_KEY, _PASSWORD, _QUESTIONS = "publickey", "password", "keyboard-interactive"  # methods, as RFC 4252 and 4256 name them
_BY_PASSWORD = (_PASSWORD, _QUESTIONS)
_PASSWORD_TRIES = 3  # as often as ssh(1) asks
_LONGEST_PROMPT = 80  # characters of a server's question that are shown


class RememberingTransport(paramiko.Transport):
    """A Transport that can say what broke it also after it has been asked once (`broken_by`; None: the server left)."""

    broken_by: Exception | None = None

    def get_exception(self) -> Exception | None:
        error = super().get_exception()
        if error is not None and not isinstance(error, paramiko.AuthenticationException):  # those break nothing
            self.broken_by = error
        return error


class Way(AuthSource):
    """One way to log in; `log_in` returns what the server wants besides (nothing: we are in)."""

    def __init__(
        self,
        username: str,
        method: str,
        name: str,
        log_in: Callable[[paramiko.Transport], list[str]],
        key: paramiko.PKey | None = None,
        path: Path | None = None,
    ) -> None:
        super().__init__(username)
        self.method = method
        self.name = name
        self.key = key
        self.path = path  # of the key's file
        self._log_in = log_in

    def authenticate(self, transport: paramiko.Transport) -> list[str]:
        usual = transport.auth_timeout
        if isinstance(self.key, SigningKey):
            transport.auth_timeout = max(usual, agents.ANSWER_TIME)
        try:
            return self._log_in(transport)
        finally:
            transport.auth_timeout = usual


class Login(AuthStrategy):
    """One log-in of `settings.user`. Used by one thread for one connection.

    What was named on purpose is tried first: keys, then the password. Then come the agent's keys, those that the
    configuration names before the others; then the keys of the configuration; then a password that somebody types. A
    way that the server does not take yet is kept until it does: it may want a key first and a password then.
    """

    def __init__(self, settings: HostSettings, credentials: Credentials) -> None:
        super().__init__(paramiko.SSHConfig())
        self._settings = settings
        self._credentials = credentials
        self._agent: Agent | None = None
        self._way: Way | None = None  # the one that worked
        self._several = False  # the server wanted more than one
        self._question = f"Password of {settings.user}@{settings.host}"
        self._typed: dict[str, str] = {}  # the answer to it in this log-in
        self._seen: set[bytes] = set()  # the public halves (or certificates) of all keys that were ways
        self._tried: list[str] = []
        self._unusable: list[str] = []
        self._wanted: tuple[str, ...] | None = None  # the methods that the server takes now; None: it has not said
        self._wrong_password = False  # the last password was refused
        self._unanswered: str | None = None  # the server's question that a password does not answer

    def authenticate(self, transport: paramiko.Transport) -> AuthResult:
        """Try one way after the other. Raises AuthenticationFailed, InvalidInput, TimedOut, ConnectionLost."""
        self._agent = self._open_agent()
        try:
            way = self._find_way(transport)
        finally:
            if self._agent is not None:
                self._agent.close()
        self._way = way
        self._credentials.typed.update(self._typed)
        log.info("logged in as %s with %s", self._settings.user, way.name)
        result = AuthResult(strategy=self)
        result.append(SourceResult(way, []))
        return result

    def entrance(self, host_key: paramiko.PKey) -> Entrance | None:
        """How an ssh process gets in where this log-in did, without asking anybody or knowing a secret; None: not."""
        key = None if self._way is None else self._way.key
        if self._way is None or key is None or self._several:
            return None
        if isinstance(key, SigningKey):
            if key.public_blob is not None or key.name.startswith(HARDWARE):
                return None
            line = f"{key.name} {base64.b64encode(key.asbytes()).decode()}"
            return Entrance(host_key, agent_socket=self._settings.agent_socket, public_key=line)
        if self._way.path is None or key.public_blob is not None or is_encrypted(self._way.path):
            return None
        return Entrance(host_key, key_file=self._way.path.absolute())

    def get_sources(self) -> Iterator[Way]:
        """The ways to log in, in the order to try them. Raises for an unusable key that was named on purpose."""
        yield from self._named_keys()
        yield from self._password(self._credentials.password)
        yield from self._agent_keys()
        yield from self._configured_keys()
        yield from self._typed_passwords()

    def _find_way(self, transport: paramiko.Transport) -> Way:
        user = self._settings.user
        nothing = Way(user, "none", "nothing at all", lambda transport: transport.auth_none(user))
        if self._succeeds(nothing, transport):
            return nothing
        self._tried.clear()  # that was a question
        sources = self.get_sources()
        kept: list[Way] = []
        while transport.is_active():  # the server says goodbye after a number of attempts (MaxAuthTries)
            way = next((way for way in kept if self._takes(way.method)), None)
            if way is not None:
                kept.remove(way)
            else:
                way = next(sources, None)
            if way is None:
                break
            if not self._takes(way.method):
                kept.append(way)
            elif self._succeeds(way, transport):
                return way
        raise AuthenticationFailed(self._refusal(kept, hung_up=not transport.is_active()))

    def _succeeds(self, way: Way, transport: paramiko.Transport) -> bool:
        """Whether we are in. Takes note of what the server wants next."""
        name = way.name
        try:
            wanted = way.authenticate(transport)
        except paramiko.BadAuthenticationType as error:
            self._wanted = tuple(error.allowed_types)
        except paramiko.AuthenticationException as error:
            if "timeout" in str(error):
                raise TimedOut(f"{self._settings.host} did not answer to the login in time") from error
            if isinstance(transport, RememberingTransport) and transport.broken_by is not None:
                raise ConnectionLost("the connection broke during the login") from error
            self._wrong_password = way.method in _BY_PASSWORD
        else:
            if not wanted:
                return True
            self._wanted = tuple(wanted)
            self._several = True
            name += f" (accepted, but the server wants {' and '.join(wanted)} as well)"
        if isinstance(way.key, SigningKey) and way.key.refusal is not None:
            name += f" ({way.key.refusal})"
        self._tried.append(name)
        return False

    def _takes(self, *methods: str) -> bool:
        """Whether the server takes one of these methods now and the configuration allows it."""
        return any(
            method in self._settings.methods and (self._wanted is None or method in self._wanted) for method in methods
        )

    def _named_keys(self) -> Iterator[Way]:
        credentials = self._credentials
        if credentials.private_key is not None:
            text = credentials.private_key.encode(errors="surrogateescape")
            yield from self._with_key(
                "the key that was given", load_private_key(text, credentials.passphrase, "that was given")
            )
        held = {key.asbytes() for key in self._agent.signing_keys()} if self._agent is not None else set()
        for path in credentials.identity_files:
            if is_public_key(read_key_file(path)):
                continue  # it says which of the agent's keys comes first
            try:
                key = open_key_file(path, replace(credentials, ask=None))
            except AuthenticationFailed:
                if public_half(path) in held:
                    continue  # the agent has it open
                key = open_key_file(path, credentials)
            yield from self._with_key(f"key {path}", key, path)

    def _agent_keys(self) -> Iterator[Way]:
        settings = self._settings
        chosen = {public_half(path) for path in (*self._credentials.identity_files, *settings.identity_files)}
        held = [] if self._agent is None else self._agent.signing_keys()
        for key in sorted(held, key=lambda key: key.asbytes() not in chosen):
            if not settings.identities_only or key.asbytes() in chosen:
                yield from self._with_key(f"agent key {key.comment or key.fingerprint}", key)
        for path in self._credentials.identity_files:
            if is_public_key(read_key_file(path)) and public_half(path) not in self._seen:
                self._unusable.append(f"{path} (a public key whose private half no agent has)")

    def _configured_keys(self) -> Iterator[Way]:
        """Those that need nobody's passphrase first."""
        credentials = self._credentials
        encrypted = []
        for path in self._settings.identity_files:
            if path in credentials.identity_files or public_half(path) in self._seen or not path.is_file():
                continue
            try:
                if is_public_key(read_key_file(path)):
                    continue
                key = open_key_file(path, replace(credentials, ask=None))
            except AuthenticationFailed:
                encrypted.append(path)
            except InvalidInput:
                self._unusable.append(f"{path} (not readable as a key)")
            else:
                yield from self._with_key(f"key {path}", key, path)
        for path in encrypted:
            try:
                key = open_key_file(path, credentials)
            except AuthenticationFailed:
                self._unusable.append(f"{path} (encrypted)")
            else:
                yield from self._with_key(f"key {path}", key, path)

    def _with_key(self, name: str, key: paramiko.PKey, path: Path | None = None) -> Iterator[Way]:
        """The certificates for the key, then the key itself; nothing that was tried before."""
        blob = key.asbytes() if key.public_blob is None else key.public_blob.key_blob
        if blob in self._seen:
            return
        self._seen.add(blob)
        user = self._settings.user

        def way(name: str, key: paramiko.PKey) -> Way:
            return Way(user, _KEY, name, lambda transport: transport.auth_publickey(user, key), key, path)

        beside = () if path is None else (path.with_name(path.name + "-cert.pub"),)
        for certificate in certificates_for(key, (*beside, *self._settings.certificate_files)):
            if certificate.key_blob not in self._seen:
                self._seen.add(certificate.key_blob)
                yield way(f"{name} with its certificate", _certified(key, certificate))
        yield way(name, key)

    def _password(self, password: str | None) -> Iterator[Way]:
        """A password by either method; one that was refused is not repeated by the other."""
        if not password:
            return
        user = self._settings.user
        self._wrong_password = False
        yield Way(
            user, _PASSWORD, "password", lambda transport: transport.auth_password(user, password, fallback=False)
        )
        if not self._wrong_password:
            yield Way(
                user,
                _QUESTIONS,
                "password as the answer to keyboard-interactive",
                lambda transport: transport.auth_interactive(user, self._answers(password)),
            )

    def _typed_passwords(self) -> Iterator[Way]:
        """The password that somebody typed for an earlier connection, or types now."""
        credentials = self._credentials
        yield from self._password(credentials.typed.get(self._question))
        for _ in range(_PASSWORD_TRIES):
            if credentials.ask is None or not self._takes(*_BY_PASSWORD):
                return
            password = credentials.ask(self._question)
            if not password:
                return
            self._typed[self._question] = password
            yield from self._password(password)

    def _answers(self, password: str) -> Callable[[str, str, list[tuple[str, bool]]], list[str]]:
        """What answers the server's questions: the password the first that is asked alone and without echo."""
        answers = [password]

        def answer(title: str, instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
            if len(questions) == 1 and not questions[0][1] and answers:
                return [answers.pop()]
            if questions:
                self._unanswered = "".join(filter(str.isprintable, questions[-1][0]))[:_LONGEST_PROMPT].strip()
            return [""] * len(questions)

        return answer

    def _refusal(self, kept: list[Way], *, hung_up: bool) -> str:
        settings = self._settings
        parts = [f"tried {', '.join(self._tried)}" if self._tried else "there was nothing to try"]
        if self._unusable:
            parts.append(f"not usable: {', '.join(self._unusable)}")
        if any(way.method in _BY_PASSWORD for way in kept) and not self._tried_any("password"):
            parts.append("the password was not asked for")
        if self._wanted:
            parts.append(f"the server takes {', '.join(self._wanted)}")
        if hung_up:
            advice = [
                "name the right key with --identity and keep the others back with IdentitiesOnly in ~/.ssh/config"
            ]
        else:
            advice = self._advice()
        return f"{settings.user}@{settings.host} refused the login: {'; '.join(parts)}: {', or '.join(advice)}"

    def _advice(self) -> list[str]:
        """What a person can do, of what the server takes."""
        about_keys: list[str] = []
        about_passwords: list[str] = []
        if self._takes(_KEY) and self._tried_any("key", "agent key", "the key"):
            about_keys = [
                "check that the account's authorized_keys has one of these keys",
                "name another with --identity",
            ]
        elif self._takes(_KEY):
            about_keys = ["name a key with --identity", "load one into ssh-agent"]
        if self._takes(*_BY_PASSWORD) and self._unanswered is not None:
            about_passwords = [f"let it ask nothing else than a password: {self._unanswered!r} cannot be answered here"]
        elif self._takes(*_BY_PASSWORD):
            tried = self._tried_any("password")
            about_passwords = ["check the password" if tried else "give a password with --password-stdin"]
        if about_keys or about_passwords:
            return about_passwords + about_keys if self._tried_any("password") else about_keys + about_passwords
        barred = [method for method in self._wanted or () if method in (_KEY, *_BY_PASSWORD)]
        if barred:
            return [f"allow {' or '.join(barred)} in the SSH configuration, which switches it off"]
        return ["runicornfs logs in with a key or a password only"]

    def _tried_any(self, *kinds: str) -> bool:
        return any(name.startswith(kinds) for name in self._tried)

    def _open_agent(self) -> Agent | None:
        path = self._settings.agent_socket
        if not self._credentials.use_agent or path is None:
            return None
        try:
            return Agent(path)
        except (OSError, paramiko.SSHException) as error:
            self._unusable.append(f"the agent at {path} ({error})")
            return None


def _certified(key: paramiko.PKey, certificate: PublicBlob) -> paramiko.PKey:
    if isinstance(key, SigningKey):
        return key.certified(certificate)
    certified = copy.copy(key)
    certified.public_blob = certificate
    return certified

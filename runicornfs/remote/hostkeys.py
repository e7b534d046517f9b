"""Whether the server is the one it was before: known_hosts, read as OpenSSH reads it, enforced without exception.

paramiko reads the entries (`HostKeyEntry`) and hashes the names (`HostKeys.hash_host`); patterns, `@revoked` and the
refusal of a changed key are decided here. A key that nobody has confirmed never gets as far as a login.
"""

from __future__ import annotations

import fnmatch
import hmac
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from runicornfs.errors import HostKeyChanged, HostKeyUnknown
from runicornfs.remote.address import SSH_PORT
from runicornfs.remote.revocations import is_revoked
from runicornfs.remote.sshconfig import HostSettings

log = logging.getLogger("runicornfs.remote.hostkeys")


@dataclass(frozen=True)
class UnknownHostKey:
    """What a person has to compare with what the server's owner says."""

    host: str
    port: int
    key_type: str
    fingerprint: str


Confirm = Callable[[UnknownHostKey], bool]


@dataclass(frozen=True)
class _KnownKey:
    names: tuple[str, ...]
    key: paramiko.PKey
    revoked: bool
    where: str


def fingerprint(key: paramiko.PKey) -> str:
    """`SHA256:…` as OpenSSH prints it."""
    return key.fingerprint


@dataclass(frozen=True)
class NamedFingerprint:
    """A `confirm` that says yes to exactly the key with this fingerprint."""

    fingerprint: str

    def __call__(self, unknown: UnknownHostKey) -> bool:
        return hmac.compare_digest(unknown.fingerprint.encode(), self.fingerprint.encode(errors="replace"))


def accept_fingerprint(expected: str) -> Confirm:
    """A `confirm` for the key with the fingerprint `expected`, with or without `SHA256:`."""
    return NamedFingerprint("SHA256:" + expected.strip().removeprefix("SHA256:").rstrip("="))


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Decides on the key that one host shows. Reads known_hosts each time, so an edit counts at the next connection.

    Used with an SSHClient that has loaded no keys of its own, so that every key comes here; by one thread at a time.
    """

    def __init__(self, settings: HostSettings, confirm: Confirm | None = None) -> None:
        self._settings = settings
        self._confirm = confirm
        self._all_read = True  # of known_hosts, when it was read last

    def key_types(self) -> list[str]:
        """The types of key that known_hosts has for the host: the ones to ask the server for first."""
        known = [*self._known(self._name()), *self._known_without_port()]
        return list(dict.fromkeys(entry.key.get_name() for entry in known if not entry.revoked))

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Return if `key` is the host's; appends one that is newly confirmed.

        Raises HostKeyChanged, HostKeyUnknown, and InvalidInput where the list of revoked keys cannot be read.
        """
        settings = self._settings
        print_of_key, key_type = fingerprint(key), key.get_name()
        self._all_read = True
        known, without_port = list(self._known(self._name())), list(self._known_without_port())
        revoked_in = None
        if any(entry.revoked and entry.key == key for entry in (*known, *without_port)):
            revoked_in = "known_hosts"
        elif settings.revoked_host_keys is not None and is_revoked(key, settings.revoked_host_keys):
            revoked_in = str(settings.revoked_host_keys)
        if revoked_in is not None:
            raise HostKeyChanged(
                f"the host key of {settings.host} ({key_type}, {print_of_key}) is marked as revoked in {revoked_in}:"
                " ask who runs the server",
                key_type,
                print_of_key,
            )
        valid = [entry for entry in known if not entry.revoked]
        if any(entry.key == key for entry in valid):
            return
        if valid:
            raise HostKeyChanged(
                f"the host key of {settings.host} has CHANGED: it shows {key_type} {print_of_key}, but"
                f" {valid[0].where} has {valid[0].key.get_name()} {fingerprint(valid[0].key)}. Somebody may be"
                " listening in; if the server was set up anew, remove that line and connect again",
                key_type,
                print_of_key,
            )
        if any(entry.key == key for entry in without_port):
            return
        if not self._is_accepted(UnknownHostKey(settings.host, settings.port, key_type, print_of_key)):
            raise HostKeyUnknown(
                f"the host key of {settings.host} is not known: {key_type}, fingerprint {print_of_key}. Compare it with"
                f" what the server's owner says, then accept it with --accept-host-key {print_of_key}"
                " (accept_host_key in the API)",
                key_type,
                print_of_key,
            )
        self._remember(key)

    def _is_accepted(self, unknown: UnknownHostKey) -> bool:
        """A fingerprint that was named decides; without one StrictHostKeyChecking says whether anybody is asked."""
        checking = self._settings.host_key_checking
        if isinstance(self._confirm, NamedFingerprint) or checking == "ask":
            return self._confirm is not None and self._confirm(unknown)
        return checking == "accept-new" and self._all_read  # what was not read may have another key, or revoke this one

    def _name(self) -> str:
        """The name under which known_hosts has the host, as ssh(1) writes it."""
        settings = self._settings
        if settings.host_key_alias is not None:
            return settings.host_key_alias
        return _name_with_port(settings.hostname.lower(), settings.port)

    def _known(self, name: str) -> Iterator[_KnownKey]:
        return (entry for entry in self._entries() if _matches(name, entry.names))

    def _known_without_port(self) -> Iterator[_KnownKey]:
        """What the bare host name has: ssh(1) takes that for another port of the host, too."""
        settings = self._settings
        if settings.host_key_alias is None and settings.port != SSH_PORT:
            yield from self._known(settings.hostname.lower())

    def _entries(self) -> Iterator[_KnownKey]:
        for path in (*self._settings.user_known_hosts, *self._settings.global_known_hosts):
            try:
                yield from _read(path)
            except OSError as error:
                log.warning("%s cannot be read: %s", path, error)
                self._all_read = False

    def _remember(self, key: paramiko.PKey) -> None:
        """Append the key to the first known_hosts file; other lines stay as they are."""
        if not self._settings.user_known_hosts:
            return
        path = self._settings.user_known_hosts[0]
        name = self._name()
        if self._settings.hash_known_hosts:
            name = paramiko.HostKeys.hash_host(name)
        line = f"{name} {key.get_name()} {key.get_base64()}\n"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                if file.seek(0, os.SEEK_END) > 0:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            log.warning("the accepted host key cannot be written to %s: %s", path, error)


def _name_with_port(hostname: str, port: int) -> str:
    return hostname if port == SSH_PORT else f"[{hostname}]:{port}"


def _read(path: Path) -> Iterator[_KnownKey]:
    """The entries of one file; lines that are no entry of a key we can use are passed over, as ssh(1) does.

    Raises OSError where there is a file and it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return
    for number, line in enumerate(lines, 1):
        text = re.sub(r"[ \t]+", " ", line.strip())
        if not text or text.startswith("#"):
            continue
        marker = ""
        if text.startswith("@"):
            marker, _, text = text.partition(" ")
            if marker != "@revoked":
                continue  # @cert-authority: we ask for no host certificates, so it can vouch for nothing here
        try:
            entry = HostKeyEntry.from_line(text, number)
        except (paramiko.SSHException, InvalidHostKey, ValueError, UnicodeError) as error:
            log.info("%s:%d is no entry of a host key: %s", path, number, type(error).__name__)
            continue
        if entry is not None and entry.hostnames is not None and entry.key is not None:
            yield _KnownKey(tuple(entry.hostnames), entry.key, marker == "@revoked", f"{path}:{number}")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a line with these names is about `name`: hashed names, `*`, `?` and `!` as in sshd(8)."""
    found = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            found = found or _hash_matches(name, pattern)
        elif pattern.startswith("!"):
            if _pattern_matches(name, pattern[1:]):
                return False
        else:
            found = found or _pattern_matches(name, pattern)
    return found


def _hash_matches(name: str, hashed: str) -> bool:
    try:
        return hmac.compare_digest(paramiko.HostKeys.hash_host(name, hashed).encode(), hashed.encode())
    except (ValueError, IndexError, AssertionError):  # a salt that is none
        return False


def _pattern_matches(name: str, pattern: str) -> bool:
    literal_brackets = pattern.lower().replace("[", "[[]")  # fnmatch would take [host]:port for a set of characters
    return fnmatch.fnmatchcase(name.lower(), literal_brackets)

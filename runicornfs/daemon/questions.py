"""What only a person can tell: passwords, passphrases and whether a host key is the right one.

Secrets go into Credentials and nowhere else. Asked is in the process that connects, and on its main thread alone:
somebody sits there while it starts, and nobody expects a question from a reconnection in the background.
"""

from __future__ import annotations

import sys
import threading

import click

from runicornfs.cli.parameters import LaunchOptions
from runicornfs.daemon.stop import interruptible
from runicornfs.errors import InvalidInput
from runicornfs.remote.hostkeys import Confirm, UnknownHostKey, accept_fingerprint
from runicornfs.remote.identities import Credentials


def credentials(options: LaunchOptions) -> Credentials:
    """What the options say to log in with. Reads standard input where they say so, the password's line first.

    Raises InvalidInput for an empty or unreadable line.
    """
    with interruptible():
        password = _read("password") if options.password_stdin else None
        passphrase = _read("passphrase") if options.passphrase_stdin else None
    ask = _ask if _is_attended() else None
    return Credentials(options.identities, passphrase=passphrase, password=password, ask=ask)


def confirmation(fingerprint: str | None) -> Confirm | None:
    """How an unknown host key is decided on: by the fingerprint that was named, else by the person at the terminal."""
    if fingerprint is not None:
        return accept_fingerprint(fingerprint)
    return _confirm if _is_attended() else None


def _confirm(unknown: UnknownHostKey) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    with interruptible():
        return click.confirm(
            f"The host {unknown.host} is not known. Its {unknown.key_type} key has the fingerprint\n"
            f"  {unknown.fingerprint}\nIs it the right one, and shall it be added to known_hosts?",
            err=True,
        )


def _is_attended() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _read(name: str) -> str:
    """One line of standard input without its end; at a terminal what is typed, without echo."""
    if sys.stdin.isatty():
        secret = _prompt(name.capitalize())
    else:
        line = sys.stdin.buffer.readline().removesuffix(b"\n").removesuffix(b"\r")
        try:
            secret = line.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"the {name} on standard input is not UTF-8") from None
    if not secret:
        raise InvalidInput(f"there is no {name} on standard input, which --{name}-stdin reads")
    return secret


def _ask(question: str) -> str | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    with interruptible():
        return _prompt(question) or None


def _prompt(question: str) -> str:
    return str(click.prompt(question, default="", show_default=False, hide_input=True, err=True))

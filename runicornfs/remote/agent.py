"""Keys that an ssh-agent holds: it signs, we never see them.

paramiko speaks the protocol. Added here: a socket of any name (paramiko's own Agent knows the environment only), a
bound for each answer, certificates, and an agent that dies or refuses in the middle, which costs its keys and not the
connection: paramiko signs on the connection's own thread, where an exception would end it.

An Agent is used by one thread at a time.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import paramiko
from paramiko.agent import AgentKey, AgentSSH
from paramiko.pkey import PublicBlob

if TYPE_CHECKING:
    from paramiko.message import _LikeBytes

log = logging.getLogger("runicornfs.remote.agent")

ANSWER_TIME = 30.0  # seconds that an agent may take: it may ask a person to confirm or to touch a hardware key
_CERTIFICATE = "-cert-v01@openssh.com"  # how the types of OpenSSH's certificates end


class Agent(AgentSSH):
    """The agent that listens at the socket `path`. Raises OSError or SSHException if there is none."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.failure: str | None = None  # why it signs no more
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(ANSWER_TIME)
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]  # what paramiko's own Agent calls
        except BaseException:
            connection.close()
            raise

    def signing_keys(self) -> list[SigningKey]:
        """What it held when the connection was made, in its own order."""
        return [SigningKey(self, key.blob, key.comment) for key in self.get_keys()]

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


class SigningKey(AgentKey):
    """One of the agent's keys, or a certificate for one. `refusal` says why the last signature was not made."""

    def __init__(self, agent: Agent, blob: bytes, comment: str, certificate: PublicBlob | None = None) -> None:
        super().__init__(agent, blob, comment)
        self._agent = agent
        self.refusal: str | None = None
        if certificate is None and self.name.endswith(_CERTIFICATE):
            certificate = PublicBlob(self.name, blob)
        # What goes to the server instead of the plain key; the stubs know it as the None that AgentKey makes it.
        self.public_blob = certificate  # type: ignore[assignment]

    def certified(self, certificate: PublicBlob) -> SigningKey:
        """The same key under a certificate that lies in a file."""
        return SigningKey(self._agent, self.blob, self.comment, certificate)

    def sign_ssh_data(self, data: _LikeBytes, algorithm: str | None = None) -> bytes:  # type: ignore[override]
        """The agent's signature; an empty one, which no server takes, if it makes none."""
        self.refusal = self._agent.failure
        if self.refusal is None:
            try:
                signature: bytes = super().sign_ssh_data(data, algorithm)  # type: ignore[assignment]  # is bytes
                return signature
            except paramiko.SSHException as error:
                self.refusal = f"the agent did not sign: {error}"
            except OSError as error:  # it is gone, or late: a late answer would be taken for that to the next question
                self._agent.failure = self.refusal = f"the agent did not answer: {error}"
            log.info("agent key %s: %s", self.comment, self.refusal)
        return b""

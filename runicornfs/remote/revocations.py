"""RevokedHostKeys of ssh_config(5): keys that no host may show any more, whatever known_hosts says.

The file has a public key in each line, or is a key revocation list of OpenSSH, which ssh-keygen reads for us.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import paramiko

from runicornfs.errors import InvalidInput

_LIST = b"SSHKRL\n\0"  # how a key revocation list begins (PROTOCOL.krl of OpenSSH)
_ANSWER_TIME = 10.0  # seconds for a program that reads two files


def is_revoked(key: paramiko.PKey, file: Path) -> bool:
    """Whether `key` is in the file. Raises InvalidInput where nobody can tell: then no key may be accepted."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{file}, which RevokedHostKeys of the SSH configuration names, cannot be read: {error.strerror}"
        ) from None
    if text.startswith(_LIST):
        return _is_listed(key, file)
    return any(key.get_base64().encode() in line.split()[:2] for line in text.splitlines())


def _is_listed(key: paramiko.PKey, file: Path) -> bool:
    with tempfile.NamedTemporaryFile("w", prefix="runicornfs-", suffix=".pub") as shown:
        shown.write(f"{key.get_name()} {key.get_base64()}\n")
        shown.flush()
        try:
            answer = subprocess.run(
                [shutil.which("ssh-keygen") or "ssh-keygen", "-Q", "-f", str(file), shown.name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ANSWER_TIME,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            raise InvalidInput(f"reading {file}, a list of revoked keys, needs ssh-keygen: install OpenSSH") from None
    if answer.returncode not in (0, 1):
        raise InvalidInput(f"{file}, which RevokedHostKeys of the SSH configuration names, is damaged")
    return answer.returncode == 1

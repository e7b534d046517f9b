"""A private SSH server on loopback, for the demo and for the tests.

It guarantees that nothing of the machine's own SSH set-up is used or changed: host key, user key, configuration, log
and known_hosts lie in a folder of its own (0700), it listens on 127.0.0.1 alone and lets in only the account that
started it, only with the key made for it. It runs as root and as an ordinary user alike.

Not thread-safe: one thread owns a server.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from runicornfs.errors import Refused

# sshd and ssh-keygen answer in milliseconds; this is for a machine that is very busy.
PATIENCE_S = 20.0
# How often a condition is looked at while it is waited for.
POLL_S = 0.01
# Where distributions put sshd: on the PATH of root, seldom on that of others.
SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")
# As root sshd insists on this empty folder, which only its own service makes.
PRIVILEGE_SEPARATION_FOLDER = Path("/run/sshd")

# The first value that sshd reads for an option counts, so a caller's own lines stand before these. HOME keeps a shell
# from reading the user's own start-up files: they may be slow, and a session that is killed in one leaves what it left.
CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/authorized_keys"
AllowUsers {user}
PidFile none
StrictModes no
UsePAM {pam}
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PermitUserRC no
PrintMotd no
PrintLastLog no
UseDNS no
AllowAgentForwarding no
X11Forwarding no
SetEnv HOME="{folder}"
MaxStartups 100
MaxSessions 50
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""
# OpenSSH 9.8 and later stop answering an address that failed to log in a few times, which tests do on purpose.
# Older ones do not know the line.
NO_PENALTIES = "PerSourcePenalties no\n"


class PrivateSshd:
    """An SSH server of one's own: `with PrivateSshd() as sshd: …` starts it, waits until it answers, and stops it.

    folder: where its files go (made if missing, kept at the end); without it a temporary folder, removed at the end.
    config_lines: sshd_config lines that win over the server's own.

    Attributes, valid from `start()` on: `port`, `user`, `identity` (path of the private key), `known_hosts` (path of a
    file with its host key), `host_key` (`ssh-ed25519 AAAA…`) and `host_key_fingerprint` (`SHA256:…`). The port stays
    the same through `stop()` and `start()`.
    """

    def __init__(self, folder: Path | None = None, *, config_lines: Sequence[str] = ()) -> None:
        self.config_lines = list(config_lines)
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.port = 0
        self.host_key = ""
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateSshd:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """The folder with everything that belongs to this server."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="runicornfs-sshd-")
            self._folder = Path(self._temporary.name)
        return self._folder

    @property
    def identity(self) -> Path:
        return self.folder / "user_key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def host_key_fingerprint(self) -> str:
        digest = hashlib.sha256(base64.b64decode(self.host_key.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server, on the port it had before if it ran before, and returns once it answers.

        Raises Refused where there is no sshd on this machine or it does not start; the message has the end of its log.
        """
        if self.running:
            return
        sshd = _program("sshd")
        self._prepare()
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION_FOLDER.mkdir(mode=0o755, exist_ok=True)
        if not self.port:
            self.port = _free_port()
            self.trust(self.port)
        config = self._write_config(sshd)
        with open(self.folder / "log", "ab") as log:
            # A session of its own: Ctrl-C in a terminal reaches whoever uses this server, not the server under him.
            self._process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", config],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Stops the server and every session it has: connections really drop. Does nothing if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Like `stop()`, without giving the server or a session's programs a chance to say anything."""
        self._end(signal.SIGKILL)

    def drop_sessions(self) -> None:
        """Ends the sessions there are; the server goes on and takes new ones."""
        if self._process is not None and self.running:
            _kill_all(_descendants(self._process.pid) | _programs_of(self.port), signal.SIGKILL)

    def close(self) -> None:
        """Stops the server; removes its folder if it was a temporary one."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
            self._folder = None

    def log(self) -> str:
        """What the server has written so far, all starts together."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def trust(self, port: int) -> None:
        """Writes this server's key into `known_hosts` for another port of 127.0.0.1 too: that of a relay before it."""
        self._prepare()
        with open(self.known_hosts, "a") as file:
            file.write(f"[127.0.0.1]:{port} {self.host_key}\n")

    def _prepare(self) -> None:
        if self.host_key:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for name in ("host_key", "user_key"):
            if not (self.folder / name).exists():
                options = ["-q", "-t", "ed25519", "-N", "", "-C", "runicornfs", "-f", str(self.folder / name)]
                subprocess.run([_program("ssh-keygen"), *options], check=True, timeout=PATIENCE_S)
        shutil.copyfile(self.folder / "user_key.pub", self.folder / "authorized_keys")
        self.host_key = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        self.known_hosts.unlink(missing_ok=True)

    def _write_config(self, sshd: str) -> Path:
        config = self.folder / "sshd_config"
        pam = "yes" if os.geteuid() == 0 and _is_locked(self.user) else "no"
        own = "".join(line + "\n" for line in self.config_lines)
        text = own + CONFIG.format(port=self.port, folder=self.folder, user=self.user, pam=pam)
        complaint = ""
        for extra in (NO_PENALTIES, ""):
            config.write_text(text + extra)
            command = [sshd, "-t", "-f", str(config)]
            test = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
            if test.returncode == 0:
                return config
            complaint = test.stderr.strip()
        raise Refused(f"sshd does not take its configuration: {complaint}")

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.running:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as probe:
                    if probe.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(POLL_S)
        self.kill()
        raise Refused(f"sshd did not start on port {self.port}: {self.log()[-500:].strip() or 'it wrote no log'}")

    def _end(self, gently: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        # Stopped, the server forks no further session between our look at its children and its end.
        process.send_signal(signal.SIGSTOP)
        sessions = _descendants(process.pid) | _programs_of(self.port)
        _kill_all(sessions, gently)
        deadline = time.monotonic() + 1.0  # a session that was asked to end and has not is ended
        while time.monotonic() < deadline and any(_is_alive(pid) for pid in sessions):
            time.sleep(POLL_S)
        _kill_all(_descendants(process.pid) | {pid for pid in sessions if _is_alive(pid)}, signal.SIGKILL)
        process.kill()
        process.wait(PATIENCE_S)


def _program(name: str) -> str:
    """The absolute path of an OpenSSH program (sshd starts itself again, which needs it)."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    found = shutil.which(name, path=path)
    if found is None:
        raise Refused(f"There is no {name} on this machine: install the OpenSSH server (openssh-server on Debian).")
    return os.path.realpath(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_locked(user: str) -> bool:
    """Whether sshd without PAM would turn this account away: `!` before its password, as Ubuntu's root has it."""
    with open("/etc/shadow") as file:
        return any(line.startswith(f"{user}:!") for line in file)


def _parents() -> dict[int, int]:
    """Of every process there is, who started it. Zombies are left out: they hold nothing open and cannot be ended."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except OSError:
                continue  # it has ended, or it is hidden from us
            if state != b"Z":
                parents[int(entry)] = int(parent)
    return parents


def _descendants(ancestor: int) -> set[int]:
    """The processes below this one. A session makes a process group of its own, so no group holds them all."""
    parents = _parents()
    found: set[int] = set()
    newest = {ancestor}
    while newest:
        newest = {pid for pid, parent in parents.items() if parent in newest}
        found |= newest
    return found


def _programs_of(port: int) -> set[int]:
    """Programs that were started through a server on this port. They outlive a connection that was cut."""
    found = set()
    for pid in _parents():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # somebody else's, or it has ended
        if any(line.startswith(b"SSH_CONNECTION=") and line.endswith(b" %d" % port) for line in environment):
            found.add(pid)
    return found


def _is_alive(pid: int) -> bool:
    return pid in _parents()


def _kill_all(pids: set[int], how: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            continue  # it ended by itself

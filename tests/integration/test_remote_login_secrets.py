"""`--password-stdin`, `--passphrase-stdin` and questions at the terminal, end to end: nothing keeps what they read."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.mounts import PATIENCE_S, environment_in, require_fuse
from tests.passwords import Account, account_with_password
from tests.terminals import on_terminal
from tests.waiting import wait_until

CTRL_C = b"\x03"
PASSPHRASE = "open-sesame-4711"


class House:
    """A store behind an sshd, and everything that a user who mounts it has of his own."""

    def __init__(self, folder: Path, sshd: PrivateSshd, store: Path, user: str) -> None:
        self.folder = folder
        self.mountpoint = folder / "mount"
        self.environment = environment_in(folder)
        self.sshd = sshd
        (folder / "ssh_config").touch()
        self._source = f"sftp://{user}@127.0.0.1:{sshd.port}{store}"
        self._options = ["--cache-dir", str(folder / "cache"), "--api", "127.0.0.1:0", "--sync-interval", "0"]
        self._options += ["-F", str(folder / "ssh_config"), "--known-hosts", str(sshd.known_hosts), "-v"]

    def command(self, *options: str) -> list[str]:
        program = [sys.executable, "-m", "runicornfs", "mount"]
        return [*program, self._source, str(self.mountpoint), *self._options, *options]

    @contextmanager
    def mounted(self, given: bytes, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """The store mounted by a process that is given this on standard input; what it says goes to a file."""
        with open(self.folder / "log", "wb") as log:
            process = subprocess.Popen(
                self.command(*options), env=self.environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        assert process.stdin is not None
        try:
            process.stdin.write(given)
            process.stdin.close()
            wait_until(lambda: process.poll() is not None or "mounted sftp:" in self.log(), "the mount")
            assert process.poll() is None, self.log()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)

    def fails(self, given: bytes, *options: str) -> str:
        done = subprocess.run(
            self.command(*options),
            env=self.environment,
            input=given,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        (self.folder / "log").write_bytes(done.stdout + done.stderr)
        assert done.returncode == 1, done.stderr
        (line,) = (line for line in done.stderr.decode().splitlines() if line.startswith("Error: "))
        return line

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def keeps(self, secret: str) -> list[Path]:
        """The files below the user's folders that have the secret in them, the log among them."""
        below = [self.folder / name for name in ("home", "run", "tmp", "cache", "log")]
        files = [file for path in below for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        assert self.folder / "log" in files
        found = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # the export renames what it writes
                if secret.encode() in file.read_bytes():
                    found.append(file)
        return found


def shows(process: subprocess.Popen[bytes], secret: str) -> bool:
    """Whether the command line or the environment of the process has the secret in it."""
    return any(secret.encode() in Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with account_with_password() as made:
        yield made


@pytest.fixture
def open_store(sample_store: Path) -> Iterator[Path]:
    """The sample store where every account can read it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(sample_store, Path(folder, "store"), symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        yield Path(folder, "store")


@pytest.fixture
def house(tmp_path: Path, account: Account, open_store: Path) -> Iterator[House]:
    """One whose sshd asks for the account's password, in either way."""
    require_fuse()
    with PrivateSshd(config_lines=[f"AllowUsers {account.name}", "PasswordAuthentication yes"]) as sshd:
        yield House(tmp_path, sshd, open_store, account.name)


@pytest.fixture
def key_house(tmp_path: Path, sshd: PrivateSshd, sample_store: Path) -> House:
    """One whose sshd takes `key`, which is encrypted."""
    require_fuse()
    shutil.copy(sshd.identity, tmp_path / "key")
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", PASSPHRASE, "-f", tmp_path / "key"], check=True)
    return House(tmp_path, sshd, sample_store, sshd.user)


def key_options(house: House) -> Sequence[str]:
    return ["-i", str(house.folder / "key"), "--passphrase-stdin"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"", b"\nand more\n"])
def test_a_password_of_one_line_mounts_and_nothing_keeps_it(house: House, account: Account, end: bytes) -> None:
    with house.mounted(account.password.encode() + end, "--password-stdin") as process:
        assert (house.mountpoint / "artifacts" / "model").is_dir()
        assert not shows(process, account.password)
        assert house.keeps(account.password) == []
    assert house.keeps(account.password) == []
    assert "with password" in house.log()


def test_a_connection_that_was_lost_comes_back_with_what_was_read(house: House, account: Account) -> None:
    with house.mounted(account.password.encode() + b"\n", "--password-stdin"):
        house.sshd.drop_sessions()
        wait_until(lambda: "is back" in house.log(), "another connection")
        assert house.sshd.log().count("Accepted password") == 2
    assert house.keeps(account.password) == []


def test_a_passphrase_opens_the_key_and_nothing_keeps_it(key_house: House) -> None:
    with key_house.mounted(PASSPHRASE.encode() + b"\n", *key_options(key_house)) as process:
        assert (key_house.mountpoint / "artifacts" / "model").is_dir()
        assert not shows(process, PASSPHRASE)
        assert key_house.keeps(PASSPHRASE) == []
        body = (key_house.sshd.identity).read_text().splitlines()[3]
        assert key_house.keeps(body) == []


def test_the_password_is_the_first_line_and_the_passphrase_the_second(house: House, account: Account) -> None:
    key = house.folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", PASSPHRASE, "-f", key], check=True)
    both = f"{account.password}\n{PASSPHRASE}\n".encode()
    with house.mounted(both, *key_options(house), "--password-stdin"):
        assert house.keeps(account.password) == house.keeps(PASSPHRASE) == []


def test_the_background_process_gets_what_was_read(house: House, account: Account) -> None:
    command = house.command("--password-stdin", "--daemon")
    with open(house.folder / "log", "wb") as log:
        given = account.password.encode() + b"\n"
        done = subprocess.run(
            command, env=house.environment, input=given, stdout=log, stderr=log, timeout=PATIENCE_S, check=False
        )
    try:
        assert done.returncode == 0, house.log()
        assert (house.mountpoint / "artifacts" / "model").is_dir()
        assert house.keeps(account.password) == []
    finally:
        subprocess.run(
            [sys.executable, "-m", "runicornfs", "umount", str(house.mountpoint)], env=house.environment, check=False
        )
        wait_until(lambda: not os.path.ismount(house.mountpoint), "the end of the mount")


@pytest.mark.parametrize("given", [b"", b"\n", b"\r\n"])
def test_an_empty_line_is_no_secret(key_house: House, given: bytes) -> None:
    for name in ("password", "passphrase"):
        said = key_house.fails(given, f"--{name}-stdin", "-i", str(key_house.folder / "key"))
        assert said == f"Error: there is no {name} on standard input, which --{name}-stdin reads"


def test_a_line_that_is_no_text_is_refused(key_house: House) -> None:
    assert key_house.fails(b"\xff\n", "--password-stdin") == "Error: the password on standard input is not UTF-8"


def test_a_wrong_password_is_not_repeated_in_the_refusal(house: House) -> None:
    said = house.fails(b"a-wrong-guess\n", "--password-stdin")
    assert "tried password; the server takes publickey, password: check the password" in said
    assert house.keeps("a-wrong-guess") == []


def test_a_wrong_passphrase_is_not_repeated_in_the_refusal(key_house: House) -> None:
    said = key_house.fails(b"a-wrong-guess\n", *key_options(key_house))
    assert "the passphrase does not open it" in said
    assert key_house.keeps("a-wrong-guess") == []


class TestTerminal:
    """A person is asked, and what is typed is not shown."""

    def test_the_options_ask_with_a_prompt(self, house: House, account: Account) -> None:
        with on_terminal(house.command("--password-stdin"), house.environment) as terminal:
            terminal.read_until(b"Password: ")
            terminal.type(account.password.encode() + b"\n")
            assert account.password.encode() not in terminal.read_until(b"mounted sftp:")
            terminal.type(CTRL_C)
            assert terminal.wait() == 0

    def test_without_options_a_password_is_asked_for_and_serves_a_reconnection(
        self, house: House, account: Account
    ) -> None:
        with on_terminal(house.command(), house.environment) as terminal:
            terminal.read_until(f"Password of {account.name}@127.0.0.1: ".encode())
            terminal.type(b"a-wrong-guess\n")
            terminal.read_until(f"Password of {account.name}@127.0.0.1: ".encode())
            terminal.type(account.password.encode() + b"\n")
            shown = terminal.read_until(b"mounted sftp:")
            assert account.password.encode() not in shown
            assert b"a-wrong-guess" not in shown
            house.sshd.drop_sessions()
            assert b"Password" not in terminal.read_until(b"is back")
            terminal.type(CTRL_C)
            assert terminal.wait() == 0

    def test_the_passphrase_of_a_named_key_is_asked_for(self, key_house: House) -> None:
        key = key_house.folder / "key"
        with on_terminal(key_house.command("-i", str(key)), key_house.environment) as terminal:
            terminal.read_until(f"Passphrase of the key {key}: ".encode())
            terminal.type(PASSPHRASE.encode() + b"\n")
            assert PASSPHRASE.encode() not in terminal.read_until(b"mounted sftp:")
            terminal.type(CTRL_C)
            assert terminal.wait() == 0

    def test_an_empty_answer_gives_up(self, house: House) -> None:
        with on_terminal(house.command(), house.environment) as terminal:
            terminal.read_until(b"Password of ")
            terminal.type(b"\n")
            terminal.read_until(b"give a password with --password-stdin")
            assert terminal.wait() == 1

    def test_ctrl_c_ends_the_question(self, house: House) -> None:
        with on_terminal(house.command(), house.environment) as terminal:
            terminal.read_until(b"Password of ")
            terminal.type(CTRL_C)
            assert terminal.wait() == 1
        assert not os.path.ismount(house.mountpoint)

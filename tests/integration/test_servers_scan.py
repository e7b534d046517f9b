"""Every kind of server and account is scanned with the same result: by the helper where it runs, else over SFTP."""

from __future__ import annotations

import logging
import os
import random
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import CONFIG, PrivateSshd
from runicornfs.errors import AccessDenied, ProtocolError, StoreUnusable, TimedOut, Unreachable
from runicornfs.remote import helper
from runicornfs.remote.events import Gone
from runicornfs.remote.scan import scan_store
from runicornfs.remote.server import Server
from tests.conftest import MakeRelay
from tests.remotes import QUICK, server_at
from tests.scans import Scans, order_is_kept
from tests.stores import add_many_artifacts

SFTP_SERVERS = [Path("/usr/lib/openssh/sftp-server"), Path("/usr/libexec/openssh/sftp-server")]
SFTP_ONLY = "ForceCommand internal-sftp"


@contextmanager
def account_with_shell(folder: Path, script: str) -> Iterator[PrivateSshd]:
    """A server whose account has this as its shell for commands; SFTP works as ever."""
    sftp_server = next((path for path in SFTP_SERVERS if path.exists()), None)
    if sftp_server is None:
        pytest.skip("there is no sftp-server program here")
    shell = folder / "shell"
    shell.write_text(
        f'#!/bin/sh\ncase "$SSH_ORIGINAL_COMMAND" in internal-sftp*) exec {sftp_server};; esac\n{script}\n'
    )
    shell.chmod(0o755)
    with PrivateSshd(folder / "sshd", config_lines=[f"ForceCommand {shell}"]) as sshd:
        yield sshd


def path_with(folder: Path, **programs: str) -> Path:
    """A folder for PATH that has only these programs."""
    place = folder / "bin"
    place.mkdir()
    for name, target in programs.items():
        (place / name).symlink_to(target)
    return place


def python(version: str) -> str:
    """An interpreter of this version; skips the test where there is none."""
    built = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    found = str(built[0]) if built else shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"there is no Python {version} here")
    return found


@pytest.fixture
def expected(sshd: PrivateSshd, sample_store: Path) -> Scans:
    """What the helper sees in the sample store."""
    with server_at(sshd, sample_store) as server:
        scans = Scans(server)
        scans.scan()
        assert server.runs_helper is True
    return scans


def check(sshd: PrivateSshd, root: Path, expected: Scans, *, by_helper: bool) -> None:
    with server_at(sshd, root) as server:
        scans = Scans(server)
        scans.scan()
        assert scans.seen == expected.seen
        assert scans.notices == expected.notices
        assert server.runs_helper is by_helper
        assert server.inspect_store().python3 is by_helper


class TestAccountsWithoutCommands:
    """The result is the helper's."""

    def test_an_account_with_sftp_alone(self, tmp_path: Path, sample_store: Path, expected: Scans) -> None:
        with PrivateSshd(tmp_path / "sshd", config_lines=[SFTP_ONLY]) as sshd:
            check(sshd, sample_store, expected, by_helper=False)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can chroot")
    def test_an_account_in_a_chroot(self, sample_store: Path, expected: Scans) -> None:
        # sshd insists that every folder above belongs to root and nobody else may write in it.
        jail = Path("/run") / f"runicornfs-jail-{os.getpid()}"
        jail.mkdir(mode=0o755)
        try:
            shutil.copytree(sample_store, jail / "data", symlinks=True)
            with PrivateSshd(config_lines=[SFTP_ONLY, f"ChrootDirectory {jail}"]) as sshd:
                check(sshd, Path("/data"), expected, by_helper=False)
        finally:
            shutil.rmtree(jail)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can chroot")
    def test_a_store_that_is_the_root_of_a_chroot(self, sample_store: Path, expected: Scans) -> None:
        jail = Path("/run") / f"runicornfs-jail-{os.getpid()}"
        shutil.copytree(sample_store, jail, symlinks=True)
        jail.chmod(0o755)
        try:
            with PrivateSshd(config_lines=[SFTP_ONLY, f"ChrootDirectory {jail}"]) as sshd:
                check(sshd, Path("/"), expected, by_helper=False)
        finally:
            shutil.rmtree(jail)

    @pytest.mark.parametrize(
        "script",
        [
            "echo 'This account is currently not available.'; exit 1",
            "echo 'fatal: unrecognized command' >&2; exit 128",
            "echo 'Choose: 1) mail 2) quit'; head -c 3 >/dev/null; exit 0",
            "exit 127",
            "kill -9 $$",
        ],
        ids=["nologin", "git-shell", "menu", "nothing", "killed"],
    )
    def test_an_account_whose_shell_runs_something_else(
        self, script: str, tmp_path: Path, sample_store: Path, expected: Scans
    ) -> None:
        with account_with_shell(tmp_path, script) as sshd:
            check(sshd, sample_store, expected, by_helper=False)

    def test_that_no_program_runs_is_said_once_and_not_tried_again(
        self, tmp_path: Path, sample_store: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "runicornfs.remote.scan")
        with (
            PrivateSshd(tmp_path / "sshd", config_lines=[SFTP_ONLY]) as sshd,
            server_at(sshd, sample_store) as server,
        ):
            scans = Scans(server)
            scans.scan()
            scans.scan()
            assert server.counters.execs == 1
        said = [record for record in caplog.records if record.name == "runicornfs.remote.scan"]
        assert [(record.levelname, "over SFTP" in record.message) for record in said] == [("INFO", True)]

    def test_another_connection_tries_again(self, tmp_path: Path, sample_store: Path) -> None:
        with (
            PrivateSshd(tmp_path / "sshd", config_lines=[SFTP_ONLY]) as sshd,
            server_at(sshd, sample_store) as server,
        ):
            Scans(server).scan()
            server.close()
            server.connect()
            assert server.runs_helper is None
            Scans(server).scan()
            assert server.counters.execs == 2

    def test_an_account_that_loses_python_reads_everything_once_more(
        self, sshd: PrivateSshd, tmp_path: Path, sample_store: Path
    ) -> None:
        old(sample_store)
        with server_at(sshd, sample_store) as server:
            scans = Scans(server)
            everything = scans.scan()
            assert scans.scan() == []
        with (
            PrivateSshd(tmp_path / "sshd", config_lines=[SFTP_ONLY]) as other,
            server_at(other, sample_store) as server,
        ):
            scans.server = server
            files = {path for path in everything if scans.tokens[path] != b"d"}
            assert set(scans.scan()) == files
            assert scans.scan() == []


class TestLimitsOfTheServer:
    """SFTP servers that take less than OpenSSH does, or do not say what they take."""

    def test_a_server_that_does_not_tell_its_limits(self, tmp_path: Path, sample_store: Path, expected: Scans) -> None:
        with PrivateSshd(tmp_path / "sshd", config_lines=[f"{SFTP_ONLY} -P limits"]) as sshd:
            check(sshd, sample_store, expected, by_helper=False)

    def test_a_server_that_allows_one_channel(self, tmp_path: Path, sample_store: Path, expected: Scans) -> None:
        with (
            PrivateSshd(tmp_path / "sshd", config_lines=["MaxSessions 1"]) as sshd,
            server_at(sshd, sample_store) as server,
        ):
            server.verify_store()  # its session stays open for whoever reads, so none is left for a command
            scans = Scans(server)
            scans.scan()
            assert scans.seen == expected.seen
            assert server.runs_helper is False

    @pytest.mark.parametrize("tells", [True, False], ids=["and tells it", "and does not tell it"])
    def test_a_server_that_lets_few_files_be_open(
        self, tells: bool, tmp_path: Path, store_writer: StoreWriter, sshd: PrivateSshd
    ) -> None:
        add_many_artifacts(store_writer, 20, 3)
        with server_at(sshd, store_writer.root) as server:
            expected = Scans(server)
            expected.scan()
        sftp_server = next((path for path in SFTP_SERVERS if path.exists()), None)
        if sftp_server is None:
            pytest.skip("there is no sftp-server program here")
        program = tmp_path / "few"
        program.write_text(f"#!/bin/sh\nulimit -n 16\nexec {sftp_server} {'' if tells else '-P limits'}\n")
        program.chmod(0o755)
        with PrivateSshd(tmp_path / "sshd", config_lines=[f"ForceCommand {program}"]) as few:
            check(few, store_writer.root, expected, by_helper=False)


class TestPythonOnTheServer:
    """Its absence costs speed, nothing else."""

    def test_no_python_at_all(self, tmp_path: Path, sample_store: Path, expected: Scans) -> None:
        lines = [f'SetEnv HOME="{tmp_path}" PATH="{path_with(tmp_path)}"']
        with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd:
            check(sshd, sample_store, expected, by_helper=False)

    @pytest.mark.parametrize("version", ["2.7", "3.6"])
    def test_one_that_is_too_old(self, version: str, tmp_path: Path, sample_store: Path, expected: Scans) -> None:
        lines = [f'SetEnv HOME="{tmp_path}" PATH="{path_with(tmp_path, python3=python(version))}"']
        with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd:
            check(sshd, sample_store, expected, by_helper=False)

    @pytest.mark.parametrize("version", ["3.8", "3.9", "3.13"])
    def test_older_and_newer_ones(self, version: str, tmp_path: Path, sample_store: Path, expected: Scans) -> None:
        lines = [f'SetEnv HOME="{tmp_path}" PATH="{path_with(tmp_path, python3=python(version))}"']
        with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd:
            check(sshd, sample_store, expected, by_helper=True)


class TestShells:
    """The command is a constant that every shell understands, and what a shell prints first does no harm."""

    @pytest.mark.parametrize("shell", ["sh", "dash", "bash", "rbash", "csh", "tcsh", "fish", "zsh", "ksh"])
    def test_login_shells(self, shell: str, tmp_path: Path, sample_store: Path, expected: Scans) -> None:
        if shutil.which(shell) is None:
            pytest.skip(f"there is no {shell} here")
        with account_with_shell(tmp_path, f'exec {shell} -c "$SSH_ORIGINAL_COMMAND"') as sshd:
            check(sshd, sample_store, expected, by_helper=True)

    @pytest.mark.parametrize(
        "banner",
        [
            "echo Welcome to the cluster",
            "head -c 5000000 /dev/zero | tr '\\0' x",
            "head -c 5000000 /dev/zero >&2; echo on standard error >&2",
            "printf 'runicornfs-0123\\nrunicornfs-'",
        ],
        ids=["a line", "megabytes", "megabytes on standard error", "almost the marker"],
    )
    def test_banners(self, banner: str, tmp_path: Path, sample_store: Path, expected: Scans) -> None:
        with account_with_shell(tmp_path, f'{banner}\nexec sh -c "$SSH_ORIGINAL_COMMAND"') as sshd:
            check(sshd, sample_store, expected, by_helper=True)

    @pytest.mark.parametrize("eats", ["read line", "head -c 100000 >/dev/null"])
    def test_a_start_up_file_that_reads_our_input(
        self, eats: str, tmp_path: Path, sample_store: Path, expected: Scans, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(helper, "TIMEOUT_S", 2.0)
        with account_with_shell(tmp_path, f'{eats}\nexec sh -c "$SSH_ORIGINAL_COMMAND"') as sshd:
            check(sshd, sample_store, expected, by_helper=False)

    def test_a_shell_that_hangs(
        self, tmp_path: Path, sample_store: Path, expected: Scans, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(helper, "TIMEOUT_S", 0.5)
        with account_with_shell(tmp_path, "exec sleep 600") as sshd:
            check(sshd, sample_store, expected, by_helper=False)

    def test_a_shell_that_prints_for_ever(
        self, tmp_path: Path, sample_store: Path, expected: Scans, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(helper, "BANNER_LIMIT", 100_000)
        with account_with_shell(tmp_path, "exec yes") as sshd:
            check(sshd, sample_store, expected, by_helper=False)


class TestRealFailures:
    """They are told as what they are, and no other way is tried."""

    def test_a_line_that_stalls(
        self, sshd: PrivateSshd, sample_store: Path, relay: MakeRelay, caplog: pytest.LogCaptureFixture
    ) -> None:
        line = relay(sshd)
        with server_at(sshd, sample_store, port=line.port, timeouts=QUICK) as server:
            scans = Scans(server)
            scans.scan()
            line.stall()
            with pytest.raises((TimedOut, Unreachable)):
                scans.scan()
        assert "SFTP" not in caplog.text

    def test_a_root_that_is_not_there(self, any_way: PrivateSshd, tmp_path: Path) -> None:
        with (
            server_at(any_way, tmp_path / "nowhere") as server,
            pytest.raises(StoreUnusable, match="there is no folder"),
        ):
            Scans(server).scan()

    def test_a_root_that_is_a_file(self, any_way: PrivateSshd, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with server_at(any_way, tmp_path / "file") as server, pytest.raises(StoreUnusable, match="there is no folder"):
            Scans(server).scan()

    @pytest.mark.promise("S3")
    def test_a_store_whose_artifacts_are_gone_deletes_nothing(self, any_way: PrivateSshd, sample_store: Path) -> None:
        with server_at(any_way, sample_store) as server:
            scans = Scans(server)
            scans.scan()
            (sample_store / "artifacts").rename(sample_store / "elsewhere")
            with pytest.raises(StoreUnusable, match="no artifacts folder any more"):
                scans.scan()

    def test_a_server_without_the_sftp_subsystem(self, tmp_path: Path, sample_store: Path) -> None:
        config = "".join(line for line in CONFIG.splitlines(keepends=True) if not line.startswith("Subsystem"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("runicornfs.demo.sshd.CONFIG", config)
            with (
                PrivateSshd(tmp_path / "sshd") as sshd,
                server_at(sshd, sample_store) as server,
                pytest.raises(AccessDenied, match="refuses SFTP to this account, without which"),
            ):
                server.verify_store()

    def test_an_account_whose_sftp_ends_at_once(self, tmp_path: Path, sample_store: Path) -> None:
        with (
            PrivateSshd(tmp_path / "sshd", config_lines=["ForceCommand /bin/false"]) as sshd,
            server_at(sshd, sample_store) as server,
            pytest.raises(Unreachable, match="can this account use SFTP"),
        ):
            server.verify_store()

    def test_a_start_up_file_that_prints_into_sftp(self, tmp_path: Path, sample_store: Path) -> None:
        lines = ["ForceCommand echo Welcome to the cluster; exec sleep 600"]
        with (
            PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd,
            server_at(sshd, sample_store) as server,
            pytest.raises(ProtocolError, match="does a start-up file of the account's shell print something"),
        ):
            server.verify_store()


@pytest.fixture(scope="session")
def sftp_only() -> Iterator[PrivateSshd]:
    """A server that runs no commands, for all tests."""
    with PrivateSshd(config_lines=[SFTP_ONLY]) as sshd:
        yield sshd


@pytest.fixture(params=["helper", "sftp"])
def any_way(request: pytest.FixtureRequest, sshd: PrivateSshd, sftp_only: PrivateSshd) -> PrivateSshd:
    """A server that runs the helper, and one that does not."""
    return sshd if request.param == "helper" else sftp_only


@pytest.fixture
def server(any_way: PrivateSshd, store_writer: StoreWriter) -> Iterator[Server]:
    store_writer.root.mkdir(parents=True, exist_ok=True)
    with server_at(any_way, store_writer.root) as server:
        yield server


def old(root: Path) -> None:
    """Nothing in the store was changed of late."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                os.utime(path, (1_700_000_000, 1_700_000_000))


class TestTheWalkOverALine:
    """What the walk promises, it keeps either way."""

    def test_the_order(self, server: Server, store_writer: StoreWriter) -> None:
        for _ in range(3):
            store_writer.add_version("model", "net", {"a": b"1"})
        store_writer.add_run("p", "e")
        assert order_is_kept(list(Scans(server).events()))

    def test_a_second_scan_has_nothing_to_tell(self, server: Server, store_writer: StoreWriter) -> None:
        store_writer.add_version("model", "net", {"a": b"1"})
        store_writer.add_run("p", "e")
        old(store_writer.root)
        scans = Scans(server)
        assert scans.scan()
        assert scans.scan() == []

    def test_what_changed_and_what_is_gone(self, server: Server, store_writer: StoreWriter) -> None:
        store_writer.add_version("model", "net", {"a": b"1"})
        run = store_writer.add_run("p", "e")
        scans = Scans(server)
        scans.scan()
        store_writer.add_version("model", "net", {"a": b"2"})
        store_writer.append_log(run, "more\n")
        shutil.rmtree(store_writer.version_folder("model", "net", 1))
        told = scans.scan()
        assert {"artifacts/model/net/v2/manifest.json", "artifacts/model/net/versions.json"} < set(told)
        assert any(path.endswith("logs.txt") for path in told)
        assert not any("/v1/" in path for path in scans.seen)

    def test_an_alias_that_moves_within_the_same_second_at_the_same_size(
        self, server: Server, store_writer: StoreWriter
    ) -> None:
        index = store_writer.folder("model", "net") / "versions.json"
        for _ in range(2):
            store_writer.add_version("model", "net", {"a": b"1"})
        scans = Scans(server)
        for version in (1, 2, 1, 2):
            times = (index.stat().st_atime, index.stat().st_mtime)
            size = index.stat().st_size
            index.write_bytes(index.read_bytes().replace(b'"latest": %d' % (3 - version), b'"latest": %d' % version))
            os.utime(index, times)
            assert index.stat().st_size == size
            scans.scan()
            assert scans.content("artifacts/model/net/versions.json") == index.read_bytes()

    @pytest.mark.promise("S6")
    def test_links_are_named_and_not_followed(self, server: Server, store_writer: StoreWriter, tmp_path: Path) -> None:
        store_writer.add_version("model", "net", {"a": b"1"})
        run = store_writer.add_run("p", "e")
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "versions.json").write_bytes(b"secret")
        (store_writer.root / "artifacts/model/link").symlink_to(outside)
        (store_writer.root / "linked project").symlink_to(outside)
        (store_writer.version_folder("model", "net", 1) / ".deleted").symlink_to(outside / "versions.json")
        (store_writer.run_folder(run) / "environment.json").unlink(missing_ok=True)
        (store_writer.run_folder(run) / "environment.json").symlink_to(outside / "versions.json")
        scans = Scans(server)
        scans.scan()
        assert sorted(notice.split(": ")[0].rpartition("/")[2] for notice in scans.notices) == [
            ".deleted",
            "environment.json",
            "link",
            "linked project",
        ]
        assert b"secret" not in [seen[3] for seen in scans.seen.values()]

    def test_artifacts_that_are_a_link_are_not_followed_either(self, server: Server, tmp_path: Path) -> None:
        writer = StoreWriter(tmp_path / "other")
        writer.add_version("model", "net", {"a": b"1"})
        (Path(server.address.root) / "artifacts").symlink_to(writer.root / "artifacts")
        scans = Scans(server)
        scans.scan()
        assert scans.seen == {}
        assert scans.notices == ["artifacts: is a symbolic link and is not followed"]

    def test_a_pipe_holds_nothing_up(self, server: Server, store_writer: StoreWriter) -> None:
        run = store_writer.run_folder(store_writer.add_run("p", "e"))
        (run / "status.json").unlink()
        os.mkfifo(run / "status.json")
        scans = Scans(server)
        scans.scan()
        assert len(scans.notices) == 1
        assert scans.notices[0].endswith("status.json: is not a regular file and is left out")

    @pytest.mark.promise("S4")
    def test_a_document_that_is_too_large_costs_itself(self, server: Server, store_writer: StoreWriter) -> None:
        store_writer.add_version("model", "net", {"a": b"1"})
        with open(store_writer.version_folder("model", "net", 1) / "metadata.json", "wb") as file:
            file.truncate(300 << 20)
        scans = Scans(server)
        scans.scan()
        assert scans.notices == [
            f"artifacts/model/net/v1/metadata.json: cannot be read: {300 << 20} bytes are too many for a document"
        ]

    def test_names_in_any_encoding(self, server: Server) -> None:
        run = os.fsencode(server.address.root) + b"/p/e/runs/r1"
        os.makedirs(run)
        names = [
            b"latin-\xe9\xff", "e\u0301".encode(), "\u00e9".encode(), b"new\nline", b"\x01\x7f", b"x" * 255, b" ",
            b"-rf", b"$(id) `id` '\"\\", b"a;b|c&d", "\U0001f984".encode(),
        ]  # fmt: skip
        for name in names:
            with open(os.path.join(run, name), "wb") as file:
                file.write(name)
        scans = Scans(server)
        scans.scan()
        assert scans.notices == []
        seen = {os.fsencode(path).rpartition(b"/")[2] for path in scans.seen if path.count("/") == 4}
        assert seen == set(names)

    @pytest.mark.parametrize(
        "name",
        ["with space", "quo'te\"s", "$HOME `id`", "dash -rf", "ünï-日本", "back\\slash", os.fsdecode(b"latin-\xe9")],
    )
    def test_roots_with_odd_names(self, name: str, any_way: PrivateSshd, sample_store: Path, expected: Scans) -> None:
        root = sample_store.rename(sample_store.parent / name)
        with server_at(any_way, root) as server:
            scans = Scans(server)
            scans.scan()
            assert scans.seen == expected.seen

    def test_a_root_that_is_a_link_or_ends_in_a_slash(
        self, any_way: PrivateSshd, sample_store: Path, expected: Scans
    ) -> None:
        link = sample_store.parent / "link"
        link.symlink_to(sample_store)
        for root in (str(link), f"{link}/"):
            with server_at(any_way, root) as server:  # type: ignore[arg-type]
                server.verify_store()
                scans = Scans(server)
                scans.scan()
                assert scans.seen == expected.seen


def test_what_is_known_may_take_longer_to_send_than_anybody_waits_in_silence(
    sshd: PrivateSshd, store_writer: StoreWriter, relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program says that it is at work while it comes."""
    monkeypatch.setattr("runicornfs.remote.helper.TIMEOUT_S", 3.5)
    store_writer.add_version("model", "net", {"a": b"1"})
    numbers = random.Random(1)
    known = sorted((b"runs/r%d" % number, numbers.randbytes(200)) for number in range(1000))
    trickle = relay(sshd, mbit=0.24)  # 30 kB/s: some seven seconds
    with server_at(sshd, store_writer.root, port=trickle.port) as server:
        events = list(scan_store(server, str(store_writer.root), known))
        assert server.runs_helper
    assert sum(isinstance(event, Gone) for event in events) == len(known)


@pytest.mark.promise("W1")
def test_nothing_of_the_store_is_changed(any_way: PrivateSshd, sample_store: Path) -> None:
    def state() -> dict[str, tuple[int, int, int]]:
        found = {}
        for folder, folders, files in os.walk(sample_store):
            for name in (*folders, *files):
                status = os.lstat(Path(folder, name))
                found[os.path.join(folder, name)] = (
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                    stat.S_IMODE(status.st_mode),
                )
        return found

    before = state()
    with server_at(any_way, sample_store) as server:
        Scans(server).scan()
    assert state() == before

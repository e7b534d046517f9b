"""What the command line understands, and what it says when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runicornfs.cli.commands import Launchers, cli
from runicornfs.cli.parameters import ApiAddress, LaunchOptions, Source, parse_api, parse_size
from runicornfs.errors import InvalidInput, Refused
from runicornfs.remote.address import LocalSource, RemoteSource


class Launched:
    """Takes note of what would have been started."""

    def __init__(self) -> None:
        self.options: LaunchOptions | None = None

    def mount(self, options: LaunchOptions) -> None:
        self.options = options

    def demo(self, mountpoint: Path | None, once: bool) -> None:
        raise Refused("no demo here")


@pytest.fixture
def launched() -> Launched:
    return Launched()


def run(launched: Launched, *arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), obj=Launchers(launched.mount, launched.demo))


def options_of(launched: Launched, *arguments: str) -> LaunchOptions:
    result = run(launched, "mount", *arguments)
    assert result.exit_code == 0, result.output
    assert launched.options is not None
    return launched.options


def test_a_mount_takes_a_server_and_a_folder(launched: Launched) -> None:
    options = options_of(launched, "ann@gpu:/data", "/mnt/x")
    assert options.source == Source("ann@gpu:/data", RemoteSource("gpu", "/data", "ann", None))
    assert options.mountpoint == Path("/mnt/x")
    assert options.api == ApiAddress("127.0.0.1", 23300, named=False)
    assert options.cache_size == 10 * 1024**3
    assert options.sync_interval == 600


def test_a_mount_takes_a_folder_of_this_machine(launched: Launched) -> None:
    source = options_of(launched, "/srv/runicorn", "/mnt/x").source
    assert source is not None
    assert source.store == LocalSource(Path("/srv/runicorn"))


def test_options_are_read(launched: Launched) -> None:
    options = options_of(
        launched, "gpu:/data", "/mnt/x", "-p", "2222", "-i", "/k1", "-i", "/k2", "--cache-size", "500MB",
        "--min-free", "1GiB", "--sync-interval", "0", "--no-api", "-o", "uid=5,xattr",
    )  # fmt: skip
    assert options.port == 2222
    assert options.identities == (Path("/k1"), Path("/k2"))
    assert (options.cache_size, options.min_free) == (500_000_000, 1024**3)
    assert options.sync_interval == 0
    assert options.api is None
    assert options.mount_options.uid == 5
    assert options.mount_options.xattr


@pytest.mark.parametrize(
    "arguments",
    [
        ["mount"],
        ["mount", "gpu:/data"],
        ["mount", "-bad:/data", "/mnt"],
        ["mount", "gpu:/data", "/mnt", "-o", "rw"],
        ["mount", "gpu:/data", "/mnt", "--cache-size", "much"],
        ["mount", "gpu:/data", "/mnt", "--api", "0.0.0.0"],
        ["mount", "gpu:/data", "/mnt", "--sync-interval", "-1"],
        ["mount", "gpu:/data", "/mnt", "--sync-interval", "nan"],
        ["mount", "gpu:/data", "/mnt", "--sync-interval", "inf"],
        ["mount", "gpu:/data", "/mnt", "--sync-interval", "1e300"],
        ["mount", "gpu:/data", "/mnt", "--cache-size", "9" * 400],
        ["mount", "gpu:/data", "/mnt", "--min-free", "99999999999EB"],
        ["mount", "gpu:/data", "/mnt", "--api", "127.0.0.1:" + "9" * 5000],
        ["mount", "gpu:/data", "/mnt", "--api", "a b:80"],
        ["mount", "gpu:/data", "/mnt", "--api", "-x:80"],
        ["mount", "gpu:/data", "/mnt", "--api", "[::1:80"],
        ["mount", "h" * 10_000 + ":/data", "/mnt"],
        ["mount", "gpu:/" + "d" * 10_000, "/mnt"],
        ["nonsense"],
    ],
)
def test_a_wrong_command_line_is_status_2(launched: Launched, arguments: list[str]) -> None:
    assert run(launched, *arguments).exit_code == 2
    assert launched.options is None


@pytest.mark.parametrize("option", ["\n", "x\ny", "\udcff", "\x1b[31m", "uid=\n"])
def test_a_wrong_option_is_quoted_on_one_line(launched: Launched, option: str) -> None:
    result = run(launched, "mount", "gpu:/data", "/mnt", "-o", option)
    assert result.exit_code == 2
    (said,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert result.output.endswith(said + "\n")
    assert said.isprintable()


def test_what_fails_is_one_line_and_status_1(launched: Launched) -> None:
    result = run(launched, "demo")
    assert result.exit_code == 1
    assert result.output == "Error: no demo here\n"


def test_no_daemon_is_said_in_a_sentence(launched: Launched) -> None:
    result = run(launched, "status", "--api", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "no runicornfs answers" in result.output


@pytest.mark.parametrize(("text", "size"), [("10GiB", 10 * 1024**3), ("500 MB", 500_000_000), ("4096", 4096)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1", "1XB", "1e400", "inf", "nanGB", "9" * 400, "9" * 5000])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "host", "loopback", "everywhere"),
    [
        ("127.0.0.1:80", "127.0.0.1", True, False),
        ("[::1]:80", "::1", True, False),
        ("192.168.1.5:80", "192.168.1.5", False, False),
        ("0.0.0.0:80", "0.0.0.0", False, True),
        ("[::]:80", "::", False, True),
    ],
)
def test_an_address_of_the_api_says_who_can_reach_it(text: str, host: str, loopback: bool, everywhere: bool) -> None:
    address = parse_api(text)
    assert (address.host, address.port, address.named) == (host, 80, True)
    assert (address.is_loopback, address.is_unspecified) == (loopback, everywhere)

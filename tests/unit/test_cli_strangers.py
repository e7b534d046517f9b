"""The client commands where something else than runicornfs listens, or an address is none: one sentence, status 1."""

from __future__ import annotations

import json
import zlib

import pytest
from click.testing import CliRunner, Result

from runicornfs.cli import client
from runicornfs.cli.commands import Launchers, cli
from tests.strangers import answering, response

COMMANDS = [
    ["status"],
    ["sync"],
    ["mode"],
    ["ls"],
    ["ls", "net"],
    ["ls", "net:v1"],
    ["ls", "net:best"],
    ["get", "net:v1"],
    ["delete", "net:v1", "--yes"],
    ["alias", "net:v1", "best"],
    ["unalias", "net", "best"],
    ["tag", "net:v1", "fine"],
    ["downloads"],
    ["cancel", "1"],
    ["cache", "status"],
    ["cache", "list"],
    ["cache", "cleanup"],
    ["cache", "clear", "--yes"],
    ["cache", "verify"],
    ["prefetch", "net:v1"],
    ["prefetch", "net:v1", "--check"],
    ["pin", "net:v1"],
    ["unpin", "net:v1"],
]


def run(*arguments: str) -> Result:
    def nothing(*_: object) -> None: ...

    return CliRunner().invoke(cli, list(arguments), obj=Launchers(nothing, nothing))


def is_one_sentence(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)  # else it is what Python would show with its traceback
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"{}",
        b"[]",
        b"null",
        b"3",
        b'[{"name": 1}]',
        b'{"message": 1}',
        b"\xff\xfe",
        deep(100_000),
    ],
    ids=["html", "object", "list", "null", "number", "list of others", "other field", "no text", "deep"],
)
def test_another_server_is_told_from_runicornfs(command: list[str], body: bytes) -> None:
    with answering(response(body)) as address:
        result = run(*command, "--api", address)
    if (command, body) in [(["ls"], b"[]"), (["ls", "net"], b"[]")]:
        assert result.exit_code == 0  # as a store without artifacts answers
    elif command == ["ls", "net:best"] and body == b"[]":
        is_one_sentence(result, "no version or alias 'best'")
    else:
        is_one_sentence(result, "is not runicornfs")


@pytest.mark.promise("K4")
@pytest.mark.parametrize(
    ("sent", "word"),
    [
        (b"", "no runicornfs answers"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no runicornfs answers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{", "no runicornfs answers"),
        (response(b"moved", "302 Found", "Location: http://127.0.0.1:1/"), "is not runicornfs"),
        (response(b"{}", "302 Found", "Location: http://127.0.0.1:1/"), "is not runicornfs"),
        (response(b"[1]", "500 Internal Server Error"), "is not runicornfs"),
        (response(b'{"error": {"deep": []}}', "500 Internal Server Error"), "is not runicornfs"),
        (response(b'{"detail": [{"loc": []}]}', "422 Unprocessable Entity"), "is not runicornfs"),
        (response(b"no", "401 Unauthorized"), "is not runicornfs"),
        (response(b"{}", "403 Forbidden"), "is not runicornfs"),
        (response(b"", "204 No Content"), "is not runicornfs"),
        (response(b"{}", "200 OK", "Content-Encoding: gzip"), "is not runicornfs"),
    ],
)
def test_whatever_answers_ends_in_one_sentence(sent: bytes, word: str) -> None:
    with answering(sent) as address:
        is_one_sentence(run("status", "--api", address), word)


def test_a_refusal_of_several_lines_with_colours_is_one_plain_line() -> None:
    body = json.dumps({"detail": "a\nb\x1b[31m", "code": "error"}).encode()
    with answering(response(body, "500 Internal Server Error")) as address:
        is_one_sentence(run("status", "--api", address), "a\\nb\\x1b[31m")


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(client, "ANSWER_LIMIT", 1_000_000)
    piece = b" " * 65536
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    if packed:
        head += b"Content-Encoding: deflate\r\n"
        piece = zlib.compress(b" " * 100_000_000)
    with answering(head + b"\r\n", piece, again=100) as address:
        is_one_sentence(run("status", "--api", address), "is not runicornfs")


def test_an_answer_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.0)
    with answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n ", b" ", close=False) as address:
        is_one_sentence(run("status", "--api", address), "is not runicornfs")


def test_who_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    with answering(close=False) as address:
        is_one_sentence(run("status", "--api", address), "no runicornfs answers")


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:abc", "foo:bar", "http://\n", "http://\udcff", "http://xn--\uffff", "http://a..b", "://",
        "http://" + "a" * 10_000, "ftp://x", "http://[", "http://127.0.0.1:99999", "http://a b", "-", "\n",
    ],
)  # fmt: skip
def test_what_is_no_address_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    is_one_sentence(run("status", "--api", address))
    monkeypatch.setenv("RUNICORNFS_API", address)
    is_one_sentence(run("ls"))


@pytest.mark.parametrize("token", ["\udcff", "a\nb", "é", "x" * 100_000])
def test_an_odd_token_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("RUNICORNFS_TOKEN", token)
    with answering(response(b"no", "401 Unauthorized")) as address:
        is_one_sentence(run("ls", "--api", address))


ODD_NAMES = ["", ":", "a:", ":v1", "/x", "model/", "a/b/c", "..", "a\nb", "\udcff\udcfe", "x" * 100_000]
ODD_NAMES += ["net:v" + "9" * 5000, "net:" + "9" * 5000, "net:\x1b[31m", "net:\udcff", "%00:v1", "a?b#c:v1", "-"]


@pytest.mark.parametrize(
    "command", ["ls", "get", "delete --yes", "restore", "pin", "unpin", "prefetch", "prefetch --check"]
)
def test_an_odd_name_ends_in_one_sentence(command: str) -> None:
    refusal = response(json.dumps({"detail": "there is no such thing", "code": "not_found"}).encode(), "404 Not Found")
    with answering(refusal) as address:
        for name in ODD_NAMES:
            is_one_sentence(run(*command.split(), "--api", address, "--", name))


@pytest.mark.parametrize("command", ["alias net:v1", "tag net:v1", "tag --remove net:v1", "unalias net", "cancel"])
def test_an_odd_alias_or_tag_ends_in_one_sentence(command: str) -> None:
    refusal = response(json.dumps({"detail": "there is no such thing", "code": "not_found"}).encode(), "404 Not Found")
    with answering(refusal) as address:
        for name in ODD_NAMES:
            is_one_sentence(run(command.split()[0], "--api", address, *command.split()[1:], "--", name))

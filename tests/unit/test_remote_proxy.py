"""What is run for ProxyJump and ProxyCommand: nothing of it can mean more than it should."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runicornfs.errors import InvalidInput
from runicornfs.remote.proxy import by_command, by_jump

TOKENS = {"h": "gpu.lab", "p": "2222", "r": "ada", "n": "gpu"}


@pytest.fixture(autouse=True)
def ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/ssh")


def command(jumps: str, tokens: dict[str, str] = TOKENS, config_file: Path | None = None) -> str:
    return " ".join(by_jump(jumps, tokens, config_file).command)


def test_a_jump_is_what_ssh_itself_would_run() -> None:
    assert command("bastion") == "/usr/bin/ssh -o BatchMode=yes -W [gpu.lab]:2222 -- bastion"


@pytest.mark.parametrize(
    ("jumps", "options"),
    [
        ("ada@bastion", "-l ada -W [gpu.lab]:2222 -- bastion"),
        ("ada@bastion:22", "-l ada -p 22 -W [gpu.lab]:2222 -- bastion"),
        ("[::1]:22", "-p 22 -W [gpu.lab]:2222 -- ::1"),
        ("ssh://ada@bastion:22", "-l ada -p 22 -W [gpu.lab]:2222 -- bastion"),
        ("a,ada@b:22, c", "-J a,ada@b:22 -W [gpu.lab]:2222 -- c"),
        ("%n-jump", "-W [gpu.lab]:2222 -- gpu-jump"),
    ],
)
def test_users_ports_and_several_jumps(jumps: str, options: str) -> None:
    assert command(jumps) == f"/usr/bin/ssh -o BatchMode=yes {options}"


def test_the_jump_reads_the_same_configuration() -> None:
    assert "-F /my/config " in command("bastion", config_file=Path("/my/config"))


@pytest.mark.parametrize(
    "jumps",
    [
        "-oProxyCommand=id",
        "a,-oProxyCommand=id",
        "-oProxyCommand=id,a",
        "-l@bastion",
        "bastion:0",
        "bastion:x",
        "",
        "a,,b",
    ]
    + ["ada@", "a b", "a;id", "$(id)", "[::1"],
)
def test_a_jump_that_is_none_is_refused(jumps: str) -> None:
    with pytest.raises(InvalidInput):
        command(jumps)


def test_without_ssh_there_is_no_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InvalidInput, match="gpu is reached through ProxyJump, which needs ssh"):
        command("bastion")


def test_a_command_has_its_tokens_replaced_once() -> None:
    tokens = {**TOKENS, "h": "fe80::1%r"}
    assert by_command("nc -X %r %n%% %h %p %q", tokens).command == (
        "/bin/sh",
        "-c",
        "exec nc -X ada gpu% fe80::1%r 2222 %q",
    )


@pytest.mark.parametrize("user", ["$(id)", "a b", "a;id", "`id`", "a'b", 'a"b', "a\\", "~root", "a|b", "a&", "a>b"])
def test_a_user_that_means_something_to_a_shell_is_refused(user: str) -> None:
    with pytest.raises(InvalidInput, match="not safe in a ProxyCommand"):
        by_command("nc %h %p %r", {**TOKENS, "r": user})
    assert by_command("nc %h %p", {**TOKENS, "r": user}).command[2] == "exec nc gpu.lab 2222"

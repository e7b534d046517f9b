"""What the SSH configuration says about a host, as `ssh` itself reads it, and paramiko where there is no `ssh`."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from runicornfs.errors import InvalidInput
from runicornfs.remote import sshconfig
from runicornfs.remote.address import RemoteSource, ServerAddress
from runicornfs.remote.proxy import Proxy
from runicornfs.remote.sshconfig import resolve_host

CONFIG = """\
Host gpu
  HostName gpu.lab.example
  User ada
  Port 2222
  IdentityFile ~/keys/%h-%r
  IdentityFile "/keys/with space"
  IdentitiesOnly yes
  IdentityAgent /run/agent-%r
  UserKnownHostsFile ~/hosts "/etc/my hosts"
  GlobalKnownHostsFile none
  HostKeyAlias cluster
  RevokedHostKeys ~/revoked-%r
  StrictHostKeyChecking accept-new
  HashKnownHosts yes
  CertificateFile ~/certs/%r
  AddressFamily inet6
  BindAddress 192.0.2.1
  ConnectTimeout 7
  PreferredAuthentications publickey,password
  PasswordAuthentication no

Host jump
  ProxyJump bastion

Host command
  ProxyCommand nc %h %p

Host no-jump
  ProxyJump none
  ProxyCommand none
  IdentityAgent none
"""


@pytest.fixture(params=["ssh", "paramiko"], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both readers have to say the same."""
    if request.param == "paramiko":
        monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(CONFIG)
    return path


def test_an_alias_is_resolved(config: Path) -> None:
    home = Path.home()
    settings = resolve_host(RemoteSource("gpu", "/d"), config_file=config)
    assert (settings.host, settings.hostname, settings.user, settings.port) == ("gpu", "gpu.lab.example", "ada", 2222)
    assert settings.identity_files == (home / "keys/gpu.lab.example-ada", Path("/keys/with space"))
    assert settings.identities_only
    assert settings.agent_socket == "/run/agent-ada"
    assert settings.host_key_alias == "cluster"
    assert settings.revoked_host_keys == Path("~/revoked-ada").expanduser()
    assert settings.user_known_hosts[0] == home / "hosts"
    assert settings.global_known_hosts == ()
    assert settings.host_key_checking == "accept-new"
    assert settings.hash_known_hosts
    assert settings.certificate_files == (home / "certs/ada",)
    assert settings.address_family == socket.AF_INET6
    assert settings.bind_address == "192.0.2.1"
    assert settings.connect_timeout == 7
    assert settings.methods == ("publickey",)
    assert settings.proxy is None
    assert settings.address("/d") == ServerAddress("gpu", 2222, "ada", "/d")


def test_what_the_source_says_goes_before_the_configuration(config: Path) -> None:
    settings = resolve_host(RemoteSource("gpu", "/d", "bob", 22), config_file=config)
    assert (settings.user, settings.port) == ("bob", 22)


def test_a_host_that_is_not_mentioned_has_the_defaults(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    settings = resolve_host(RemoteSource("other.example", "/d"), config_file=config)
    assert (settings.hostname, settings.port) == ("other.example", 22)
    assert settings.user
    assert settings.agent_socket == "/run/agent"
    assert not settings.identities_only
    assert settings.host_key_alias is None
    assert settings.host_key_checking == "ask"
    assert settings.methods == ("publickey", "password", "keyboard-interactive")
    assert settings.address_family == socket.AF_UNSPEC
    assert settings.connect_timeout is None
    assert settings.certificate_files == ()
    assert {path.name for path in settings.identity_files} >= {"id_rsa", "id_ecdsa", "id_ed25519"}
    assert settings.user_known_hosts[0].name == "known_hosts"
    assert Path("/etc/ssh/ssh_known_hosts") in settings.global_known_hosts


def test_without_an_agent_in_the_environment_there_is_none(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert resolve_host(RemoteSource("other.example", "/d"), config_file=config).agent_socket is None


def test_known_hosts_that_were_named_stand_for_all(config: Path, tmp_path: Path) -> None:
    settings = resolve_host(RemoteSource("gpu", "/d"), config_file=config, known_hosts=tmp_path / "k")
    assert settings.user_known_hosts == (tmp_path / "k",)
    assert settings.global_known_hosts == ()


def test_a_command_is_the_way_there(config: Path) -> None:
    settings = resolve_host(RemoteSource("command", "/d", None, 2222), config_file=config)
    assert settings.proxy == Proxy("ProxyCommand", ("/bin/sh", "-c", "exec nc command 2222"))


@pytest.mark.parametrize(
    ("value", "meaning"),
    [("yes", "yes"), ("ask", "ask"), ("accept-new", "accept-new"), ("no", "accept-new"), ("off", "accept-new")],
)
def test_checking_of_host_keys_is_never_switched_off(tmp_path: Path, value: str, meaning: str) -> None:
    (tmp_path / "config").write_text(f"StrictHostKeyChecking {value}\n")
    settings = resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "config")
    assert settings.host_key_checking == meaning


def test_files_may_be_named_by_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", "/my/keys")
    monkeypatch.delenv("NOTHING", raising=False)
    (tmp_path / "config").write_text("IdentityFile ${KEYS}/%n\nIdentityFile ${NOTHING}/%n\n")
    settings = resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "config")
    assert settings.identity_files == (Path("/my/keys/gpu"),)


def test_none_means_no_proxy_and_no_agent(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    settings = resolve_host(RemoteSource("no-jump", "/d"), config_file=config)
    assert settings.agent_socket is None
    assert settings.proxy is None


def test_an_agent_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_AGENT", "/run/mine")
    (tmp_path / "config").write_text("IdentityAgent $MY_AGENT\n")
    assert resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "config").agent_socket == "/run/mine"


def test_a_configuration_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no SSH configuration file"):
        resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "missing")


def test_a_host_that_looks_like_an_option_never_reaches_ssh() -> None:
    with pytest.raises(InvalidInput, match="dash"):
        resolve_host(RemoteSource("-oProxyCommand=id", "/d"))


def test_a_configured_host_name_that_looks_like_an_option_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host gpu\n  HostName -oProxyCommand=id\n")
    with pytest.raises(InvalidInput):
        resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "config")


class TestSshItself:
    """What only `ssh` knows, and what it refuses."""

    @pytest.fixture(autouse=True)
    def reader(self) -> None:
        """Only `ssh`."""

    def test_includes_are_followed(self, tmp_path: Path) -> None:
        (tmp_path / "more").write_text("Host gpu\n  HostName included.example\n")
        (tmp_path / "config").write_text(f"Include {tmp_path}/more\n")
        settings = resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "config")
        assert settings.hostname == "included.example"

    def test_a_jump_is_the_way_there(self, config: Path) -> None:
        proxy = resolve_host(RemoteSource("jump", "/d"), config_file=config).proxy
        assert proxy is not None
        assert proxy.name == "ProxyJump bastion"
        assert proxy.command[-4:] == ("-W", "[jump]:22", "--", "bastion")

    @pytest.mark.parametrize(
        "match",
        [
            "host gpu",
            "originalhost gpu",
            "user ada",
            "localuser *",
            "final",
            'exec "test %n = gpu"',
            'host g*,!cpu exec "true"',
        ],
    )
    def test_matches_are_ssh_s_own(self, tmp_path: Path, match: str) -> None:
        (tmp_path / "config").write_text(f"Match {match}\n  Port 77\nMatch host cpu\n  BindAddress ::1\n")
        settings = resolve_host(RemoteSource("gpu", "/d", "ada"), config_file=tmp_path / "config")
        assert (settings.port, settings.bind_address) == (77, None)

    def test_what_ssh_refuses_is_refused_with_its_reason(self, tmp_path: Path) -> None:
        (tmp_path / "config").write_text("Nonsense yes\n")
        with pytest.raises(InvalidInput, match="ssh refuses the configuration for gpu: .*terminating"):
            resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "config")

    def test_a_configuration_that_hangs_has_an_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sshconfig, "_SSH_ANSWER_TIME", 0.2)
        (tmp_path / "config").write_text('Match exec "sleep 60"\n  User ada\n')
        with pytest.raises(InvalidInput, match="did not end"):
            resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "config")


class TestWithoutSsh:
    """What needs `ssh` says so."""

    @pytest.fixture(autouse=True)
    def reader(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: None)

    def test_a_jump(self, config: Path) -> None:
        with pytest.raises(InvalidInput, match="jump is reached through ProxyJump, which needs ssh"):
            resolve_host(RemoteSource("jump", "/d"), config_file=config)

    @pytest.mark.parametrize("line", ['Match host gpu exec "true"', "match exec true", "  Include other"])
    def test_what_only_ssh_can_read(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "config").write_text(f"{line}\n  Port 9\n")
        with pytest.raises(InvalidInput, match="which needs ssh: install"):
            resolve_host(RemoteSource("gpu", "/d"), config_file=tmp_path / "config")


def test_a_name_of_a_file_may_have_a_quote_in_it(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text('Host *\n  UserKnownHostsFile "/keys/it\'s"\n')
    assert resolve_host(RemoteSource("gpu", "/d"), config_file=file).user_known_hosts == (Path("/keys/it's"),)


@pytest.mark.parametrize(
    "line",
    [
        "CertificateFile ~nobody-here/key",
        "IdentityAgent ~nobody-here/socket",
        "Port ²",
        "Port 65536",
        "Port " + "9" * 5000,
        "User -oProxyCommand=id",
        'User "a b"',
        "HostName -x",
        'HostName "a b"',
        "HostName $(id)",
        "HostName " + "a" * 300,
    ],
)
def test_what_can_be_no_host_user_port_or_file_is_refused_in_a_sentence(tmp_path: Path, line: str) -> None:
    file = tmp_path / "config"
    file.write_text(f"Host *\n  {line}\n")
    with pytest.raises(InvalidInput):
        resolve_host(RemoteSource("gpu", "/d"), config_file=file)


@pytest.mark.parametrize("user", ["a\0b", "-oProxyCommand=id", "a\nb", "", "x" * 200_000])
def test_a_user_that_there_cannot_be_never_reaches_ssh(user: str) -> None:
    with pytest.raises(InvalidInput, match="the user"):
        resolve_host(RemoteSource("gpu", "/d", user))


def test_the_environment_is_not_changed(config: Path) -> None:
    before = dict(os.environ)
    resolve_host(RemoteSource("gpu", "/d"), config_file=config)
    assert dict(os.environ) == before

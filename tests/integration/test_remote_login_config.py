"""What ~/.ssh/config says, carried out against a real sshd."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import HostKeyChanged, HostKeyUnknown, RunicornFSError, TimedOut, Unreachable
from runicornfs.remote.address import RemoteSource
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import Server
from runicornfs.remote.sshconfig import resolve_host
from tests.remotes import settings_of


def keygen(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", path, "-t", "ed25519", *options], check=True)
    return path


class Configured:
    """A configuration for the host `gpu`, which is the sshd."""

    def __init__(self, folder: Path, sshd: PrivateSshd) -> None:
        self.file = folder / "config"
        self.sshd = sshd
        self.host = f"HostName 127.0.0.1\nPort {sshd.port}\nUser {sshd.user}\n"
        self.key = f"IdentityFile {sshd.identity}\n"
        self.hosts = f"UserKnownHostsFile {sshd.known_hosts}\nGlobalKnownHostsFile none\n"

    @property
    def all(self) -> str:
        return self.host + self.key + self.hosts

    def lets_in(self, text: str) -> None:
        self.file.write_text(text)
        server = Server(resolve_host(RemoteSource("gpu", "/"), config_file=self.file), "/")
        try:
            server.connect()
            assert server.inspect_store().readable
        finally:
            server.close()

    def fails(self, text: str) -> RunicornFSError:
        with pytest.raises(RunicornFSError) as failure:
            self.lets_in(text)
        return failure.value


@pytest.fixture
def gpu(tmp_path: Path, sshd: PrivateSshd) -> Configured:
    return Configured(tmp_path, sshd)


def test_an_included_file(gpu: Configured, tmp_path: Path) -> None:
    (tmp_path / "more").write_text(gpu.all)
    gpu.lets_in(f"Include {tmp_path}/mor*\n")


@pytest.mark.parametrize("match", ["host gpu", 'exec "test %n = gpu"', "localuser *", "originalhost g??"])
def test_a_match(gpu: Configured, match: str) -> None:
    gpu.lets_in(f"Match {match}\n{gpu.all}")


def test_a_final_match(gpu: Configured) -> None:
    gpu.lets_in(f"Match final host 127.0.0.1\n{gpu.key}{gpu.hosts}Host gpu\n{gpu.host}")


def test_a_name_for_the_host_key(gpu: Configured, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(f"cluster {gpu.sshd.host_key}\n")
    hosts = f"UserKnownHostsFile {tmp_path}/hosts\nGlobalKnownHostsFile none\n"
    gpu.lets_in(f"{gpu.host}{gpu.key}{hosts}HostKeyAlias cluster\n")
    assert isinstance(gpu.fails(f"{gpu.host}{gpu.key}{hosts}"), HostKeyUnknown)


def test_several_files_of_known_hosts(gpu: Configured, tmp_path: Path) -> None:
    known = gpu.sshd.known_hosts
    empty = tmp_path / "empty"
    gpu.lets_in(f"{gpu.host}{gpu.key}UserKnownHostsFile {empty} {known}\nGlobalKnownHostsFile none\n")
    gpu.lets_in(f"{gpu.host}{gpu.key}UserKnownHostsFile none\nGlobalKnownHostsFile {empty} {known}\n")
    assert not empty.exists()


@pytest.mark.parametrize("hashed", ["yes", "no"])
def test_new_keys_are_accepted_where_it_says_so_and_changed_ones_are_not(
    gpu: Configured, tmp_path: Path, hashed: str
) -> None:
    hosts = f"UserKnownHostsFile {tmp_path}/ssh/hosts\nGlobalKnownHostsFile none\nHashKnownHosts {hashed}\n"
    text = f"{gpu.host}{gpu.key}{hosts}StrictHostKeyChecking no\n"
    gpu.lets_in(text)
    written = (tmp_path / "ssh" / "hosts").read_text()
    assert ("127.0.0.1" in written) == (hashed == "no")
    gpu.lets_in(text.replace("Checking no", "Checking yes"))
    name = written.split()[0]
    (tmp_path / "ssh" / "hosts").write_text(f"{name} {keygen(tmp_path / 'other').with_suffix('.pub').read_text()}")
    assert isinstance(gpu.fails(text), HostKeyChanged)


def test_ssh_itself_reads_what_was_written(gpu: Configured, tmp_path: Path) -> None:
    hosts = f"UserKnownHostsFile {tmp_path}/hosts\nGlobalKnownHostsFile none\nHashKnownHosts yes\n"
    gpu.lets_in(f"{gpu.host}{gpu.key}{hosts}StrictHostKeyChecking accept-new\n")
    gpu.file.write_text(f"{gpu.host}{gpu.key}{hosts}StrictHostKeyChecking yes\n")
    command = ["ssh", "-n", "-F", str(gpu.file), "-o", "BatchMode=yes", "gpu", "true"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_an_address_to_connect_from(gpu: Configured) -> None:
    gpu.lets_in(f"{gpu.all}BindAddress 127.0.0.3\n")
    assert "from 127.0.0.3 port" in gpu.sshd.log()
    assert isinstance(gpu.fails(f"{gpu.all}BindAddress 192.0.2.1\n"), Unreachable)


def test_a_family_of_addresses(gpu: Configured) -> None:
    gpu.lets_in(f"{gpu.all}AddressFamily inet\n")
    assert "cannot be found" in str(gpu.fails(f"{gpu.all}AddressFamily inet6\n"))


def test_a_time_for_connecting(gpu: Configured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = gpu.all.replace(f"Port {gpu.sshd.port}", f"Port {silent.getsockname()[1]}")
        error = gpu.fails(f"{text}ConnectTimeout 1\n")
    assert isinstance(error, TimedOut)
    assert "within 1 s" in str(error)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address(tmp_path: Path) -> None:
    with PrivateSshd(tmp_path / "sshd", config_lines=["ListenAddress ::1"]) as sshd:
        (tmp_path / "hosts").write_text(f"[::1]:{sshd.port} {sshd.host_key}\n")
        settings = settings_of(sshd, host="::1", hostname="::1", user_known_hosts=(tmp_path / "hosts",))
        server = Server(settings, "/", Credentials((sshd.identity,)))
        server.connect()
        server.close()


class TestHostCertificate:
    """sshd has a certificate for its key. It is the key that has to be known: an authority vouches for nothing."""

    @pytest.fixture(params=["both", "certificate alone"])
    def certified(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PrivateSshd]:
        authority, key = keygen(tmp_path / "ca"), keygen(tmp_path / "host")
        sign = ["ssh-keygen", "-q", "-s", str(authority), "-h", "-I", "x", "-n", "127.0.0.1", f"{key}.pub"]
        subprocess.run(sign, check=True)
        lines = [f"HostKey {key}", f"HostCertificate {key}-cert.pub"]
        if request.param == "certificate alone":
            lines.append("HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com")
        with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd:
            yield sshd

    def test_its_plain_key_is_enough(self, certified: PrivateSshd, tmp_path: Path) -> None:
        (tmp_path / "hosts").write_text(f"[127.0.0.1]:{certified.port} {(tmp_path / 'host.pub').read_text()}")
        server = Server(
            settings_of(certified, user_known_hosts=(tmp_path / "hosts",)), "/", Credentials((certified.identity,))
        )
        server.connect()
        assert server.state == "connected"
        server.close()

    def test_its_authority_alone_does_not_make_it_known(self, certified: PrivateSshd, tmp_path: Path) -> None:
        (tmp_path / "hosts").write_text(f"@cert-authority * {(tmp_path / 'ca.pub').read_text()}")
        server = Server(
            settings_of(certified, user_known_hosts=(tmp_path / "hosts",)), "/", Credentials((certified.identity,))
        )
        with pytest.raises(HostKeyUnknown):
            server.connect()
        server.close()

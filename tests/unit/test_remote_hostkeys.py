"""known_hosts decides, as OpenSSH reads it; a key that nobody confirmed is refused."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import HostKeyChanged, HostKeyUnknown
from runicornfs.remote.hostkeys import HostKeyPolicy, UnknownHostKey, accept_fingerprint, fingerprint
from runicornfs.remote.sshconfig import HostSettings

KEY = paramiko.ECDSAKey.generate()
OTHER = paramiko.ECDSAKey.generate()
RSA = paramiko.RSAKey.generate(2048)


def line(names: str, key: paramiko.PKey = KEY) -> str:
    return f"{names} {key.get_name()} {key.get_base64()}\n"


@pytest.fixture
def settings(tmp_path: Path) -> HostSettings:
    return HostSettings("gpu", "gpu.lab", 22, "ada", user_known_hosts=(tmp_path / "ssh" / "known_hosts",))


def known(settings: HostSettings, text: str) -> HostSettings:
    path = settings.user_known_hosts[0]
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return settings


def check(settings: HostSettings, key: paramiko.PKey = KEY) -> None:
    HostKeyPolicy(settings).missing_host_key(paramiko.SSHClient(), "", key)


@pytest.mark.parametrize(
    "names",
    [
        "gpu.lab",
        "GPU.lab",
        "other,gpu.lab,third",
        "*.lab",
        "gpu.???",
        "*",
        "!cpu.lab,*.lab",
        paramiko.HostKeys.hash_host("gpu.lab"),
    ],
)
def test_a_line_that_names_the_host_vouches_for_its_key(settings: HostSettings, names: str) -> None:
    check(known(settings, "# a comment\n\nnonsense\nold ssh-dss AAAA\n" + line("cpu", OTHER) + line(names)))


@pytest.mark.parametrize("names", ["gpu", "gpu.labs", "!gpu.lab,*.lab", "[gpu.lab]:2222", "|1|bad|bad", "gpu.lab.*"])
def test_a_line_that_names_another_host_says_nothing(settings: HostSettings, names: str) -> None:
    with pytest.raises(HostKeyUnknown) as refusal:
        check(known(settings, line(names)))
    assert not isinstance(refusal.value, HostKeyChanged)


@pytest.mark.parametrize("names", ["[gpu.lab]:2222", paramiko.HostKeys.hash_host("[gpu.lab]:2222"), "[*.lab]:2222"])
def test_another_port_has_its_own_name(settings: HostSettings, names: str) -> None:
    check(dataclasses.replace(known(settings, line(names)), port=2222))


def test_the_same_key_without_a_port_is_good_for_another_port(settings: HostSettings) -> None:
    elsewhere = dataclasses.replace(known(settings, line("gpu.lab")), port=2222)
    check(elsewhere)
    with pytest.raises(HostKeyUnknown) as refusal:
        check(elsewhere, OTHER)
    assert not isinstance(refusal.value, HostKeyChanged)


def test_an_alias_for_the_key_stands_for_host_and_port(settings: HostSettings) -> None:
    aliased = dataclasses.replace(known(settings, line("cluster")), host_key_alias="cluster", port=2222)
    check(aliased)
    with pytest.raises(HostKeyUnknown):
        check(dataclasses.replace(aliased, host_key_alias=None))


def test_the_machine_wide_file_counts_as_well(settings: HostSettings, tmp_path: Path) -> None:
    (tmp_path / "global").write_text(line("gpu.lab"))
    check(dataclasses.replace(settings, global_known_hosts=(tmp_path / "missing", tmp_path / "global")))


def test_one_of_several_keys_is_enough(settings: HostSettings) -> None:
    check(known(settings, line("gpu.lab", OTHER) + line("gpu.lab", RSA) + line("gpu.lab")))


@pytest.mark.parametrize("shown", [OTHER, RSA])
def test_a_changed_key_is_refused_even_if_it_would_be_confirmed(settings: HostSettings, shown: paramiko.PKey) -> None:
    policy = HostKeyPolicy(known(settings, line("gpu.lab")), confirm=lambda unknown: True)
    before = settings.user_known_hosts[0].read_bytes()
    with pytest.raises(HostKeyChanged, match="CHANGED") as refusal:
        policy.missing_host_key(paramiko.SSHClient(), "", shown)
    assert refusal.value.fingerprint == fingerprint(shown)
    assert f"{settings.user_known_hosts[0]}:1" in str(refusal.value)
    assert settings.user_known_hosts[0].read_bytes() == before


def test_a_revoked_key_is_refused_even_if_another_line_has_it(settings: HostSettings) -> None:
    with pytest.raises(HostKeyChanged, match="revoked"):
        check(known(settings, line("gpu.lab") + "@revoked " + line("*")))


def test_a_revoked_key_does_not_concern_the_others(settings: HostSettings) -> None:
    check(known(settings, "@revoked " + line("*", OTHER) + line("gpu.lab")))


def test_a_certificate_authority_vouches_for_no_plain_key(settings: HostSettings) -> None:
    with pytest.raises(HostKeyUnknown):
        check(known(settings, "@cert-authority " + line("gpu.lab")))


def test_an_unknown_key_is_refused_with_what_a_person_needs_to_accept_it(settings: HostSettings) -> None:
    with pytest.raises(HostKeyUnknown) as refusal:
        check(settings)
    print_of_key = fingerprint(KEY)
    assert print_of_key.startswith("SHA256:")
    assert (refusal.value.key_type, refusal.value.fingerprint) == ("ecdsa-sha2-nistp256", print_of_key)
    assert f"--accept-host-key {print_of_key}" in str(refusal.value)


def test_a_key_that_is_confirmed_is_remembered_and_then_known(settings: HostSettings) -> None:
    asked: list[UnknownHostKey] = []

    def confirm(unknown: UnknownHostKey) -> bool:
        asked.append(unknown)
        return True

    HostKeyPolicy(settings, confirm).missing_host_key(paramiko.SSHClient(), "", KEY)
    assert asked == [UnknownHostKey("gpu", 22, "ecdsa-sha2-nistp256", fingerprint(KEY))]
    path = settings.user_known_hosts[0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == line("gpu.lab")
    check(settings)


@pytest.mark.parametrize("before", ["# mine\nother key", "# mine\n" + line("|1|x|y,cpu", OTHER), "\n"])
def test_remembering_a_key_leaves_the_other_lines_alone(settings: HostSettings, before: str) -> None:
    elsewhere = dataclasses.replace(known(settings, before), port=2222)
    HostKeyPolicy(elsewhere, lambda unknown: True).missing_host_key(paramiko.SSHClient(), "", KEY)
    after = settings.user_known_hosts[0].read_text()
    assert after == before.rstrip("\n") * bool(before.strip()) + "\n" + line("[gpu.lab]:2222")


def test_a_key_that_is_not_confirmed_is_not_remembered(settings: HostSettings) -> None:
    with pytest.raises(HostKeyUnknown):
        HostKeyPolicy(settings, lambda unknown: False).missing_host_key(paramiko.SSHClient(), "", KEY)
    assert not settings.user_known_hosts[0].exists()


def test_a_file_that_cannot_be_written_does_not_stop_the_connection(
    settings: HostSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    nowhere = dataclasses.replace(settings, user_known_hosts=(tmp_path / "file" / "known_hosts",))
    HostKeyPolicy(nowhere, lambda unknown: True).missing_host_key(paramiko.SSHClient(), "", KEY)
    assert "cannot be written" in caplog.text


def test_the_types_of_known_keys_are_told_so_that_the_server_can_be_asked_for_them(settings: HostSettings) -> None:
    text = line("gpu.lab", RSA) + line("gpu.lab") + line("cpu.lab") + "@revoked " + line("gpu.lab", OTHER)
    assert HostKeyPolicy(known(settings, text)).key_types() == ["ssh-rsa", "ecdsa-sha2-nistp256"]


@pytest.mark.parametrize(
    "written", [fingerprint(KEY), fingerprint(KEY).removeprefix("SHA256:"), fingerprint(KEY) + "="]
)
def test_exactly_the_named_fingerprint_is_accepted(written: str) -> None:
    confirm = accept_fingerprint(written)
    assert confirm(UnknownHostKey("gpu", 22, "", fingerprint(KEY)))
    assert not confirm(UnknownHostKey("gpu", 22, "", fingerprint(OTHER)))


@given(st.text())
def test_no_other_text_accepts_a_key(text: str) -> None:
    assert not accept_fingerprint(text)(UnknownHostKey("gpu", 22, "", fingerprint(KEY)))


@given(
    st.text()
    | st.lists(st.sampled_from(["gpu.lab", "ssh-rsa", "@revoked", "|1|", "AAAA", "=", "\t", "\n"])).map(" ".join)
)
def test_any_text_in_known_hosts_can_be_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any_known_hosts"
    path.write_bytes(text.encode(errors="surrogatepass") + b"\n" + line("gpu.lab").encode())
    check(HostSettings("gpu", "gpu.lab", 22, "ada", user_known_hosts=(path,)))

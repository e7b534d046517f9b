"""known_hosts decides, as OpenSSH reads it; a key that nobody confirmed is refused."""

from __future__ import annotations

import base64
import dataclasses
import stat
import subprocess
import sys
from pathlib import Path

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import HostKeyChanged, HostKeyUnknown, InvalidInput
from runicornfs.remote.hostkeys import Confirm, HostKeyPolicy, UnknownHostKey, accept_fingerprint, fingerprint
from runicornfs.remote.sshconfig import HostKeyChecking, HostSettings

KEY = paramiko.ECDSAKey.generate()
OTHER = paramiko.ECDSAKey.generate()
RSA = paramiko.RSAKey.generate(2048)
SALT = "|1|" + base64.b64encode(bytes(20)).decode()  # a test has the same name in every process that collects it


def hashed(host: str) -> str:
    return paramiko.HostKeys.hash_host(host, SALT)


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
        hashed("gpu.lab"),
    ],
)
def test_a_line_that_names_the_host_vouches_for_its_key(settings: HostSettings, names: str) -> None:
    check(known(settings, "# a comment\n\nnonsense\nold ssh-dss AAAA\n" + line("cpu", OTHER) + line(names)))


@pytest.mark.parametrize("names", ["gpu", "gpu.labs", "!gpu.lab,*.lab", "[gpu.lab]:2222", "|1|bad|bad", "gpu.lab.*"])
def test_a_line_that_names_another_host_says_nothing(settings: HostSettings, names: str) -> None:
    with pytest.raises(HostKeyUnknown) as refusal:
        check(known(settings, line(names)))
    assert not isinstance(refusal.value, HostKeyChanged)


@pytest.mark.parametrize("names", ["[gpu.lab]:2222", hashed("[gpu.lab]:2222"), "[*.lab]:2222"])
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


@pytest.mark.parametrize(
    "names",
    ["gpu.lab", "*", "*.lab", "!cpu.lab,*.lab", hashed("gpu.lab"), "[gpu.lab]:2222", "[*]:2222"]
    + [hashed("[gpu.lab]:2222")],
)
def test_a_key_may_be_revoked_for_any_port(settings: HostSettings, names: str) -> None:
    port = dataclasses.replace(settings, port=2222)
    with pytest.raises(HostKeyChanged, match="revoked"):
        HostKeyPolicy(known(port, "@revoked " + line(names)), lambda unknown: True).missing_host_key(
            paramiko.SSHClient(), "", KEY
        )


@pytest.mark.parametrize("names", ["cpu.lab", "!gpu.lab,*.lab", hashed("cpu.lab")])
def test_a_key_that_is_revoked_for_another_host_is_not_for_this_one(settings: HostSettings, names: str) -> None:
    check(known(settings, "@revoked " + line(names) + line("gpu.lab")))


def test_a_revocation_counts_in_whichever_file_it_stands(settings: HostSettings, tmp_path: Path) -> None:
    (tmp_path / "global").write_text("@revoked " + line("*"))
    everywhere = dataclasses.replace(known(settings, line("gpu.lab")), global_known_hosts=(tmp_path / "global",))
    with pytest.raises(HostKeyChanged, match="revoked"):
        check(everywhere)


class TestRevokedHostKeys:
    """The option of ssh_config(5), in either of its forms."""

    @pytest.fixture(params=["lines", "list"])
    def revoking(self, settings: HostSettings, tmp_path: Path, request: pytest.FixtureRequest) -> HostSettings:
        """With KEY revoked there, and nothing known."""
        file = tmp_path / "revoked"
        (tmp_path / "key.pub").write_text(f"{KEY.get_name()} {KEY.get_base64()}\n")
        if request.param == "lines":
            file.write_text("# lost\n" + (tmp_path / "key.pub").read_text().replace("\n", " of a stolen disk\n"))
        else:
            subprocess.run(["ssh-keygen", "-q", "-k", "-f", file, tmp_path / "key.pub"], check=True, timeout=30)
        return dataclasses.replace(settings, revoked_host_keys=file)

    def test_a_key_there_is_refused_even_if_it_is_known_or_would_be_confirmed(self, revoking: HostSettings) -> None:
        with pytest.raises(HostKeyChanged, match="revoked in /"):
            HostKeyPolicy(revoking, lambda unknown: True).missing_host_key(paramiko.SSHClient(), "", KEY)
        assert not revoking.user_known_hosts[0].exists()
        with pytest.raises(HostKeyChanged, match="revoked in /"):
            check(known(revoking, line("gpu.lab")))

    def test_other_keys_are_judged_as_ever(self, revoking: HostSettings) -> None:
        check(known(revoking, line("gpu.lab", OTHER)), OTHER)

    def test_where_nobody_can_read_it_no_key_is_accepted(self, revoking: HostSettings) -> None:
        file = revoking.revoked_host_keys
        assert file is not None
        file.write_bytes(file.read_bytes()[:20] if file.read_bytes().startswith(b"SSHKRL") else b"")
        if not file.read_bytes():
            file.unlink()
        with pytest.raises(InvalidInput, match="RevokedHostKeys"):
            check(known(revoking, line("gpu.lab")))


@pytest.mark.parametrize(
    ("hostname", "port", "names"),
    [
        ("::1", 22, "::1"),
        ("::1", 2222, "[::1]:2222"),
        ("fe80::1%eth0", 2222, "[fe80::1%eth0]:2222"),
        ("2001:DB8::1", 22, "2001:db8::1"),
        ("::1", 2222, hashed("[::1]:2222")),
        ("::1", 2222, "::1"),
    ],
)
def test_ipv6_addresses(settings: HostSettings, hostname: str, port: int, names: str) -> None:
    check(dataclasses.replace(known(settings, line(names)), hostname=hostname, port=port))


def test_a_key_that_the_host_has_at_its_usual_port_is_asked_for_at_another(settings: HostSettings) -> None:
    text = line("gpu.lab", RSA) + line("[gpu.lab]:2222")
    at_another = dataclasses.replace(known(settings, text), port=2222)
    assert HostKeyPolicy(at_another).key_types() == ["ecdsa-sha2-nistp256", "ssh-rsa"]


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


def test_a_remembered_name_is_hashed_where_the_configuration_says_so(settings: HostSettings) -> None:
    hashed = dataclasses.replace(settings, port=2222, hash_known_hosts=True)
    HostKeyPolicy(hashed, lambda unknown: True).missing_host_key(paramiko.SSHClient(), "", KEY)
    text = hashed.user_known_hosts[0].read_text()
    assert text.startswith("|1|")
    assert "gpu" not in text
    check(hashed)


def test_the_folder_and_the_file_are_for_the_user_alone(settings: HostSettings) -> None:
    HostKeyPolicy(settings, lambda unknown: True).missing_host_key(paramiko.SSHClient(), "", KEY)
    path = settings.user_known_hosts[0]
    assert (stat.S_IMODE(path.parent.stat().st_mode), stat.S_IMODE(path.stat().st_mode)) == (0o700, 0o600)


def test_several_processes_can_remember_keys_at_the_same_time(settings: HostSettings) -> None:
    known(settings, "# no line end")
    program = (
        "import sys, paramiko, pathlib; from runicornfs.remote.hostkeys import HostKeyPolicy;"
        "from runicornfs.remote.sshconfig import HostSettings; key = paramiko.ECDSAKey.generate();"
        "hosts = (pathlib.Path(sys.argv[1]),);"
        "[HostKeyPolicy(HostSettings('h', f'{sys.argv[2]}-{n}', 22, 'a', user_known_hosts=hosts), lambda u: True)"
        ".missing_host_key(paramiko.SSHClient(), '', key) for n in range(50)]"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(settings.user_known_hosts[0]), f"host{number}"])
        for number in range(4)
    ]
    assert [process.wait(30) for process in running] == [0] * 4
    first, *lines = filter(None, settings.user_known_hosts[0].read_text().splitlines())
    assert first == "# no line end"
    assert {text.split()[0] for text in lines} == {f"host{number}-{n}" for number in range(4) for n in range(50)}
    assert all(len(text.split()) == 3 for text in lines)


class TestStrictHostKeyChecking:
    """What the configuration says about keys that nobody knows yet."""

    @staticmethod
    def decide(settings: HostSettings, confirm: Confirm | None, key: paramiko.PKey = KEY) -> None:
        HostKeyPolicy(settings, confirm).missing_host_key(paramiko.SSHClient(), "", key)

    def test_accept_new_takes_and_remembers_them_without_a_question(self, settings: HostSettings) -> None:
        trusting = dataclasses.replace(settings, host_key_checking="accept-new")
        self.decide(trusting, lambda unknown: pytest.fail("nobody is to be asked"))
        check(settings)

    def test_accept_new_takes_no_changed_key(self, settings: HostSettings) -> None:
        trusting = dataclasses.replace(known(settings, line("gpu.lab")), host_key_checking="accept-new")
        with pytest.raises(HostKeyChanged):
            self.decide(trusting, None, OTHER)

    def test_accept_new_takes_nothing_where_what_is_known_cannot_be_read(
        self, settings: HostSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A home on a file server may be away for a moment: then every key would be new."""
        broken = tmp_path / "broken"
        broken.mkdir()
        new = dataclasses.replace(settings, host_key_checking="accept-new", global_known_hosts=(broken,))
        with pytest.raises(HostKeyUnknown):
            check(new)
        assert not settings.user_known_hosts[0].exists()
        assert f"{broken} cannot be read" in caplog.text
        check(dataclasses.replace(new, global_known_hosts=()))

    def test_yes_asks_nobody(self, settings: HostSettings) -> None:
        strict = dataclasses.replace(settings, host_key_checking="yes")
        with pytest.raises(HostKeyUnknown):
            self.decide(strict, lambda unknown: True)

    @pytest.mark.parametrize("checking", ["yes", "ask", "accept-new"])
    def test_a_named_fingerprint_decides_in_any_case(self, settings: HostSettings, checking: HostKeyChecking) -> None:
        any_case = dataclasses.replace(settings, host_key_checking=checking)
        with pytest.raises(HostKeyUnknown):
            self.decide(any_case, accept_fingerprint(fingerprint(OTHER)))
        self.decide(any_case, accept_fingerprint(fingerprint(KEY)))


@pytest.mark.parametrize("before", ["# mine\nother key", "# mine\n" + line("|1|x|y,cpu", OTHER), "\n"])
def test_remembering_a_key_leaves_the_other_lines_alone(settings: HostSettings, before: str) -> None:
    elsewhere = dataclasses.replace(known(settings, before), port=2222)
    HostKeyPolicy(elsewhere, lambda unknown: True).missing_host_key(paramiko.SSHClient(), "", KEY)
    after = settings.user_known_hosts[0].read_text()
    assert after == before.rstrip("\n") * bool(before.strip()) + "\n" + line("[gpu.lab]:2222")


def test_a_file_that_is_a_link_stays_one_and_keeps_its_mode(settings: HostSettings, tmp_path: Path) -> None:
    """As with dotfiles that are kept somewhere else."""
    dotfile = tmp_path / "dotfile"
    dotfile.write_text(line("cpu.lab"))
    dotfile.chmod(0o644)
    path = settings.user_known_hosts[0]
    path.parent.mkdir()
    path.symlink_to(dotfile)
    HostKeyPolicy(settings, lambda unknown: True).missing_host_key(paramiko.SSHClient(), "", KEY)
    assert path.is_symlink()
    assert dotfile.read_text() == line("cpu.lab") + line("gpu.lab")
    assert stat.S_IMODE(dotfile.stat().st_mode) == 0o644


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


@pytest.mark.parametrize("form", ["{}", "SHA256:{}", "SHA256:{}="])
def test_exactly_the_named_fingerprint_is_accepted(form: str) -> None:
    written = form.format(fingerprint(KEY).removeprefix("SHA256:"))
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

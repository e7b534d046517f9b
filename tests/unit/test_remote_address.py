"""SOURCE as people write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import InvalidInput
from runicornfs.remote.address import LocalSource, RemoteSource, ServerAddress, parse_source

_NAME = st.text(st.characters(codec="ascii", categories=["Ll", "Lu", "Nd"], include_characters="-._"), min_size=1)
_HOSTS = _NAME.filter(lambda name: not name.startswith(("-", ".", "~"))) | st.sampled_from(["::1", "fe80::1%eth0"])
_USERS = st.none() | st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Z"], exclude_characters=":/[]"), min_size=1
).filter(lambda user: not user.startswith(("-", ".", "~", "/")))
_COMPONENT = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1).filter(
    lambda name: name not in (".", "..")
)
_ROOTS = st.lists(_COMPONENT, max_size=4).map(lambda components: "/" + "/".join(components))


@given(_HOSTS, _ROOTS, _USERS, st.none() | st.integers(1, 65535))
def test_a_source_that_is_written_out_is_read_back_the_same(
    host: str, root: str, user: str | None, port: int | None
) -> None:
    source = RemoteSource(host, root, user, port)
    assert parse_source(str(source)) == source


@given(st.text())
def test_whatever_is_written_is_a_source_or_refused_in_a_sentence(text: str) -> None:
    source: object = None
    sentence = "one"
    try:
        source = parse_source(text)
    except InvalidInput as error:
        sentence = str(error)
    assert sentence[0].islower()
    assert not sentence.endswith(".")
    if isinstance(source, RemoteSource):
        for word in (source.host, source.user or "x"):
            assert word
            assert not word.startswith("-")
            assert not any(ord(character) < 32 for character in word)
        assert source.root.startswith("/")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("gpu:/data/runicorn", RemoteSource("gpu", "/data/runicorn")),
        ("ada@gpu.lab:/data/", RemoteSource("gpu.lab", "/data", "ada")),
        ("ada@lab@gpu:/d", RemoteSource("gpu", "/d", "ada@lab")),
        ("[::1]:/d", RemoteSource("::1", "/d")),
        ("ada@[fe80::1%eth0]:/d", RemoteSource("fe80::1%eth0", "/d", "ada")),
        ("gpu:/", RemoteSource("gpu", "/")),
        ("gpu:/a//b/", RemoteSource("gpu", "/a/b")),
        ("sftp://gpu/data", RemoteSource("gpu", "/data")),
        ("sftp://ada@gpu:2222/my%20data", RemoteSource("gpu", "/my data", "ada", 2222)),
        ("sftp://a%40b@[::1]:22/d", RemoteSource("::1", "/d", "a@b", 22)),
        ("gpu:/with:colon", RemoteSource("gpu", "/with:colon")),
    ],
)
def test_the_notations_of_a_server(text: str, source: RemoteSource) -> None:
    assert parse_source(text) == source


def test_an_odd_byte_in_a_root_survives() -> None:
    assert parse_source("sftp://gpu/a%FFb") == RemoteSource("gpu", "/a\udcffb")


@pytest.mark.parametrize("text", ["/data/a:b", "./a:b", "../a", "~/store", "store", "some/where:else", "~"])
def test_what_has_no_host_is_a_folder_of_this_machine(text: str) -> None:
    assert parse_source(text) == LocalSource(Path(text).expanduser().absolute())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("-oProxyCommand=id:/d", "dash"),
        ("-x@gpu:/d", "dash"),
        ("sftp://-x/d", "dash"),
        ("sftp://%2Dx@gpu/d", "dash"),
        ("@gpu:/d", "user is empty"),
        (":/d", "host is empty"),
        ("sftp:///d", "host is empty"),
        ("gpu:data", "absolute"),
        ("gpu:", "absolute"),
        ("gpu:~/d", "absolute"),
        ("gpu:/a/../b", "'..'"),
        ("gpu:/a\nb", "control"),
        ("g\x1bpu:/a", "control"),
        ("sftp://g%0apu/d", "characters"),
        ("sftp://gpu/a%00b", "control"),
        ("sftp://gpu", "no root"),
        ("sftp://gpu:0/d", "port"),
        ("sftp://gpu:65536/d", "port"),
        ("sftp://gpu:²/d", "port"),
        ("sftp://gpu:22x/d", "port"),
        ("sftp://ada:secret@gpu/d", "password"),
        ("http://gpu/d", "sftp://"),
        ("[::1:/d", "brackets"),
        ("sftp://[::1/d", "brackets"),
        ("gpu$(id):/d", "characters"),
        ("a b:/d", "characters"),
        ("~nobody-here/store", "home of a user"),
    ],
)
def test_what_cannot_be_a_source_is_refused_with_the_reason(text: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word.replace("(", r"\(")):
        parse_source(text)


def test_a_password_in_a_source_is_not_repeated() -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_source("sftp://ada:secret@gpu/d")
    assert "secret" not in str(refusal.value)


def test_an_address_is_shown_as_a_source() -> None:
    assert str(ServerAddress("gpu", 22, "ada", "/d")) == "ada@gpu:/d"
    assert str(ServerAddress("gpu", 2222, "ada", "/d")) == "sftp://ada@gpu:2222/d"

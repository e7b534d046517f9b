"""How people name a version, on the command line and in requests."""

from __future__ import annotations

import pytest

from runicornfs.cli.names import ArtifactName
from runicornfs.errors import InvalidInput
from runicornfs.workspace.names import VersionName


@pytest.mark.parametrize(
    ("text", "expected", "number"),
    [
        ("net:v3", (None, "net", "v3"), 3),
        ("net:3", (None, "net", "3"), 3),
        ("model/net:production", ("model", "net", "production"), None),
        ("a:b c:v1", (None, "a:b c", "v1"), 1),
        ("net:v", (None, "net", "v"), None),
        ("net:²", (None, "net", "²"), None),
        ("net:v" + "9" * 10, (None, "net", "v" + "9" * 10), None),
        ("net:" + "9" * 5000, (None, "net", "9" * 5000), None),
    ],
)
def test_a_version_is_a_name_and_a_number_or_an_alias(
    text: str, expected: tuple[str | None, str, str], number: int | None
) -> None:
    assert VersionName.parse(text) == expected
    assert VersionName.parse(text).number == number
    assert ArtifactName.parse(text) == ArtifactName(*expected)


def test_the_type_in_the_name_counts_before_the_one_beside_it() -> None:
    assert VersionName.parse("net:v1", "model").type == "model"
    assert VersionName.parse("dataset/net:v1", "model").type == "dataset"
    assert ArtifactName.parse("net", "model") == ArtifactName("model", "net", None)
    assert ArtifactName.parse("dataset/net", "model") == ArtifactName("dataset", "net", None)


@pytest.mark.parametrize("text", ["", "net", ":v1", "net:", "/net:v1", "a/b/net:v1", "model/:v1"])
def test_what_names_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="names no version"):
        VersionName.parse(text)


@pytest.mark.parametrize("text", ["", ":v1", "net:", "/net", "a/b/net:v1", "model/:v1"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no artifact's name"):
        ArtifactName.parse(text)

"""Versions as people name them: `resnet50:v3`, `resnet50:3`, `model/resnet50:production`."""

from __future__ import annotations

from typing import NamedTuple

from runicornfs.catalog.artifacts import ArtifactRef
from runicornfs.errors import InvalidInput, NotFound
from runicornfs.store.fields import VERSION_LIMIT
from runicornfs.store.paths import shown
from runicornfs.workspace.artifacts import Artifacts


class VersionName(NamedTuple):
    """`type` is None where it was not said; `version` is a number or an alias."""

    type: str | None
    name: str
    version: str

    @classmethod
    def parse(cls, text: str, type: str | None = None) -> VersionName:
        """`type` counts where `text` names none. Raises InvalidInput."""
        artifact, _, version = text.rpartition(":")
        before, slash, name = artifact.rpartition("/")
        if not name or not version or "/" in before or (slash and not before):
            raise InvalidInput(f"{shown(text)} names no version: write NAME:VERSION or TYPE/NAME:VERSION")
        return cls(before or type, name, version)

    @property
    def number(self) -> int | None:
        """None for an alias, and for more digits than a version's number has."""
        digits = self.version.removeprefix("v")
        is_number = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(VERSION_LIMIT))
        return int(digits) if is_number else None


def find_version(artifacts: Artifacts, text: str, type: str | None = None) -> tuple[ArtifactRef, int]:
    """The version that this name means now. Raises InvalidInput, NotFound, AmbiguousName."""
    wanted = VersionName.parse(text, type)
    if wanted.number is not None:
        return artifacts.find(wanted.name, wanted.type, wanted.number), wanted.number
    ref = artifacts.find(wanted.name, wanted.type)
    for version in artifacts.versions(ref):
        if wanted.version in version.aliases:
            return ref, version.version
    raise NotFound(f"{ref.type}/{ref.name} has no version or alias {shown(wanted.version)}")

"""What a command line calls an artifact or a version: `resnet50`, `model/resnet50:v3`, `resnet50:production`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from runicornfs.cli import answers
from runicornfs.cli.client import ApiClient
from runicornfs.errors import InvalidInput, NotFound
from runicornfs.store.fields import VERSION_LIMIT
from runicornfs.store.paths import shown


@dataclass(frozen=True)
class ArtifactName:
    """`kind` is the type, None where it was not said; `version` is `v3`, `3`, an alias, or None."""

    kind: str | None
    name: str
    version: str | None

    @classmethod
    def parse(cls, text: str, kind: str | None = None) -> ArtifactName:
        """`kind` counts where `text` names none. Raises InvalidInput."""
        before, slash, rest = text.partition("/")
        if slash:
            kind, text = before, rest
        name, colon, version = text.rpartition(":")
        if not colon:
            name = text
        if not name or "/" in text or kind == "" or (colon and not version):
            raise InvalidInput(f"{text!r} is no artifact's name: write NAME, NAME:VERSION or TYPE/NAME:VERSION")
        return cls(kind, name, version if colon else None)

    @property
    def path(self) -> str:
        """Of the artifact in the API."""
        return f"/api/artifacts/{as_part(self.name)}"

    def number(self, client: ApiClient) -> int:
        """Which version is meant now. Raises InvalidInput where none was named, NotFound."""
        if self.version is None:
            name = f"{self.kind}/{self.name}" if self.kind else self.name
            raise InvalidInput(f"{name} is an artifact: say which version, as {name}:VERSION")
        digits = self.version.removeprefix("v")
        if digits.isascii() and digits.isdecimal() and len(digits) <= len(str(VERSION_LIMIT)):
            return int(digits)
        for entry in client.get(f"{self.path}/versions", list[answers.Version], type=self.kind):
            if self.version in entry["aliases"]:
                return entry["version"]
        raise NotFound(f"there is no version or alias {shown(self.version)}: `runicornfs ls {self.name}` lists them")


def as_part(text: str) -> str:
    """Of a path in the API, whatever a shell has handed over."""
    return quote(text, safe="", errors="surrogateescape")

"""A plain model of a Runicorn store: what is done to it is done to the server's folder too, and it knows what to show.

It knows the rules of the format and nothing of scans, catalogs or caches, so that it can be compared with a mount.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runicornfs.demo.samplestore import StoreWriter
from tests.stores import replace_record

UNUSABLE = ("pending", "uploading", "failed", "deleted")


@dataclass(frozen=True)
class Folder:
    """What is shown as a folder."""


@dataclass(frozen=True)
class Link:
    target: str


@dataclass(frozen=True)
class File:
    content: bytes
    mtime: float  # seconds since 1970, as Python tells it


Shown = dict[str, Folder | Link | File]


@dataclass
class Version:
    files: Mapping[str, bytes]
    status: str = "ready"
    is_deleted: bool = False
    is_indexed: bool = True
    is_broken: bool = False
    is_gone: bool = False  # its entry in the index is all there is


@dataclass
class Artifact:
    versions: dict[int, Version] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)  # other files in its folder


@dataclass
class Run:
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"media"})
    is_deleted: bool = False


class StoreModel:
    """A store that is empty at first, at `root`. A method whose name is a verb changes both sides."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.writer = StoreWriter(root)
        self.writer.pool.mkdir(parents=True)
        (root / "runicorn.db").write_bytes(b"the server's own")
        self.artifacts: dict[tuple[str, str], Artifact] = {}
        self.runs: dict[str, Run] = {}  # by the path of its folder

    # Changes

    def save(
        self,
        key: tuple[str, str],
        files: Mapping[str, bytes],
        refused: Sequence[object] = (),
        references: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """A new version; `refused` are entries of its manifest that nobody may believe. Does nothing where the SDK
        fails, since its next number is taken."""
        artifact = self.artifacts.setdefault(key, Artifact())
        number = sum(version.is_indexed for version in artifact.versions.values()) + 1
        if number in artifact.versions:
            return
        assert self.writer.add_version(*key, files, references=references) == number
        if refused:
            manifest = self._record(key, number, "manifest.json")
            manifest["files"] += refused
            replace_record(self.writer, *key, number, "manifest.json", manifest)
        artifact.versions[number] = Version(files)
        artifact.aliases["latest"] = number
        artifact.beside.add(".lock")

    def set_status(self, key: tuple[str, str], number: int, status: str) -> None:
        """What the index says of a version."""
        index = self.writer.index(*key)
        for entry in index["versions"]:
            if entry["version"] == number:
                entry["status"] = status
                self.artifacts[key].versions[number].status = status
        replace_record(self.writer, *key, None, "versions.json", index)

    def leave_out_of_index(self, key: tuple[str, str], number: int) -> None:
        """As if the version were still being saved; aliases that point to it stay."""
        index = self.writer.index(*key)
        index["versions"] = [entry for entry in index["versions"] if entry["version"] != number]
        replace_record(self.writer, *key, None, "versions.json", index)
        self.artifacts[key].versions[number].is_indexed = False

    def delete_softly(self, key: tuple[str, str], number: int) -> None:
        self.writer.soft_delete(*key, number)
        self.artifacts[key].versions[number].is_deleted = True

    def restore(self, key: tuple[str, str], number: int) -> None:
        self.writer.restore(*key, number)
        self.artifacts[key].versions[number].is_deleted = False

    def delete_permanently(self, key: tuple[str, str], number: int) -> None:
        """As the SDK does it: the number may come back with other bytes."""
        self.writer.delete_permanently(*key, number)
        artifact = self.artifacts[key]
        del artifact.versions[number]
        artifact.aliases = dict(self.writer.index(*key)["aliases"])

    def spoil(self, key: tuple[str, str], number: int, document: str) -> None:
        """The document is no JSON any more."""
        replace_record(self.writer, *key, number, document, b'{"files": [')
        self.artifacts[key].versions[number].is_broken = True

    def set_alias(self, key: tuple[str, str], alias: str, number: int | None) -> None:
        self.writer.set_alias(*key, alias, number)
        self.artifacts[key].aliases.pop(alias, None)
        if number is not None:
            self.artifacts[key].aliases[alias] = number

    def put_beside(self, key: tuple[str, str], name: str, content: bytes) -> None:
        """A file in an artifact's folder that Runicorn knows nothing of."""
        (self.writer.folder(*key) / name).write_bytes(content)
        self.artifacts[key].beside.add(name)

    def begin_run(self, folder: str, files: Mapping[str, bytes]) -> None:
        run = self.runs.setdefault(folder, Run())
        (self.root / folder / "media").mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            if any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in run.files):
                continue
            if path in run.folders:
                continue
            place = self.root / folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            run.files[path] = content
            run.folders |= set(_parents(path))

    def append(self, folder: str, path: str, content: bytes) -> None:
        run = self.runs[folder]
        with open(self.root / folder / path, "ab") as file:
            file.write(content)
        run.files[path] += content

    def delete_run(self, folder: str) -> None:
        """Moves it to the recycle bin."""
        (self.root / folder / ".deleted").write_text('{"reason": "user_deleted"}')
        self.runs[folder].is_deleted = True

    def remove_run(self, folder: str) -> None:
        shutil.rmtree(self.root / folder)
        del self.runs[folder]

    # What somebody else did to the server

    def was_deleted(self, key: tuple[str, str], number: int, *, permanent: bool) -> None:
        """As runicornfs does it: a version that is deleted for good keeps its entry in the index."""
        artifact = self.artifacts[key]
        if permanent:
            artifact.versions[number].status = "deleted"
            artifact.versions[number].is_gone = True
            artifact.aliases = dict(self.writer.index(*key)["aliases"])
            assert number not in artifact.aliases.values()
            assert not self.writer.version_folder(*key, number).exists()
        else:
            artifact.versions[number].is_deleted = True

    def was_restored(self, key: tuple[str, str], number: int) -> None:
        self.artifacts[key].versions[number].is_deleted = False

    def was_aliased(self, key: tuple[str, str], number: int, alias: str) -> None:
        self.artifacts[key].aliases[alias] = number

    # What is to be seen

    def shown(self) -> Shown:
        """Every path that the mount has to show, the root aside; no other may be there."""
        shown: Shown = {"artifacts": Folder(), "artifacts/.dedup": Folder()}
        for key, artifact in self.artifacts.items():
            shown |= self._shown_of_artifact(f"artifacts/{key[0]}/{key[1]}", artifact)
        for folder, run in self.runs.items():
            if not run.is_deleted:
                shown |= {f"{folder}/{path}": Folder() for path in run.folders} | {folder: Folder()}
                shown |= {f"{folder}/{path}": self._servers(f"{folder}/{path}") for path in run.files}
        return {parent: Folder() for path in shown for parent in _parents(path)} | shown

    def _shown_of_artifact(self, folder: str, artifact: Artifact) -> Shown:
        shown: Shown = {f"{folder}/{name}": self._servers(f"{folder}/{name}") for name in artifact.beside}
        if not artifact.versions and not (self.root / folder / "versions.json").exists():
            return {}
        shown[f"{folder}/versions.json"] = self._servers(f"{folder}/versions.json")
        visible = set()
        for number, version in artifact.versions.items():
            if version.is_deleted or version.is_broken or not version.is_indexed or version.status in UNUSABLE:
                continue
            visible.add(number)
            place = f"{folder}/v{number}"
            shown[f"{place}/files"] = Folder()
            for name in ("metadata.json", "manifest.json"):
                shown[f"{place}/{name}"] = self._servers(f"{place}/{name}")
            manifest = json.loads((self.root / place / "manifest.json").read_bytes())
            times = {entry["path"]: entry["modified_at"] for entry in manifest["files"][: len(version.files)]}
            for path, content in version.files.items():
                shown[f"{place}/files/{path}"] = File(content, times[path])
        for alias, number in artifact.aliases.items():
            taken = f"{folder}/{alias}" in shown or re.fullmatch(r"v[1-9][0-9]*", alias)
            if number in visible and not taken:
                shown[f"{folder}/{alias}"] = Link(f"v{number}")
        return shown

    def _servers(self, path: str) -> File:
        """A file that is shown as it lies on the server."""
        return File((self.root / path).read_bytes(), (self.root / path).stat().st_mtime)

    def _record(self, key: tuple[str, str], number: int, name: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.writer.version_folder(*key, number) / name).read_bytes())
        return record


def shown_in(mountpoint: Path) -> Shown:
    """What a mount shows: by `os.walk`, `stat`, `read` and `readlink`, which have to agree with each other."""
    shown: Shown = {}
    for here, folders, files in os.walk(mountpoint):
        for name in (*folders, *files):
            path = os.path.join(here, name)
            shown[os.path.relpath(path, mountpoint)] = _shown_at(path)
        _check_times(here, [*folders, *files])
    return shown


def _shown_at(path: str) -> Folder | Link | File:
    status = os.lstat(path)
    if os.path.islink(path):
        target = os.readlink(path)
        assert status.st_size == len(target)
        return Link(target)
    if os.path.isdir(path):
        assert status.st_mode & 0o777 == 0o555
        return Folder()
    with open(path, "rb") as file:
        content = file.read()
    assert status.st_size == len(content)
    assert status.st_mode & 0o777 == 0o444
    return File(content, status.st_mtime)


def _check_times(folder: str, names: Sequence[str]) -> None:
    """A folder is as new as its newest child."""
    times = [os.lstat(os.path.join(folder, name)).st_mtime_ns for name in names if name != ".dedup"]
    if times:
        assert os.lstat(folder).st_mtime_ns == max(times), folder


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path

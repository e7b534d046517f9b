"""The store's JSON documents as typed records.

Missing and unknown fields are tolerated; `MalformedRecord` is raised where the whole is not what it should be, and a
broken entry of a list costs itself and a line in `problems`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from runicornfs.errors import MalformedRecord, UnsafePath
from runicornfs.store.fields import (
    Problems,
    check_depth,
    count_of,
    described,
    list_in,
    number_of,
    optional,
    parse_entries,
    parse_object,
    required,
    text_of,
    time_of,
    version_of,
)
from runicornfs.store.layout import INDEX_NAME, LOCK_NAME
from runicornfs.store.paths import check_name, check_relative, parent_of, shown, version_of_folder

# A manifest of 100,000 files has 20 MB; one beyond this is no manifest, and parsing it would take gigabytes.
MANIFEST_LIMIT = 256 * 1024 * 1024
# Folders that one manifest can bring into being: a megabyte of deep paths could otherwise ask for millions.
FOLDER_LIMIT = 1_000_000
# Characters of all their paths together: those of 2,000 folders in each other alone are four million.
FOLDER_TEXT_LIMIT = 64_000_000
# How deep what a user wrote may be nested: whoever writes it as JSON again does so recursively.
DEPTH_LIMIT = 100
_DIGEST_PREFIX = "sha256:"
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version as versions.json lists it; None for what it does not say."""

    version: int
    created_at: float | None
    created_by_run: str | None
    size_bytes: int | None
    num_files: int | None
    status: str | None


@dataclass(frozen=True, slots=True)
class VersionIndex:
    """versions.json. `aliases` are as they stand there: see `visible_aliases`."""

    artifact_name: str | None
    artifact_type: str | None
    versions: list[IndexEntry]
    aliases: dict[str, int]
    created_at: float | None
    updated_at: float | None
    problems: list[str]


@dataclass(frozen=True, slots=True)
class VersionMetadata:
    """metadata.json; its list of aliases is not here, since it never was the truth."""

    name: str | None
    type: str | None
    version: int | None
    created_at: float | None
    updated_at: float | None
    created_by_run: str | None
    created_by_user: str | None
    size_bytes: int | None
    num_files: int | None
    num_references: int | None
    status: str | None
    metadata: dict[str, Any]
    description: str | None
    tags: list[str]
    parent_artifacts: list[Any]
    manifest_digest: str | None


class ManifestFile(NamedTuple):
    """One file of a version: `path` relative to `files/`, `size` in bytes, `modified_at` in seconds since 1970."""

    path: str
    size: int
    digest: bytes | None
    modified_at: float | None


@dataclass(frozen=True, slots=True)
class Reference:
    """Data that lies elsewhere; `size` in bytes where it is known."""

    uri: str
    checksum: str | None
    size: int | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json: every path is safe, no path is twice in `files`, none is both a file and a folder."""

    files: list[ManifestFile]
    references: list[Reference]
    total_size: int
    total_files: int
    total_references: int
    problems: list[str]


@dataclass(frozen=True, slots=True)
class RunMeta:
    """meta.json of a run."""

    id: str | None
    project: str | None
    name: str | None
    created_at: float | None
    python: str | None
    platform: str | None
    hostname: str | None
    pid: int | None
    storage_dir: str | None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """status.json of a run: `running`, `finished`, `failed`; times in seconds since 1970."""

    status: str | None
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """summary.json of a run: any object, in which the SDK keeps the best value of the metric that it was told."""

    best_metric_name: str | None
    best_metric_value: float | None


@dataclass(frozen=True, slots=True)
class ArtifactUse:
    """A version that a run created or used; `at` is when."""

    name: str
    type: str
    version: int
    at: float | None
    size_bytes: int | None
    num_files: int | None
    num_references: int | None


@dataclass(frozen=True, slots=True)
class ArtifactUses:
    """artifacts_created.json or artifacts_used.json."""

    uses: list[ArtifactUse]
    problems: list[str]


def parse_version_index(data: bytes) -> VersionIndex:
    """versions.json; of two entries with one number the last counts. Raises MalformedRecord."""
    record = parse_object(data)
    problems = Problems()
    entries = {e.version: e for e in parse_entries(list_in(record, "versions"), "versions", _index_entry, problems)}
    aliases = record.get("aliases", {})
    if not isinstance(aliases, dict):
        problems.add("its aliases are not an object")
        aliases = {}
    targets: dict[str, int] = {}
    for name, target in aliases.items():
        version = version_of(target)
        if version is None:
            problems.add(f"alias {shown(name)} is left out: it points to {described(target)}")
        else:
            targets[name] = version
    return VersionIndex(
        artifact_name=text_of(record.get("artifact_name")),
        artifact_type=text_of(record.get("artifact_type")),
        versions=list(entries.values()),
        aliases=targets,
        created_at=time_of(record.get("created_at")),
        updated_at=time_of(record.get("updated_at")),
        problems=problems.lines(),
    )


def visible_aliases(index: VersionIndex, shown_versions: Collection[int]) -> tuple[dict[str, int], list[str]]:
    """The aliases that can stand as links beside the versions, and a problem for each that cannot.

    One whose version is not shown is left out without a word.
    """
    visible: dict[str, int] = {}
    problems = Problems()
    for name, version in index.aliases.items():
        if version not in shown_versions:
            continue
        try:
            link = check_name(name)
        except UnsafePath as error:
            problems.add(f"an alias of v{version} is left out: {error}")
            continue
        if link in (INDEX_NAME, LOCK_NAME) or version_of_folder(link) is not None:
            problems.add(f"alias {shown(name)} of v{version} is left out: the name means something else")
        else:
            visible[link] = version
    return visible, problems.lines()


def parse_version_metadata(data: bytes) -> VersionMetadata:
    """metadata.json. Raises MalformedRecord."""
    record = parse_object(data)
    metadata = record.get("metadata")
    tags = record.get("tags")
    parents = record.get("parent_artifacts")
    return VersionMetadata(
        name=text_of(record.get("name")),
        type=text_of(record.get("type")),
        version=version_of(record.get("version")),
        created_at=time_of(record.get("created_at")),
        updated_at=time_of(record.get("updated_at")),
        created_by_run=text_of(record.get("created_by_run")),
        created_by_user=text_of(record.get("created_by_user")),
        size_bytes=count_of(record.get("size_bytes")),
        num_files=count_of(record.get("num_files")),
        num_references=count_of(record.get("num_references")),
        status=text_of(record.get("status")),
        metadata=metadata if isinstance(metadata, dict) else {},
        description=text_of(record.get("description")),
        tags=[tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        parent_artifacts=parents if isinstance(parents, list) else [],
        manifest_digest=text_of(record.get("manifest_digest")),
    )


def parse_manifest(data: bytes) -> Manifest:
    """manifest.json. Raises MalformedRecord, also for one of more than MANIFEST_LIMIT bytes.

    Of two entries that contradict each other (another size or digest of one path, a file where the other has a folder)
    the first counts.
    """
    if len(data) > MANIFEST_LIMIT:
        raise MalformedRecord(f"its {len(data)} bytes are more than the {MANIFEST_LIMIT} that a manifest may have")
    record = parse_object(data)
    problems = Problems()
    inventory = _Inventory()
    for _ in parse_entries(list_in(record, "files"), "files", inventory.add, problems):
        pass
    references = record.get("references") or []
    if not isinstance(references, list):
        problems.add("its references are not a list")
        references = []
    known = list(parse_entries(references, "references", _reference, problems))
    files = list(inventory.files.values())
    total_size = count_of(record.get("total_size"))
    total_files = count_of(record.get("total_files"))
    total_references = count_of(record.get("total_references"))
    return Manifest(
        files=files,
        references=known,
        total_size=sum(file.size for file in files) if total_size is None else total_size,
        total_files=len(files) if total_files is None else total_files,
        total_references=len(known) if total_references is None else total_references,
        problems=problems.lines(),
    )


def parse_run_meta(data: bytes) -> RunMeta:
    """meta.json. Raises MalformedRecord."""
    record = parse_object(data)
    return RunMeta(
        id=text_of(record.get("id")),
        project=text_of(record.get("project")),
        name=text_of(record.get("name")),
        created_at=time_of(record.get("created_at")),
        python=text_of(record.get("python")),
        platform=text_of(record.get("platform")),
        hostname=text_of(record.get("hostname")),
        pid=count_of(record.get("pid")),
        storage_dir=text_of(record.get("storage_dir")),
    )


def parse_run_status(data: bytes) -> RunStatus:
    """status.json. Raises MalformedRecord."""
    record = parse_object(data)
    return RunStatus(
        status=text_of(record.get("status")),
        started_at=time_of(record.get("started_at")),
        ended_at=time_of(record.get("ended_at")),
    )


def parse_run_summary(data: bytes) -> RunSummary:
    """summary.json. Raises MalformedRecord, also for one that is nested too deep."""
    record = parse_object(data)
    check_depth(record, DEPTH_LIMIT)
    return RunSummary(
        best_metric_name=text_of(record.get("best_metric_name")),
        best_metric_value=number_of(record.get("best_metric_value")),
    )


def parse_artifact_uses(data: bytes) -> ArtifactUses:
    """artifacts_created.json or artifacts_used.json. Raises MalformedRecord."""
    problems = Problems()
    entries = list_in(parse_object(data), "artifacts")
    uses = list(parse_entries(entries, "artifacts", _artifact_use, problems))
    return ArtifactUses(uses, problems.lines())


class _Inventory:
    """The files of one manifest, and the folders that their paths bring into being."""

    def __init__(self) -> None:
        self.files: dict[str, ManifestFile] = {}
        self._folders: set[str] = {""}
        self._folder_text = 0

    def add(self, entry: dict[str, Any]) -> None:
        path = entry.get("path")
        if not isinstance(path, str):
            raise MalformedRecord(f"its path is {described(path)}")
        path = check_relative(path)
        size = count_of(entry.get("size"))
        if size is None:
            raise MalformedRecord(f"the size of {shown(path)} is {described(entry.get('size'))}")
        file = ManifestFile(path, size, _digest(path, entry.get("digest")), time_of(entry.get("modified_at")))
        first = self.files.get(path)
        if first is not None:
            if (first.size, first.digest) != (file.size, file.digest):
                raise MalformedRecord(f"{shown(path)} stands there already with another size or digest")
            return
        if path in self._folders:
            raise MalformedRecord(f"{shown(path)} is a folder in an earlier entry")
        folder = parent_of(path)
        if folder not in self._folders:
            self._make_folders(path, folder)
        self.files[path] = file

    def _make_folders(self, path: str, folder: str) -> None:
        missing = []
        while folder not in self._folders:
            if folder in self.files:
                raise MalformedRecord(f"{shown(path)} lies in {shown(folder)}, which is a file in an earlier entry")
            missing.append(folder)
            folder = parent_of(folder)
        if len(self._folders) + len(missing) > FOLDER_LIMIT:
            raise MalformedRecord(f"{shown(path)} needs more than {FOLDER_LIMIT} folders")
        text = self._folder_text + sum(map(len, missing))
        if text > FOLDER_TEXT_LIMIT:
            raise MalformedRecord(f"{shown(path)} needs folders with more than {FOLDER_TEXT_LIMIT} characters of paths")
        self._folder_text = text
        self._folders.update(missing)


def _digest(path: str, value: object) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str) and value.startswith(_DIGEST_PREFIX) and len(value) == len(_DIGEST_PREFIX) + 64:
        try:
            digest = bytes.fromhex(value[len(_DIGEST_PREFIX) :])
        except ValueError:
            digest = b""
        if len(digest) == _DIGEST_BYTES:  # fromhex() skips white space
            return digest
    raise MalformedRecord(f"the digest of {shown(path)} is {described(value)}")


def _reference(entry: dict[str, Any]) -> Reference:
    metadata = entry.get("metadata")
    return Reference(
        uri=required(entry, "uri", text_of),
        checksum=optional(entry, "checksum", text_of),
        size=optional(entry, "size", count_of),
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _index_entry(entry: dict[str, Any]) -> IndexEntry:
    return IndexEntry(
        version=required(entry, "version", version_of),
        created_at=optional(entry, "created_at", time_of),
        created_by_run=optional(entry, "created_by_run", text_of),
        size_bytes=optional(entry, "size_bytes", count_of),
        num_files=optional(entry, "num_files", count_of),
        status=optional(entry, "status", text_of),
    )


def _artifact_use(entry: dict[str, Any]) -> ArtifactUse:
    return ArtifactUse(
        name=check_name(required(entry, "name", text_of)),
        type=check_name(required(entry, "type", text_of)),
        version=required(entry, "version", version_of),
        at=time_of(entry.get("created_at", entry.get("used_at"))),
        size_bytes=count_of(entry.get("size_bytes")),
        num_files=count_of(entry.get("num_files")),
        num_references=count_of(entry.get("num_references")),
    )

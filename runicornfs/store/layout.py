"""Where things lie in a store: what a path is for, and what it is rebuilt together with.

Total: every path has a place, also one that no Runicorn would write; such a path is PLAIN and belongs to no unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from runicornfs.store.paths import version_of_folder

ARTIFACTS = "artifacts"
SWEEPS = "sweeps"
RUNS = "runs"
# The server's content pool in `artifacts`; the SDK makes it when it starts.
DEDUP = ".dedup"
INDEX_NAME = "versions.json"
LOCK_NAME = ".lock"
METADATA_NAME = "metadata.json"
MANIFEST_NAME = "manifest.json"
DELETED_NAME = ".deleted"
FILES_NAME = "files"


class Role(Enum):
    """What a file of the store is for."""

    ARTIFACT_INDEX = auto()
    VERSION_METADATA = auto()
    VERSION_MANIFEST = auto()
    VERSION_DELETED = auto()
    RUN_META = auto()
    RUN_STATUS = auto()
    RUN_SUMMARY = auto()
    RUN_CREATED = auto()
    RUN_USED = auto()
    RUN_ENVIRONMENT = auto()
    RUN_DELETED = auto()
    PLAIN = auto()


_VERSION_ROLES = {
    METADATA_NAME: Role.VERSION_METADATA,
    MANIFEST_NAME: Role.VERSION_MANIFEST,
    DELETED_NAME: Role.VERSION_DELETED,
}
_RUN_ROLES = {
    "meta.json": Role.RUN_META,
    "status.json": Role.RUN_STATUS,
    "summary.json": Role.RUN_SUMMARY,
    "artifacts_created.json": Role.RUN_CREATED,
    "artifacts_used.json": Role.RUN_USED,
    "environment.json": Role.RUN_ENVIRONMENT,
    DELETED_NAME: Role.RUN_DELETED,
}


@dataclass(frozen=True, slots=True)
class Place:
    """`unit` is the folder that is rebuilt as one: an artifact's own, a version's, a run's, `sweeps`; "" is none.

    `artifact` is the artifact's folder for what lies in one, `version` its number for what lies in a version.
    """

    role: Role
    unit: str
    artifact: str | None
    version: int | None


_NOWHERE = Place(Role.PLAIN, "", None, None)
_IN_SWEEPS = Place(Role.PLAIN, SWEEPS, None, None)


def place_of(path: str) -> Place:
    """The place of a path that `check_relative` has passed (or of "")."""
    parts = path.split("/")
    if parts[0] == ARTIFACTS:
        return _place_in_artifacts(parts)
    if parts[0] == SWEEPS:
        return _IN_SWEEPS
    if parts[0] == RUNS:
        return _place_in_run(parts, 2)
    if len(parts) > 3 and parts[2] == RUNS:
        return _place_in_run(parts, 4)
    return _NOWHERE


def _place_in_artifacts(parts: list[str]) -> Place:
    # Like the SDK: a folder whose name begins with a dot (`.dedup`) is no type.
    if len(parts) < 3 or parts[1].startswith("."):
        return _NOWHERE
    artifact = "/".join(parts[:3])
    version = version_of_folder(parts[3]) if len(parts) > 3 else None
    if version is None:
        role = Role.ARTIFACT_INDEX if parts[3:] == [INDEX_NAME] else Role.PLAIN
        return Place(role, artifact, artifact, None)
    role = _VERSION_ROLES.get(parts[4], Role.PLAIN) if len(parts) == 5 else Role.PLAIN
    return Place(role, f"{artifact}/{parts[3]}", artifact, version)


def _place_in_run(parts: list[str], depth: int) -> Place:
    """`depth` components name the run's folder."""
    if len(parts) < depth:
        return _NOWHERE
    role = _RUN_ROLES.get(parts[depth], Role.PLAIN) if len(parts) == depth + 1 else Role.PLAIN
    return Place(role, "/".join(parts[:depth]), None, None)

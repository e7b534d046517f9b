"""Whether a Runicorn store lies at the root that was named, and which parts of it are there."""

from __future__ import annotations

import os
from dataclasses import dataclass

from runicornfs.errors import AccessDenied, MissingOnServer
from runicornfs.remote.packets import Attributes, Kind, string
from runicornfs.remote.sftp import SftpSession

KNOWN_TYPES = ("model", "dataset", "config", "code", "custom")  # the SDK's; reported also where they are not there
_NO_PROJECTS = frozenset({b"artifacts", b"runs", b"sweeps"})  # folders of a root that are something else
_MOST_PROJECTS = 20  # projects that are looked into for runs: the first one usually has some


@dataclass(frozen=True)
class StructureReport:
    """What was found. `problem` is a sentence if no store can be used there, else None."""

    root_exists: bool
    readable: bool
    artifacts_exists: bool
    types: tuple[str, ...]
    has_experiments: bool
    problem: str | None
    python3: bool | None = None  # whether the server runs our helper; None: not tried on this connection

    def as_dict(self) -> dict[str, bool | None]:
        """The `structure` of the control API."""
        return {
            "root_exists": self.root_exists,
            "readable": self.readable,
            "artifacts_exists": self.artifacts_exists,
            **{f"has_{name}": name in self.types for name in (*KNOWN_TYPES, *self.types)},
            "has_experiments": self.has_experiments,
            "python3": self.python3,
        }


def inspect(session: SftpSession, host: str, root: str) -> StructureReport:
    """Look at `root`. Raises only what concerns the line, never that something is not there."""
    place = os.fsencode(root)

    def no_store(problem: str, root_exists: bool = True) -> StructureReport:
        return StructureReport(root_exists, False, False, (), False, problem)

    try:
        if not session.stat(place).is_directory:
            return no_store(f"{root} on {host} is not a folder")
        found = session.list_folder(place)
    except MissingOnServer:
        return no_store(f"there is no folder {root} on {host}", root_exists=False)
    except AccessDenied:
        return no_store(f"the folder {root} on {host} is not readable for this account")
    folders = _folders(found)
    types: tuple[str, ...] = ()
    problem = None
    if b"artifacts" in folders:
        try:
            types = tuple(
                sorted(os.fsdecode(name) for name in _folders(session.list_folder(_below(place, b"artifacts"))))
            )
        except AccessDenied:
            problem = f"the folder artifacts in {root} on {host} is not readable for this account"
        except MissingOnServer:
            problem = f"the folder artifacts in {root} on {host} went away just now"
    has_experiments = b"runs" in folders or _any_runs(session, place, folders)
    if b"artifacts" not in folders and not has_experiments:
        problem = f"{root} on {host} is no Runicorn store: it has neither a folder artifacts nor any runs"
    return StructureReport(True, True, b"artifacts" in folders, types, has_experiments, problem)


def _folders(entries: list[tuple[bytes, Attributes]]) -> list[bytes]:
    return [name for name, attributes in entries if attributes.is_directory and not name.startswith(b".")]


def _below(place: bytes, name: bytes) -> bytes:
    return place.rstrip(b"/") + b"/" + name


def _any_runs(session: SftpSession, place: bytes, folders: list[bytes]) -> bool:
    """Whether there is a `<project>/<experiment>/runs`."""
    for name in [name for name in folders if name not in _NO_PROJECTS][:_MOST_PROJECTS]:
        project = _below(place, name)
        try:
            experiments = _folders(session.list_folder(project))
        except (AccessDenied, MissingOnServer):
            continue
        questions = [(Kind.STAT, string(_below(_below(project, experiment), b"runs"))) for experiment in experiments]
        if any(answer.kind == Kind.ATTRS for answer in session.ask_all(*questions)):
            return True
    return False

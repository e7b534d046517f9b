"""The store on the server, what is done to it, and what it must therefore hold: the model of a soak.

A plain copy of each content is kept beside it, by sha256 (a hard link): what readers compare with. A version is
*settled* for a mount while a sync has shown it there and nobody has begun to take it away: then no reader may miss it.

Thread-safe. `_lock` protects the records here and is never held while the store is changed; `Artifact.editing` lets one
actor at a time change an artifact, since Runicorn's own deletion takes no lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runicornfs.demo.contents import Content
from runicornfs.demo.samplestore import StoreWriter
from scripts.soaking.ledger import Ledger, Violation

KIB, MIB = 1 << 10, 1 << 20
# A guest hears of a sync from its owner, a moment later than who asked for it.
HEARD_S = 3.0
READY, DELETED, GONE = "ready", "deleted", "gone"
# Files in a store that belong to no version or run.
SHAPE = {".lock", "versions.json"}
# What an edit leaves where the line breaks behind it: the next permanent delete, or the next edit, removes it.
SET_ASIDE = re.compile(r"\.runicornfs-(removed-v[0-9]+-[0-9a-f]{16}|edit\.tmp)")


@dataclass
class Version:
    """`states`: one, or what may have become of it where an answer was lost. Times in monotonic seconds."""

    number: int
    files: dict[str, str]  # path: sha256
    sizes: dict[str, int]
    manifest: str  # sha256 of the document
    made: float
    states: set[str] = field(default_factory=lambda: {READY})
    shown: dict[str, float] = field(default_factory=dict)  # cache: since when for certain
    leaving: float | None = None  # since when somebody takes it away
    moved: float = 0.0  # when it came back last

    @property
    def size(self) -> int:
        return sum(self.sizes.values())


@dataclass
class Artifact:
    type: str
    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    tags: dict[int, set[str]] = field(default_factory=dict)
    uncertain: bool = False
    editing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> str:
        return f"artifacts/{self.type}/{self.name}"

    def in_state(self, state: str) -> list[Version]:
        return [version for version in self.versions.values() if version.states == {state}]


@dataclass(frozen=True)
class Target:
    """What a reader reads: a path of the mount, and the plain files that it may stand for."""

    path: str
    plain: list[str]
    size: int
    growing: bool = False
    version: Version | None = None


class SoakStore:
    """sizes: of the files of the first versions, one artifact for each list."""

    def __init__(self, root: Path, plain: Path, ledger: Ledger) -> None:
        self.root = root
        self.plain = plain
        self.writer = StoreWriter(root)
        self.artifacts: list[Artifact] = []
        self.runs: list[str] = []
        self._ledger = ledger
        self._lock = threading.Lock()
        self._ever: dict[str, list[str]] = {}  # path in the store: every content that it has had
        plain.mkdir(parents=True)

    def fill(self, sizes: list[tuple[str, str, list[int]]], runs: int, rng: random.Random) -> None:
        """The store as the mounts find it."""
        for type_, name, files in sizes:
            artifact = Artifact(type_, name)
            self.artifacts.append(artifact)
            self.save(artifact, files, rng)
        for number in range(runs):
            lines = [f"epoch {epoch}" for epoch in range(20)]
            run = self.writer.add_run("soak", f"train {number % 3}", status="running", log=lines, steps=10)
            self.runs.append(run)

    # Changes. Whoever calls holds `artifact.editing`.

    def save(self, artifact: Artifact, sizes: list[int], rng: random.Random) -> None:
        """A new version with files of these sizes. Does nothing where the SDK fails, too: its number is taken."""
        seed = rng.getrandbits(64)
        contents = {_name(number): _content(seed + number, size) for number, size in enumerate(sizes)}
        try:
            number = self.writer.add_version(artifact.type, artifact.name, contents)
        except FileExistsError:
            self._ledger.count("versions that the SDK cannot save")
            return
        place = self.writer.version_folder(artifact.type, artifact.name, number)
        manifest = (place / "manifest.json").read_bytes()
        entries = json.loads(manifest)["files"]
        files = {entry["path"]: entry["digest"].removeprefix("sha256:") for entry in entries}
        for digest in files.values():
            if not (self.plain / digest).exists():
                (self.plain / digest).hardlink_to(self.writer.pool / digest[:2] / digest)
        version = Version(
            number,
            files,
            {entry["path"]: entry["size"] for entry in entries},
            hashlib.sha256(manifest).hexdigest(),
            time.monotonic(),
        )
        with self._lock:
            artifact.versions[number] = version
            artifact.aliases["latest"] = number
            artifact.tags[number] = set()
            for path, digest in files.items():
                ever = self._ever.setdefault(f"{artifact.path}/v{number}/files/{path}", [])
                if digest not in ever:
                    ever.append(digest)

    def delete_softly(self, artifact: Artifact, version: Version) -> None:
        version.leaving = time.monotonic()
        self.writer.soft_delete(artifact.type, artifact.name, version.number)
        version.states = {DELETED}

    def restore(self, artifact: Artifact, version: Version) -> None:
        self.writer.restore(artifact.type, artifact.name, version.number)
        self.came_back(version)

    def came_back(self, version: Version) -> None:
        with self._lock:
            version.states = {READY}
            version.shown.clear()
            version.moved = time.monotonic()
            version.leaving = None

    def delete_permanently(self, artifact: Artifact, version: Version) -> None:
        """As the SDK does it: its number may come back."""
        version.leaving = time.monotonic()
        self.writer.delete_permanently(artifact.type, artifact.name, version.number)
        version.states = {GONE}
        self.read_aliases(artifact)

    def read_aliases(self, artifact: Artifact) -> None:
        """Where the store says that they point, after a deletion that moves them."""
        aliases = self.writer.index(artifact.type, artifact.name)["aliases"]
        with self._lock:
            artifact.aliases = aliases

    def set_alias(self, artifact: Artifact, alias: str, version: Version) -> None:
        self.writer.set_alias(artifact.type, artifact.name, alias, version.number)
        artifact.aliases[alias] = version.number

    def grow(self, run: str, rng: random.Random) -> None:
        for _ in range(rng.choice([1, 1, 5, 200])):
            self.writer.append_log(run, f"epoch {rng.random()} " + "." * rng.randrange(300))
        self.writer.append_event(run, "metrics", {"loss": rng.random()})

    # What readers may expect

    def target(self, rng: random.Random, most: int) -> Target:
        """A file to read: of a version that may be there or not, or a log."""
        if rng.random() < 0.15:
            run = rng.choice(self.runs)
            there = self.writer.run_folder(run) / rng.choice(["logs.txt", "events.jsonl"])
            return Target(str(there.relative_to(self.root)), [str(there)], 0, growing=True)
        artifact, version = self.any_version(rng)
        path = rng.choice([path for path, size in version.sizes.items() if size <= most] or list(version.files))
        where = f"{artifact.path}/v{version.number}/files/{path}"
        with self._lock:
            plain = [str(self.plain / digest) for digest in self._ever[where]]
        return Target(where, plain, version.sizes[path], version=version)

    def any_version(self, rng: random.Random) -> tuple[Artifact, Version]:
        """Mostly one that is there."""
        while True:
            artifact = rng.choice(self.artifacts)
            with self._lock:
                versions = list(artifact.versions.values())
            there = [version for version in versions if version.states == {READY}]
            if there or (versions and rng.random() < 0.1):
                return artifact, rng.choice(there if there and rng.random() < 0.95 else versions)

    def synced(self, cache: str, began: float) -> None:
        """A sync that began then has ended well."""
        now = time.monotonic() + HEARD_S
        with self._lock:
            for artifact in self.artifacts:
                for version in artifact.in_state(READY):
                    if max(version.made, version.moved) < began and version.leaving is None:
                        version.shown.setdefault(cache, now)

    def settled(self, cache: str, version: Version | None, start: float) -> bool:
        """Whether it has been there for certain since `start`, until now."""
        if version is None:
            return True
        with self._lock:
            shown = version.shown.get(cache)
            return shown is not None and shown <= start and version.leaving is None

    @contextmanager
    def edited(self, artifact: Artifact) -> Iterator[bool]:
        """False where somebody else is at it, or where what has become of it is not known."""
        free = artifact.editing.acquire(blocking=False)
        try:
            yield free and not artifact.uncertain
        finally:
            if free:
                artifact.editing.release()

    # What the server must hold

    def check(self) -> None:
        """Looks at every file of the store, while nobody changes it. Raises Violation."""
        problems = [*self._wrong_artifacts(), *self._wrong_contents(), *self._strangers()]
        if problems:
            raise Violation("the server holds what the actors did, and nothing else", "; ".join(problems[:5]))

    def _wrong_artifacts(self) -> Iterator[str]:
        for artifact in self.artifacts:
            index = self.writer.index(artifact.type, artifact.name)
            listed = {entry["version"]: entry["status"] for entry in index["versions"]}
            for number, version in artifact.versions.items():
                place = self.writer.version_folder(artifact.type, artifact.name, number)
                state = GONE
                if place.is_dir():
                    state = DELETED if (place / ".deleted").exists() else READY
                if state not in version.states:
                    yield f"{artifact.path}/v{number} is {state} and should be {version.states}"
                elif state != GONE:
                    if listed.get(number) != "ready":
                        yield f"the index of {artifact.path} says {listed.get(number)} of v{number}"
                    if hashlib.sha256((place / "manifest.json").read_bytes()).hexdigest() != version.manifest:
                        yield f"the manifest of {artifact.path}/v{number} was changed"
                    tags = set(json.loads((place / "metadata.json").read_bytes())["tags"])
                    if not artifact.uncertain and tags != artifact.tags[number]:
                        yield f"{artifact.path}/v{number} has the tags {tags}, not {artifact.tags[number]}"
                version.states = {state}
            for alias in index["aliases"].keys() | artifact.aliases.keys():
                points = index["aliases"].get(alias)
                if not artifact.uncertain and points != artifact.aliases.get(alias):
                    yield f"{artifact.path}/{alias} is {points}, not {artifact.aliases.get(alias)}"
            if artifact.uncertain:
                self._settle(artifact)

    def _settle(self, artifact: Artifact) -> None:
        """An edit was made, or was not: takes over what is there now."""
        self.read_aliases(artifact)
        for version in artifact.in_state(READY):
            place = self.writer.version_folder(artifact.type, artifact.name, version.number)
            artifact.tags[version.number] = set(json.loads((place / "metadata.json").read_bytes())["tags"])
            self.came_back(version)
        artifact.uncertain = False

    def _wrong_contents(self) -> Iterator[str]:
        for plain in self.plain.iterdir():
            if sha256_of(plain) != plain.name:
                yield f"the content {plain.name} was changed on the server"
        for artifact in self.artifacts:
            for version in artifact.versions.values():
                if version.states == {GONE}:
                    continue
                folder = self.writer.version_folder(artifact.type, artifact.name, version.number) / "files"
                found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
                if found.keys() != version.files.keys():
                    yield f"{artifact.path}/v{version.number} has the files {sorted(found)}"
                for path, digest in version.files.items():
                    if path in found and not found[path].samefile(self.plain / digest):
                        yield f"{artifact.path}/v{version.number}/files/{path} is not the file that was saved"

    def _strangers(self) -> Iterator[str]:
        for artifact in self.artifacts:
            folder = self.writer.folder(artifact.type, artifact.name)
            expected = SHAPE | {f"v{v.number}" for v in artifact.versions.values() if v.states != {GONE}}
            for name in sorted({path.name for path in folder.iterdir()} - expected):
                if not SET_ASIDE.fullmatch(name):
                    yield f"{artifact.path}/{name} is there, and nobody made it"
        for name in sorted({path.name for path in self.root.iterdir()} - {"artifacts", "soak"}):
            yield f"{name} is there, and nobody made it"

    # What a mount must show

    def shown(self) -> dict[str, Callable[[str], bool]]:
        """Every path that a mount shows after a sync, and what has to be true of it."""
        shown: dict[str, Callable[[str], bool]] = {}

        def same_as(there: Path) -> Callable[[str], bool]:
            size = there.stat().st_size
            small = there.read_bytes() if size <= MIB else None
            return lambda here: os.path.getsize(here) == size and (small is None or Path(here).read_bytes() == small)

        for artifact in self.artifacts:
            ready = {version.number: version for version in artifact.in_state(READY)}
            folder = self.root / artifact.path
            for name in SHAPE:
                shown[f"{artifact.path}/{name}"] = same_as(folder / name)
            for number, version in ready.items():
                place = f"{artifact.path}/v{number}"
                for name in ("metadata.json", "manifest.json", *(f"files/{path}" for path in version.files)):
                    shown[f"{place}/{name}"] = same_as(self.root / place / name)
            for alias, number in artifact.aliases.items():
                if number in ready:
                    target = f"v{number}"
                    shown[f"{artifact.path}/{alias}"] = lambda here, target=target: os.readlink(here) == target  # type: ignore[misc]
        for there in (self.root / "soak").rglob("*"):
            if there.is_file():
                shown[str(there.relative_to(self.root))] = same_as(there)
        return shown


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(MIB):
            digest.update(piece)
    return digest.hexdigest()


def _name(number: int) -> str:
    return f"part {number % 7}/{number:03}.bin"


def _content(seed: int, size: int) -> Content:
    return random.Random(seed).randbytes(size)

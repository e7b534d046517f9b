"""Stores that hypothesis makes up and changes, compared file by file through one mount that follows them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.conftest import MountLocal, MountStore
from tests.storemodel import File, Shown, StoreModel, Version, shown_in
from tests.stores import file_names, file_trees
from tests.waiting import wait_until

Key = tuple[str, str]  # type and name of an artifact
Repeated = tuple[bytes, int]

TYPES = st.sampled_from(["model", "dataset", "config", "code", "custom", "Modèle 模型"])
# Few names, so that one name stands under several types, and one in three is odd.
NAMES = st.one_of(st.sampled_from(["net", "net 2"]), file_names())
ALIASES = st.one_of(
    st.sampled_from(["production", "latest", "v1", "notes.txt", ".lock", "versions.json"]), file_names()
)
# A content is a few bytes, so many times: what is printed of an example stays short.
CONTENTS = st.tuples(st.binary(max_size=64) | st.sampled_from([b"", b"shared"]), st.sampled_from([1, 1, 1, 30_000]))
FILES = st.tuples(file_trees(), st.lists(CONTENTS, min_size=8, max_size=8)).map(
    lambda drawn: dict(zip(drawn[0], drawn[1], strict=False))
)
DIGEST = f"sha256:{'0' * 64}"
KEYS = st.tuples(TYPES, NAMES)
REFUSED = st.lists(
    st.sampled_from(
        [
            {"path": path, "size": 1, "digest": DIGEST, "modified_at": None}
            for path in ("../climbs", "/etc/passwd", "a/../../climbs", "", "a//b", "a/", ".", "nul\0", "x" * 256)
        ]
        + [
            {"path": "no size", "digest": DIGEST},
            {"path": "negative", "size": -1, "digest": DIGEST},
            {"path": "no digest at all", "size": 1, "digest": "sha256:"},
            {"size": 1, "digest": DIGEST},
            "not an object",
        ]
    ),
    max_size=3,
)
REFERENCES = st.lists(st.just({"uri": "s3://bucket/key", "size": 10**12}), max_size=1)
RUNS = st.builds(
    "{}/{}/runs/{}".format,
    st.sampled_from(["vision", "sprache été", "-p"]),
    st.sampled_from(["train", "runs", "\n"]),
    st.sampled_from(["20261122_221102_a569f9", "20261122_221102_a569fa"]),
) | st.just("runs/20261122_221102_a569f9")
DOCUMENTS = {"meta.json": b'{"id": "x"}', "status.json": b'{"status": "running"}', "summary.json": b'{"a": NaN}'}
# Many times what the kernel takes to hear of a change.
SETTLING_S = 5.0
# What becomes of a file that was removed on the server before it was read.
GONE = (errno.ENOENT, errno.ESTALE, errno.EIO)
RUN_FILES = st.sampled_from([{}, DOCUMENTS, {os.fsdecode(b"media/\xff\xfe.png"): b"not in UTF-8"}])


class Held:
    """A file of a version that a program has open: it keeps the bytes it was opened with, whatever becomes of its path.
    What nobody has read can go with the server's file: then a read is refused."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.content = content
        self.fd = os.open(path, os.O_RDONLY)
        self.seen = 0  # bytes from the start on that have been read, and so can be read again

    def read(self, size: int) -> None:
        try:
            data = os.pread(self.fd, size, self.seen)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return
        assert data == self.content[self.seen : self.seen + size]
        self.seen += len(data)

    def read_again(self) -> None:
        assert os.fstat(self.fd).st_size == len(self.content)
        assert os.pread(self.fd, self.seen, 0) == self.content[: self.seen]

    def close(self) -> None:
        os.close(self.fd)


def written_out(files: dict[str, Repeated]) -> dict[str, bytes]:
    return {path: content * times for path, (content, times) in files.items()}


class StoreMachine(RuleBasedStateMachine):
    """One life of a store. The mount that it is compared with has seen the lives before it."""

    def __init__(self, root: Path, mountpoint: Path, api: httpx.Client) -> None:
        super().__init__()
        self.mountpoint = mountpoint
        self.api = api
        self.model = StoreModel(root)
        self.synced: Shown = {}  # what was shown after the last sync
        self.held: list[Held] = []

    @initialize(
        versions=st.lists(st.tuples(KEYS, FILES), min_size=4, max_size=8),
        runs=st.lists(st.tuples(RUNS, RUN_FILES, FILES), min_size=1, max_size=3),
    )
    def begin(
        self,
        versions: list[tuple[Key, dict[str, Repeated]]],
        runs: list[tuple[str, dict[str, bytes], dict[str, Repeated]]],
    ) -> None:
        for key, files in versions:
            self.model.save(key, written_out(files))
        for run in runs:
            self.write_run(*run)
        self.sync()

    @rule(key=KEYS, files=FILES, refused=REFUSED, references=REFERENCES)
    def save(
        self, key: Key, files: dict[str, Repeated], refused: list[object], references: list[dict[str, Any]]
    ) -> None:
        contents = written_out(files)
        contradictions = [{"path": path, "size": len(content) + 1} for path, content in list(contents.items())[:1]]
        contradictions += [{"path": f"{path}/below a file", "size": 1} for path in list(files)[:1]]
        self.model.save(key, contents, refused + contradictions if refused else [], references)

    def draw_version(self, data: st.DataObject, wanted: Callable[[Version], bool]) -> tuple[Key, int] | None:
        """One of the versions of this kind, None where there is none."""
        found = [
            (key, number)
            for key, artifact in sorted(self.model.artifacts.items())
            for number, version in sorted(artifact.versions.items())
            if wanted(version) and not version.is_gone
        ]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data())
    def delete_softly(self, data: st.DataObject) -> None:
        if version := self.draw_version(data, lambda version: not version.is_deleted):
            self.model.delete_softly(*version)

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        if version := self.draw_version(data, lambda version: version.is_deleted):
            self.model.restore(*version)

    @rule(data=st.data())
    def delete_permanently(self, data: st.DataObject) -> None:
        if version := self.draw_version(data, lambda version: True):
            self.model.delete_permanently(*version)

    @rule(data=st.data(), status=st.sampled_from(["ready", "pending", "failed", "deleted", "a new word"]))
    def set_status(self, data: st.DataObject, status: str) -> None:
        if version := self.draw_version(data, lambda version: version.is_indexed):
            self.model.set_status(*version, status)

    @rule(data=st.data())
    def leave_out_of_index(self, data: st.DataObject) -> None:
        if version := self.draw_version(data, lambda version: version.is_indexed):
            self.model.leave_out_of_index(*version)

    @rule(data=st.data(), document=st.sampled_from(["metadata.json", "manifest.json"]))
    def spoil(self, data: st.DataObject, document: str) -> None:
        if version := self.draw_version(data, lambda version: not version.is_broken):
            self.model.spoil(*version, document)

    @rule(data=st.data(), alias=ALIASES, number=st.none() | st.integers(1, 4))
    def set_alias(self, data: st.DataObject, alias: str, number: int | None) -> None:
        if version := self.draw_version(data, lambda version: True):
            self.model.set_alias(version[0], alias, version[1] if number == 4 else number)

    @rule(data=st.data(), name=st.sampled_from(["notes.txt", "v1.txt"]), content=CONTENTS)
    def put_beside(self, data: st.DataObject, name: str, content: Repeated) -> None:
        if version := self.draw_version(data, lambda version: True):
            self.model.put_beside(version[0], name, content[0] * content[1])

    @rule(folder=RUNS, known=RUN_FILES, files=FILES)
    def write_run(self, folder: str, known: dict[str, bytes], files: dict[str, Repeated]) -> None:
        self.model.begin_run(folder, known | written_out(files))

    def draw_run(self, data: st.DataObject) -> str | None:
        return data.draw(st.sampled_from(sorted(self.model.runs))) if self.model.runs else None

    @rule(data=st.data())
    def append_to_log(self, data: st.DataObject) -> None:
        if run := self.draw_run(data):
            self.model.begin_run(run, {"logs.txt": self.model.runs[run].files.get("logs.txt", b"")})
            self.model.append(run, "logs.txt", b"another line\n")

    @rule(data=st.data())
    def delete_run(self, data: st.DataObject) -> None:
        if run := self.draw_run(data):
            self.model.delete_run(run)

    @rule(data=st.data())
    def remove_run(self, data: st.DataObject) -> None:
        if run := self.draw_run(data):
            self.model.remove_run(run)

    @rule(data=st.data(), size=st.sampled_from([0, 1, 100_000, 10_000_000]))
    def hold(self, data: st.DataObject, size: int) -> None:
        """Opens a file that was shown after the last sync, and reads the first part of it."""
        shown = sorted(path for path, entry in self.synced.items() if is_content(path, entry))
        if shown and len(self.held) < 5:
            path = data.draw(st.sampled_from(shown))
            entry = self.synced[path]
            assert isinstance(entry, File)
            try:
                held = Held(self.mountpoint / path, entry.content)
            except FileNotFoundError:
                return  # deleted through the API since then
            self.held.append(held)
            held.read(size)

    @rule(size=st.sampled_from([1, 100_000, 10_000_000]))
    def read_on(self, size: int) -> None:
        for held in self.held:
            held.read(size)
            held.read_again()

    @rule()
    def let_go(self) -> None:
        while self.held:
            self.held.pop().close()

    @rule()
    def clear_cache(self) -> None:
        self.api.post("/api/remote/cache/clear").raise_for_status()

    @rule(data=st.data(), permanent=st.booleans())
    def delete_by_api(self, data: st.DataObject, permanent: bool) -> None:
        if version := self.draw_version(data, lambda version: not version.is_deleted):
            (type, name), number = version
            parameters = {"type": type, "permanent": str(permanent).lower()}
            if self.ask("DELETE", f"/api/artifacts/{quote(name, safe='')}/v{number}", parameters):
                self.model.was_deleted(*version, permanent=permanent)

    @rule(data=st.data())
    def restore_by_api(self, data: st.DataObject) -> None:
        if version := self.draw_version(data, lambda version: version.is_deleted):
            (type, name), number = version
            if self.ask("POST", f"/api/artifacts/{quote(name, safe='')}/v{number}/restore", {"type": type}):
                self.model.was_restored(*version)

    @rule(data=st.data(), alias=st.sampled_from(["production", "latest", "best.1"]))
    def set_alias_by_api(self, data: st.DataObject, alias: str) -> None:
        if version := self.draw_version(data, lambda version: not version.is_deleted):
            (type, name), number = version
            path = f"/api/remote/artifacts/{quote(name, safe='')}/v{number}/alias"
            if self.ask("POST", path, {"type": type}, {"alias": alias}):
                self.model.was_aliased(*version, alias)

    def ask(self, method: str, path: str, parameters: dict[str, str], body: object = None) -> bool:
        """Whether it was done; what the catalog does not know yet, or cannot be done, is refused."""
        answer = self.api.request(method, path, params=parameters, json=body)
        assert answer.is_success or answer.status_code in (404, 409, 502), answer.text
        return answer.is_success

    @rule(name=file_names())
    def write_what_is_not_of_a_store(self, name: str) -> None:
        folder = self.model.root / "no project"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be shown")

    @rule()
    def sync(self) -> None:
        begun = time.time()
        self.api.post("/api/remote/sync").raise_for_status()
        wait_until(lambda: self.is_synced_since(begun), "the sync")
        expected = self.model.shown()
        # The kernel is told of a change right after the sync has ended, on a thread of its own.
        if not self.is_shown(expected):
            with suppress(AssertionError):
                wait_until(lambda: self.is_shown(expected), "the kernel to hear of it", SETTLING_S)
            seen = shown_in(self.mountpoint)
            assert seen == expected
        self.synced = expected

    def is_shown(self, expected: Shown) -> bool:
        try:
            return shown_in(self.mountpoint) == expected
        except (AssertionError, FileNotFoundError):  # what was looked at twice changed in between
            return False

    def is_synced_since(self, begun: float) -> bool:
        """One that was under way before, as after the cache was emptied, may have missed what was changed since."""
        progress = self.progress()
        if progress["status"] == "running":
            return False
        assert progress["status"] == "completed"
        if progress["started_at"] < begun:
            self.api.post("/api/remote/sync").raise_for_status()
            return False
        return True

    def progress(self) -> dict[str, Any]:
        progress: dict[str, Any] = self.api.get("/api/remote/status").json()["sync_progress"]
        return progress

    def teardown(self) -> None:
        self.let_go()
        self.sync()


def is_content(path: str, entry: object) -> bool:
    """Whether it is a file of a version that has bytes."""
    parts = path.split("/")
    return (
        isinstance(entry, File) and len(parts) > 5 and parts[3] == "v1" and parts[4] == "files" and entry.content != b""
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["remote", "local"])
def test_whatever_a_store_holds_the_mount_shows_it_and_nothing_else(
    tmp_path: Path, mount_store: MountStore, mount_local: MountLocal, way: str
) -> None:
    root = tmp_path / "server/runicorn"
    (root / "artifacts").mkdir(parents=True)
    mounted = mount_store(root) if way == "remote" else mount_local(root)
    mounted.expect_log("WARNING runicornfs.sync: ")  # most stores have something in them that is left out
    # A step costs some milliseconds here: looking for the smallest store that fails would take minutes.
    phases = [phase for phase in Phase if phase is not Phase.shrink]
    with httpx.Client(base_url=mounted.api, trust_env=False) as api:
        run_state_machine_as_test(
            lambda: StoreMachine(root, mounted.mountpoint, api),  # type: ignore[arg-type]  # a factory will do
            settings=settings(max_examples=15, stateful_step_count=25, phases=phases),
        )

"""Edits of a store on a disk: the lock, what is replaced and how, and what a crash leaves."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.manage import edit_program
from runicornfs.remote import helper, helper_program, walk
from runicornfs.store import edits
from runicornfs.store.edits import EditRefused

NET = b"artifacts/model/net"


@pytest.fixture
def store(store_writer: StoreWriter) -> StoreWriter:
    for number in range(3):
        store_writer.add_version("model", "net", {"w.bin": b"%d" % number, "more/x": b"x"}, tags=["old"])
    return store_writer


@pytest.fixture
def net(store: StoreWriter) -> Path:
    return store.folder("model", "net")


def edit(store: StoreWriter, action: str, version: int = 3, **more: Any) -> list[str]:
    return edit_program.edit(os.fsencode(store.root), NET, {"action": action, "version": version, **more})


def sweep(store: StoreWriter) -> None:
    for _ in edit_program.sweep(os.fsencode(store.root), NET):
        pass


def refusal(store: StoreWriter, action: str, version: int = 3, **more: Any) -> str:
    with pytest.raises(EditRefused) as refused:
        edit(store, action, version, **more)
    return refused.value.code


def test_a_soft_delete_and_a_restore_touch_the_marker_alone(store: StoreWriter, net: Path) -> None:
    before = {path: path.read_bytes() for path in net.rglob("*") if path.is_file()}
    edit(store, edits.DELETE)
    marker = json.loads((net / "v3/.deleted").read_text())
    assert (marker["version"], marker["artifact_name"], marker["deleted_by"]) == (3, "net", "user")
    assert stat.S_IMODE((net / "v3/.deleted").stat().st_mode) == 0o644, "as the SDK, others can read it"
    edit(store, edits.RESTORE)
    assert {path: path.read_bytes() for path in net.rglob("*") if path.is_file()} == before


def test_a_permanent_delete_removes_the_folder_and_not_the_pool(store: StoreWriter, net: Path) -> None:
    pooled = sorted(store.pool.rglob("*"))
    edit(store, edits.DELETE_FOR_GOOD)
    assert not (net / "v3").exists()
    sweep(store)
    assert sorted(path.name for path in net.iterdir()) == [".lock", "v1", "v2", "versions.json"]
    assert sorted(store.pool.rglob("*")) == pooled
    assert store.index("model", "net")["aliases"] == {"latest": 2}
    assert store.add_version("model", "net", {"w.bin": b"new"}) == 4, "no number is used twice"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_what_is_replaced_keeps_its_mode_and_owner(store: StoreWriter, net: Path, mode: int) -> None:
    (net / "versions.json").chmod(mode)
    if os.geteuid() == 0:
        os.chown(net / "versions.json", 1234, 2345)
    before = (net / "versions.json").stat()
    assert edit(store, edits.SET_ALIAS, alias="best") == []
    after = (net / "versions.json").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino, "it was replaced, never written to"


SCRIPT = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from runicornfs.manage import edit_program
os.setgroups([]), os.setgid(4567), os.setuid(4567)
edit = {"action": "set_alias", "version": 1, "alias": "best"}
print(json.dumps(edit_program.edit(os.fsencode(sys.argv[2]), b"artifacts/model/net", edit)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")
def test_a_file_that_cannot_be_given_back_is_never_open_to_more_accounts() -> None:
    """An account that may write to the folder edits another one's index: it cannot give it away."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        store = StoreWriter(Path(folder) / "store")
        store.add_version("model", "net", {"w.bin": b"1"})
        net = store.folder("model", "net")
        net.chmod(0o777)
        os.chown(net / "versions.json", 1234, 2345)
        (net / "versions.json").chmod(0o664)
        here = str(Path(__file__).parents[2])
        command = [sys.executable, "-c", SCRIPT, here, str(store.root)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
        after = (net / "versions.json").stat()
        assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (4567, 4567, 0o604)
        assert len(json.loads(done.stdout)) == 2, "it says so"


def test_a_lock_that_is_held_for_too_long_is_a_conflict(
    store: StoreWriter, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit_program, "LOCK_WAIT_S", 0.05)
    before = (net / "versions.json").read_bytes()
    with open(net / ".lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert refusal(store, edits.SET_ALIAS, alias="best") == "conflict"
    assert (net / "versions.json").read_bytes() == before
    edit(store, edits.SET_ALIAS, alias="best")


def test_a_lock_that_was_unlinked_is_no_lock(store: StoreWriter, net: Path) -> None:
    """The SDK unlinks the file when it fails; who waits for the old one must take the new one."""
    folder = edit_program.ArtifactFolder(os.fsencode(store.root), NET)
    with folder.locked() as lock:
        assert folder.holds(lock)
        (net / ".lock").unlink()
        assert not folder.holds(lock)
        (net / ".lock").touch()
        assert not folder.holds(lock)
    folder.close()


def test_the_lock_is_free_and_there_after_an_edit(store: StoreWriter, net: Path) -> None:
    (net / ".lock").unlink()
    edit(store, edits.SET_ALIAS, alias="best")
    with open(net / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_change_by_somebody_who_takes_no_lock_is_not_overwritten(
    store: StoreWriter, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own delete takes none. It comes between our look and our rename, once."""
    original = edits.plan
    changed: list[bool] = []

    def interrupted(*arguments: Any) -> edits.Plan:
        wanted = original(*arguments)
        if not changed:
            changed.append(True)
            store.delete_permanently("model", "net", 2)
        return wanted

    monkeypatch.setattr("runicornfs.manage.edit_program.plan", interrupted)
    edit(store, edits.SET_ALIAS, alias="best")
    index = store.index("model", "net")
    assert [entry["version"] for entry in index["versions"]] == [1, 3]
    assert index["aliases"]["best"] == 3


def test_a_store_that_changes_all_the_time_is_a_conflict(
    store: StoreWriter, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = edits.plan

    def interrupted(*arguments: Any) -> edits.Plan:
        wanted = original(*arguments)
        store._save_index(net, store.index("model", "net"))
        return wanted

    monkeypatch.setattr("runicornfs.manage.edit_program.plan", interrupted)
    assert refusal(store, edits.SET_ALIAS, alias="best") == "conflict"
    assert not list(net.glob(".runicornfs-*")), "nothing is left of the tries"


def test_what_a_crash_left_is_cleaned_up(store: StoreWriter, net: Path) -> None:
    (net / edit_program.TEMPORARY).write_text("half")
    aside = net / ".runicornfs-removed-v9-0123456789abcdef"
    (aside / "files").mkdir(parents=True)
    (aside / "files" / "link").symlink_to(net / "v1")
    (net / ".runicornfs-removed-by-hand").mkdir()
    edit(store, edits.SET_ALIAS, alias="best")
    sweep(store)
    assert [path.name for path in net.glob(".runicornfs-*")] == [".runicornfs-removed-by-hand"]
    assert (net / "v1" / "files" / "w.bin").read_bytes() == b"0", "links are not followed"


def test_an_interrupted_permanent_delete_can_be_asked_for_again(store: StoreWriter, net: Path) -> None:
    index = store.index("model", "net")
    index["versions"][2]["status"] = "deleted"
    store._save_index(net, index)
    edit(store, edits.DELETE_FOR_GOOD)
    assert not (net / "v3").exists()
    assert refusal(store, edits.DELETE_FOR_GOOD) == "not_found"


@pytest.mark.parametrize("link", ["artifacts/model", "artifacts/model/net", "artifacts/model/net/v3"])
def test_no_link_below_the_root_is_followed(store: StoreWriter, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    (store.root / link).rename(outside)
    (store.root / link).symlink_to(outside)
    before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
    for action in (edits.DELETE, edits.DELETE_FOR_GOOD, edits.ADD_TAGS):
        if not (link.endswith("v3") and action == edits.DELETE_FOR_GOOD):
            refusal(store, action, tags=["x"])
    assert {path: path.stat().st_mtime_ns for path in outside.rglob("*")} == before


@pytest.mark.parametrize("name", ["versions.json", "v3/metadata.json"])
def test_a_record_that_is_a_link_is_not_read_through(store: StoreWriter, net: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    (net / name).rename(secret)
    (net / name).symlink_to(secret)
    before = secret.read_bytes()
    for action in (edits.SET_ALIAS, edits.ADD_TAGS):
        if name == "versions.json" or action == edits.ADD_TAGS:
            refusal(store, action, alias="best", tags=["x"])
    assert secret.read_bytes() == before


def test_an_artifact_that_is_not_there_is_not_found(store: StoreWriter) -> None:
    with pytest.raises(EditRefused) as refused:
        edit_program.edit(os.fsencode(store.root), b"artifacts/model/other", {"action": edits.DELETE, "version": 1})
    assert refused.value.code == "not_found"


def test_a_look_at_an_artifact_tells_what_a_whole_scan_would(store: StoreWriter) -> None:
    root = os.fsencode(store.root)
    store.add_version("model", "other", {"w.bin": b"1"})
    whole = [event for event in helper_program.scan(root, {}) if event[0] == walk.DOCUMENT and event[1].startswith(NET)]
    own = [event for event in edit_program.look(root, NET, {}) if event[0] == walk.DOCUMENT]
    assert sorted(own) == sorted(whole)
    known = {event[1]: event[2] for event in own}
    store.delete_permanently("model", "net", 3)
    gone = [event[1] for event in edit_program.look(root, NET, known) if event[0] == walk.GONE]
    assert gone == [NET + b"/v3/manifest.json", NET + b"/v3/metadata.json"]


def old_pythons() -> list[str]:
    """Interpreters of the oldest version that a server may have, where this machine has one."""
    found = Path.home().glob(".pyenv/versions/3.8*/bin/python3")
    return [str(path) for path in found] or [sys.executable]


@pytest.mark.parametrize("python", [sys.executable, *old_pythons()])
def test_the_program_runs_on_its_own_and_on_an_old_python(store: StoreWriter, net: Path, python: str) -> None:
    text = helper.program(walk, helper_program, edits, edit_program)
    packed = helper.pack(())
    request = {
        "root": os.fsencode(store.root).hex(),
        "artifact": NET.hex(),
        "edit": {"action": edits.SET_ALIAS, "version": 1, "alias": "best"},
        "marker": "here\n",
        "known_bytes": len(packed),
    }
    done = subprocess.run(
        ["sh", "-c", helper.COMMAND.replace("python3", python)],
        input=b"%d\n" % len(text) + text + json.dumps(request).encode() + b"\n" + packed,
        capture_output=True,
        check=True,
        cwd="/",
        timeout=30,
    )
    assert done.stdout.startswith(b"here\n")
    assert done.stderr == b""
    assert store.index("model", "net")["aliases"]["best"] == 1

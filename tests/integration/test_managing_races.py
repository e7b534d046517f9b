"""Clients and SDKs that change one artifact at the same time, in processes that really race, lose nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.manage.editors import Edit
from runicornfs.store import edits
from tests.managing import SFTP_ONLY, managed
from tests.racing import program, run_together
from tests.sdk import sdk_python

SAVES = 12
# Versions that are there before the race: what the edits are about.
BEFORE = 9


@pytest.fixture
def store(store_writer: StoreWriter) -> StoreWriter:
    for number in range(BEFORE):
        store_writer.add_version("model", "net", {"w.bin": b"%d" % number})
    return store_writer


def changes_of(who: str, version: int) -> list[Edit]:
    """What one client does: all of it must be there afterwards. `version`, and the next two, are its own."""
    changes: list[Edit] = []
    for number in range(4):
        changes.append({"action": edits.SET_ALIAS, "version": version, "alias": f"{who}-{number}"})
        changes.append({"action": edits.ADD_TAGS, "version": 1, "tags": [f"{who} {number}"]})
    changes.append({"action": edits.DELETE, "version": version + 1})
    changes.append({"action": edits.DELETE_FOR_GOOD, "version": version + 2})
    changes.append({"action": edits.REMOVE_ALIAS, "version": 0, "alias": f"{who}-3"})
    return changes


def remote(sshd: PrivateSshd, root: Path, changes: list[Edit]) -> list[str]:
    login = (str(sshd.port), sshd.user, str(sshd.identity), str(sshd.known_hosts))
    return program("edit-remotely", root, json.dumps(changes), *login)


def check(store: StoreWriter, clients: dict[str, int], saved: int) -> None:
    index = store.index("model", "net")
    numbers = [entry["version"] for entry in index["versions"]]
    assert numbers == list(range(1, BEFORE + saved + 1)), "every save is there, and no number came twice"
    wanted = {f"{who}-{number}": version for who, version in clients.items() for number in range(3)}
    assert index["aliases"] == wanted | {"latest": BEFORE + saved}
    metadata = json.loads((store.version_folder("model", "net", 1) / "metadata.json").read_text())
    assert sorted(metadata["tags"]) == sorted(f"{who} {number}" for who in clients for number in range(4))
    for version in clients.values():
        assert (store.version_folder("model", "net", version + 1) / ".deleted").exists()
        assert not store.version_folder("model", "net", version + 2).exists()
        assert index["versions"][version + 1]["status"] == "deleted"
    leftovers = store.folder("model", "net").glob(".runicornfs-*")
    assert all(path.name.startswith(".runicornfs-removed-v") for path in leftovers)


@pytest.mark.promise("W2")
def test_two_clients_a_local_one_and_two_sdks_lose_nothing(
    sshd: PrivateSshd, store: StoreWriter, tmp_path: Path
) -> None:
    clients = {"one": 1, "two": 4, "local": 7}
    run_together(
        [
            remote(sshd, store.root, changes_of("one", 1)),
            remote(sshd, store.root, changes_of("two", 4)),
            program("edit-locally", store.root, json.dumps(changes_of("local", 7))),
            program("save", store.root, "a", str(SAVES)),
            program("save", store.root, "b", str(SAVES)),
        ]
    )
    check(store, clients, 2 * SAVES)
    with managed("local", tmp_path / "catalog", store.root) as found:
        gone = {2, 3, 5, 6, 8, 9}
        assert found.versions() == [number for number in range(1, BEFORE + 2 * SAVES + 1) if number not in gone]
        assert found.catalog.problems() == []


def test_two_clients_that_have_only_sftp_lose_nothing(store: StoreWriter) -> None:
    with PrivateSshd(config_lines=SFTP_ONLY) as sshd:
        run_together([remote(sshd, store.root, changes_of("one", 1)), remote(sshd, store.root, changes_of("two", 4))])
    check(store, {"one": 1, "two": 4}, 0)


SDK_SAVES = """
import sys
from pathlib import Path
from runicorn.artifacts.artifact import Artifact
from runicorn.artifacts.storage import ArtifactStorage

root, file, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
storage = ArtifactStorage(root)
for number in range(count):
    file.write_text(str(number))
    storage.save_artifact(Artifact("net", type="model"), "run", [(file, "w.bin")], [])
"""


@pytest.mark.timeout(400)  # installs the SDK, the first time
def test_the_sdk_itself_loses_nothing(sshd: PrivateSshd, store: StoreWriter, tmp_path: Path) -> None:
    command = ["env", f"HOME={tmp_path}", str(sdk_python()), "-c", SDK_SAVES, str(store.root)]
    run_together(
        [
            remote(sshd, store.root, changes_of("one", 1)),
            program("edit-locally", store.root, json.dumps(changes_of("local", 7))),
            [*command, str(tmp_path / "a"), str(SAVES)],
            [*command, str(tmp_path / "b"), str(SAVES)],
        ]
    )
    check(store, {"one": 1, "local": 7}, 2 * SAVES)

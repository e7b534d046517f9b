"""Managing versions as people do: over HTTP and the command line, with the mount beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MountLocal, MountStore
from tests.mounts import Mounted
from tests.terminals import on_terminal
from tests.waiting import wait_until

MODEL = "artifacts/model/resnet50"


def client_of(mounted: Mounted) -> httpx.Client:
    return httpx.Client(base_url=mounted.api, trust_env=False, timeout=30)


@pytest.fixture
def api(mounted: Mounted) -> Iterator[httpx.Client]:
    with client_of(mounted) as client:
        yield client


def listed(mounted: Mounted, artifact: str = MODEL) -> dict[str, str | None]:
    """What the mount shows beside the versions of an artifact: links with what they mean."""
    folder = mounted.mountpoint / artifact
    names = [name for name in os.listdir(folder) if name not in (".lock", "versions.json")]
    return {name: os.readlink(folder / name) if (folder / name).is_symlink() else None for name in sorted(names)}


def check(answer: httpx.Response, message: str, flag: str = "ok") -> None:
    assert answer.status_code == 200, answer.text
    assert (answer.json()[flag], answer.json()["message"]) == (True, message)


@pytest.mark.promise("W4")
def test_a_soft_delete_says_where_and_shows_at_once(api: httpx.Client, mounted: Mounted, sample_store: Path) -> None:
    answer = api.delete("/api/artifacts/resnet50/v1", params={"type": "model"})
    check(answer, "Soft deleted resnet50:v1 on remote server", "success")
    assert [version["version"] for version in api.get("/api/artifacts/resnet50/versions?type=model").json()] == [3, 4]
    assert listed(mounted) == {"v3": None, "v4": None, "latest": "v4", "production": "v3"}
    assert (sample_store / MODEL / "v1/.deleted").exists()
    answer = api.post("/api/artifacts/resnet50/v1/restore", params={"type": "model"})
    check(answer, "Restored resnet50:v1 on remote server", "success")
    assert listed(mounted)["stable"] == "v1"


@pytest.mark.promise("R6")
def test_a_permanent_delete_says_so_and_an_open_file_keeps_its_bytes(
    api: httpx.Client, mounted: Mounted, sample_store: Path
) -> None:
    expected = (sample_store / MODEL / "v4/files/model.pth").read_bytes()
    assert (mounted.mountpoint / MODEL / "v4/files/model.pth").read_bytes() == expected
    with open(mounted.mountpoint / MODEL / "v4/files/model.pth", "rb") as file:
        answer = api.delete("/api/artifacts/resnet50/v4", params={"type": "model", "permanent": "true"})
        check(answer, "Permanently deleted resnet50:v4 on remote server", "success")
        assert file.read() == expected
    assert listed(mounted) == {"v1": None, "v3": None, "latest": "v3", "production": "v3", "stable": "v1"}
    assert not (sample_store / MODEL / "v4").exists()
    again = api.delete("/api/artifacts/resnet50/v4", params={"type": "model", "permanent": "true"})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")


def test_the_guides_curl_sets_an_alias(mounted: Mounted) -> None:
    """As printed there; and once more as `curl -d` alone sends it, with a form's Content-Type."""
    url = f"{mounted.api}/api/remote/artifacts/resnet50/v3/alias"
    for alias, header in (("tested", ["-H", "Content-Type: application/json"]), ("best", [])):
        command = ["curl", "-s", "-X", "POST", url, *header, "-d", f'{{"alias": "{alias}"}}']
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        assert '"ok": true' in done.stdout
        assert listed(mounted)[alias] == "v3"


def test_aliases_and_tags_over_http(api: httpx.Client, mounted: Mounted) -> None:
    alias = api.post("/api/remote/artifacts/resnet50/v3/alias", json={"alias": "stable"})
    check(alias, "Set alias 'stable' to resnet50:v3 on remote server")
    assert listed(mounted)["stable"] == "v3"
    removed = api.delete("/api/remote/artifacts/resnet50/alias/stable", params={"type": "model"})
    check(removed, "Removed alias 'stable' of resnet50 on remote server")
    assert "stable" not in listed(mounted)
    tags = api.post("/api/remote/artifacts/resnet50/v3/tags", json={"tags": ["a/b", "l'été 100 %"]})
    check(tags, "Added 2 tags to resnet50:v3 on remote server")
    assert api.get("/api/artifacts/resnet50/v3").json()["tags"][-2:] == ["a/b", "l'été 100 %"]
    for tag in ("a/b", "l'été 100 %"):
        gone = api.delete(f"/api/remote/artifacts/resnet50/v3/tags/{quote(tag, safe='')}")
        check(gone, f"Removed tag {tag!r} from resnet50:v3 on remote server")
    assert "a/b" not in api.get("/api/artifacts/resnet50/v3").json()["tags"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "resnet50/v3/alias", {"alias": "v7"}, 422, "invalid_input"),
        ("POST", "resnet50/v3/alias", {"alias": "../x"}, 422, "invalid_input"),
        ("POST", "resnet50/v3/alias", {}, 422, "invalid_input"),
        ("POST", "resnet50/v3/alias", {"alias": 3}, 422, "invalid_input"),
        ("POST", "resnet50/v3/tags", {"tags": []}, 422, "invalid_input"),
        ("POST", "resnet50/v3/tags", {"tags": ["a\nb"]}, 422, "invalid_input"),
        ("POST", "resnet50/v2/alias?type=model", {"alias": "x"}, 409, "conflict"),
        ("POST", "resnet50/v77/alias", {"alias": "x"}, 404, "not_found"),
        ("POST", "nothing/v1/alias", {"alias": "x"}, 404, "not_found"),
        ("POST", "resnet50/v1/alias", {"alias": "x"}, 409, "ambiguous_type"),
        ("DELETE", "resnet50/alias/latest?type=model", None, 422, "invalid_input"),
        ("DELETE", "resnet50/alias/nothing?type=model", None, 404, "not_found"),
        ("DELETE", "resnet50/v3/tags/nothing", None, 404, "not_found"),
    ],
)
def test_what_cannot_be_is_refused(
    api: httpx.Client, method: str, path: str, body: dict[str, object] | None, status: int, code: str
) -> None:
    answer = api.request(method, f"/api/remote/artifacts/{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["detail"]


def test_without_a_connection_nothing_is_managed(
    mount_store: MountStore, own_sshd: PrivateSshd, sample_store: Path
) -> None:
    mounted = mount_store(sample_store, sshd=own_sshd)
    with client_of(mounted) as api:
        assert api.post("/api/remote/disconnect").status_code == 200
        answer = api.delete("/api/artifacts/resnet50/v3")
    assert (answer.status_code, "connect first" in answer.json()["detail"]) == (400, True)
    assert not (sample_store / MODEL / "v3/.deleted").exists()


def test_names_are_taken_as_they_are_quoted(store_writer: StoreWriter, mount_store: MountStore) -> None:
    names = ["it's $HOME; `x`", "100 % é\n?#", "-rf", "a:b"]
    for name in names:
        store_writer.add_version("model", name, {"w.bin": b"1"})
    mounted = mount_store(store_writer.root)
    with client_of(mounted) as api:
        for name in names:
            url = f"/api/remote/artifacts/{quote(name, safe='')}/v1/alias"
            assert api.post(url, json={"alias": "best"}).status_code == 200, name
            assert store_writer.index("model", name)["aliases"]["best"] == 1
            assert listed(mounted, f"artifacts/model/{name}")["best"] == "v1"


def test_an_edit_in_a_second_process_is_made_by_the_first(
    mounted: Mounted, mount_store: MountStore, sample_store: Path
) -> None:
    second = mount_store(sample_store, "--cache-dir", str(mounted.cache_dir))
    with client_of(second) as api:
        check(api.post("/api/remote/artifacts/resnet50/v3/alias", json={"alias": "best"}),
              "Set alias 'best' to resnet50:v3 on remote server")  # fmt: skip
        assert api.get("/api/artifacts?type=model").json()[0]["aliases"]["best"] == 3
        assert listed(second)["best"] == "v3"
        wait_until(lambda: listed(mounted).get("best") == "v3", "the first mount to show it")
        refused = api.delete("/api/remote/artifacts/resnet50/alias/latest?type=model")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")


def test_in_local_mode_it_is_done_here(mount_local: MountLocal, sample_store: Path) -> None:
    mounted = mount_local(sample_store)
    with client_of(mounted) as api:
        answer = api.delete("/api/artifacts/resnet50/v3")
        check(answer, "Soft deleted resnet50:v3 locally", "success")
    assert (sample_store / MODEL / "v3/.deleted").exists()
    assert "v3" not in listed(mounted)


def test_the_command_line_manages_versions(mounted: Mounted, sample_store: Path) -> None:
    refused = mounted.run("delete", "resnet50:v3", check=False)
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    assert mounted.run("delete", "resnet50:v3", "--yes").stdout == "Soft deleted resnet50:v3 on remote server\n"
    assert "v3" not in listed(mounted)
    assert mounted.run("restore", "resnet50:v3").stdout == "Restored resnet50:v3 on remote server\n"
    mounted.run("alias", "resnet50:v3", "best")
    assert listed(mounted)["best"] == "v3"
    mounted.run("tag", "model/resnet50:best", "one", "two words")
    mounted.run("tag", "resnet50:best", "one", "--remove", "--type", "model")
    assert '"two words"' in (sample_store / MODEL / "v3/metadata.json").read_text()
    assert '"one"' not in (sample_store / MODEL / "v3/metadata.json").read_text()
    mounted.run("unalias", "model/resnet50", "best")
    assert "best" not in listed(mounted)
    ambiguous = mounted.run("unalias", "resnet50", "best", check=False)
    assert (ambiguous.returncode, "--type" in ambiguous.stderr) == (1, True)
    assert "Permanently" in mounted.run("delete", "resnet50:v4", "--permanent", "--yes").stdout
    assert not (sample_store / MODEL / "v4").exists()


@pytest.mark.parametrize(("way", "where"), [("remote", b"on the server"), ("local", b"locally")])
def test_a_delete_asks_first_and_says_where(
    mount_store: MountStore, mount_local: MountLocal, sample_store: Path, way: str, where: bytes
) -> None:
    mounted = mount_store(sample_store) if way == "remote" else mount_local(sample_store)
    command = [sys.executable, "-m", "runicornfs", "delete", "resnet50:v3"]
    for options, answer, status in (([], b"n\n", 1), (["--permanent"], b"\n", 1), ([], b"y\n", 0)):
        with on_terminal([*command, *options], mounted.environment) as screen:
            asked = screen.read_until(b"?")
            assert where in asked
            assert (b"for good" in asked) == bool(options)
            screen.type(answer)
            assert screen.wait() == status
        assert (sample_store / MODEL / "v3/.deleted").exists() == (status == 0)

"""Files of a version that are something else on the server: nothing leads out of the store, nothing is waited for."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import StaleFile
from runicornfs.remote.server import RemoteFile
from tests.conftest import MountLocal, MountStore
from tests.remotes import Targets, server_at

SECRET = b"what lies outside of the store"
FILES = {f"f{number}": b"small file %d" % number for number in range(8)}
V1 = "artifacts/model/net/v1"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


def refusal(path: Path) -> int:
    """The errno with which this file cannot be read."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno or 0
    pytest.fail(f"{path} can be read")


def put_links_into(writer: StoreWriter, outside: Path) -> None:
    """Versions whose manifests name the secret, with its true digest and without any, behind links of every kind."""
    folder = "s/secret", "t/secret", "secret"
    for name, path in zip(("in-folder", "all-files", "itself"), folder, strict=True):
        writer.add_version("model", name, {path: SECRET})
        files = writer.version_folder("model", name, 1) / "files"
        place = {"in-folder": files / "s", "all-files": files, "itself": files / "secret"}[name]
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        if name == "all-files":
            (outside / "t").mkdir()
            shutil.copy(outside / "secret", outside / "t")
        place.symlink_to(outside / "secret" if name == "itself" else outside)
    writer.add_version("model", "no-digest", {"secret": SECRET})
    place = writer.version_folder("model", "no-digest", 1)
    (place / "files/secret").unlink()
    (place / "files/secret").symlink_to(outside / "secret")
    manifest = json.loads((place / "manifest.json").read_bytes())
    manifest["files"][0]["digest"] = None
    (place / "manifest.json").write_text(json.dumps(manifest))


LINKED = [
    "in-folder/v1/files/s/secret",
    "all-files/v1/files/t/secret",
    "itself/v1/files/secret",
    "no-digest/v1/files/secret",
]


@pytest.mark.promise("S6")
@pytest.mark.parametrize("local", [False, True], ids=["on a server", "on this machine"])
def test_no_link_leads_out_of_the_store(
    local: bool,
    sshd: PrivateSshd,
    store_writer: StoreWriter,
    outside: Path,
    mount_store: MountStore,
    mount_local: MountLocal,
) -> None:
    put_links_into(store_writer, outside)
    store_writer.add_version("model", "net", FILES)
    mounted = mount_local(store_writer.root) if local else mount_store(store_writer.root, sshd=sshd)
    for path in LINKED:
        assert refusal(mounted.mountpoint / "artifacts/model" / path) == errno.ESTALE
    assert {name: (mounted.mountpoint / V1 / "files" / name).read_bytes() for name in FILES} == FILES
    done = mounted.run("get", "itself:v1", "--to", str(mounted.folder / "got"), check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for folder, _, names in os.walk(mounted.folder):
        if not folder.startswith(str(mounted.mountpoint)):
            assert all(SECRET not in Path(folder, name).read_bytes() for name in names if Path(folder, name).is_file())
    mounted.close()


def test_links_above_the_root_are_the_owners_own(sshd: PrivateSshd, store_writer: StoreWriter, tmp_path: Path) -> None:
    store_writer.add_version("model", "net", {f"sub/{name}": content for name, content in FILES.items()})
    link = tmp_path / "link"
    link.symlink_to(store_writer.root)
    files = {f"{V1}/files/sub/{name}": content for name, content in FILES.items()}
    with server_at(sshd, link) as server, Targets(tmp_path, files) as targets:
        assert server.fill_many(targets.jobs()) == [None] * len(files)
        assert targets.contents() == files


def pipes_into(store_writer: StoreWriter, *names: str) -> None:
    store_writer.add_version("model", "net", FILES)
    for name in names:
        path = store_writer.root / V1 / "files" / name
        path.unlink()
        os.mkfifo(path)


def test_a_pipe_in_a_files_place_costs_itself_alone(
    own_sshd: PrivateSshd, store_writer: StoreWriter, tmp_path: Path
) -> None:
    pipes_into(store_writer, "f3", "f5")
    files = {f"{V1}/files/{name}": content for name, content in FILES.items()}
    pipes = {f"{V1}/files/f3", f"{V1}/files/f5"}
    with server_at(own_sshd, store_writer.root) as server, Targets(tmp_path, files) as targets:
        errors = server.fill_many(targets.jobs())
        assert {path for path, error in zip(files, errors, strict=True) if isinstance(error, StaleFile)} == pipes
        assert [error for error in errors if error is not None and not isinstance(error, StaleFile)] == []
        assert sorted(targets.received) == sorted(set(files) - pipes)
        # The server's program for one session waits for somebody to write; there must not be one for each attempt.
        for _ in range(20):
            (job,) = targets.jobs([f"{V1}/files/f3"])
            with pytest.raises(StaleFile, match="no regular file"):
                server.fill(job.file, iter(job.ranges), job.fd, job.received)
        (job,) = targets.jobs([f"{V1}/files/f0"])
        server.fill(job.file, iter(job.ranges), job.fd, job.received)
        assert server.counters.connections == 1


def test_a_pipe_is_refused_and_the_mount_reads_on(
    own_sshd: PrivateSshd, store_writer: StoreWriter, mount_store: MountStore
) -> None:
    pipes_into(store_writer, "f3")
    mounted = mount_store(store_writer.root, sshd=own_sshd)
    files = mounted.mountpoint / V1 / "files"
    assert refusal(files / "f3") == errno.ESTALE
    assert {name: (files / name).read_bytes() for name in FILES if name != "f3"} == {
        name: content for name, content in FILES.items() if name != "f3"
    }
    mounted.close()


def test_a_file_is_asked_for_by_its_own_identity(sshd: PrivateSshd, store_writer: StoreWriter, tmp_path: Path) -> None:
    """A link inside the store is none of a version's files either: local mode and the walk say the same."""
    store_writer.add_version("model", "net", FILES)
    path = store_writer.root / V1 / "files/f0"
    path.unlink()
    path.symlink_to("f1")
    digest = hashlib.sha256(FILES["f1"]).hexdigest()
    with server_at(sshd, store_writer.root) as server, Targets(tmp_path, {f"{V1}/files/f0": FILES["f1"]}) as targets:
        (job,) = targets.jobs()
        with pytest.raises(StaleFile):
            server.fill(RemoteFile(job.file.path, job.file.size, None, digest), iter(job.ranges), job.fd, job.received)

"""Cache folders: one a store, private, owned by one process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runicornfs.errors import Refused
from runicornfs.workspace.folders import StoreFolder, private_folder, runtime_folder
from runicornfs.workspace.running import DaemonRecord, running_daemons

GPU: dict[str, object] = {"host": "gpu", "port": 22, "user": "ann", "root": "/data"}
NOBODY = 65534
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")


def test_the_folder_is_named_after_host_and_user(tmp_path: Path) -> None:
    folder = StoreFolder.make(tmp_path / "cache", "gpu_ann", GPU)
    assert folder.path == tmp_path / "cache" / "gpu_ann"
    assert folder.index == folder.path / "index.db"
    assert folder.metadata == folder.path / "metadata"


@pytest.mark.parametrize("other", [{"port": 2222}, {"root": "/other"}])
def test_another_port_or_root_does_not_mix_with_the_first(tmp_path: Path, other: dict[str, object]) -> None:
    first = StoreFolder.make(tmp_path, "gpu_ann", GPU)
    second = StoreFolder.make(tmp_path, "gpu_ann", GPU | other)
    assert second.path != first.path
    assert second.path.name.startswith("gpu_ann-")
    first.close()
    second.close()
    assert StoreFolder.make(tmp_path, "gpu_ann", GPU | other).path == second.path
    assert StoreFolder.make(tmp_path, "gpu_ann", GPU).path == first.path


@pytest.mark.promise("C9")
@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_folders_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = StoreFolder.make(tmp_path / "new" / "cache", "gpu_ann", GPU)
    finally:
        os.umask(before)
    for path in (tmp_path / "new", tmp_path / "new" / "cache", folder.path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.path / "store.json").stat().st_mode) == 0o600


def test_folders_that_are_there_are_closed_to_others(tmp_path: Path) -> None:
    folder = StoreFolder.make(tmp_path / "cache", "gpu_ann", GPU)
    folder.close()
    for path in (tmp_path / "cache", folder.path):
        path.chmod(0o777)
    StoreFolder.make(tmp_path / "cache", "gpu_ann", GPU).close()
    for path in (tmp_path / "cache", folder.path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_folder_that_holds_other_things_keeps_its_mode(tmp_path: Path) -> None:
    """`--cache-dir /tmp` of root made /tmp root's alone."""
    (tmp_path / "of-others").touch()
    tmp_path.chmod(0o1777)
    for _ in range(2):
        folder = StoreFolder.make(tmp_path, "gpu_ann", GPU)
        folder.close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


@only_root
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_a_cache_folder_of_somebody_else_is_refused(tmp_path: Path, mode: int) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(mode)
    os.chown(cache, NOBODY, NOBODY)
    with pytest.raises(Refused, match="belongs to somebody else"):
        StoreFolder.make(cache, "gpu_ann", GPU)
    assert list(cache.iterdir()) == []
    assert stat.S_IMODE(cache.stat().st_mode) == mode


@only_root
@pytest.mark.parametrize("planted", ["folder", "link"])
def test_what_somebody_else_has_put_in_the_place_of_a_stores_folder_is_not_used(tmp_path: Path, planted: str) -> None:
    """Below a folder like /tmp everybody can make one before us, with an index of his own or a way out in it."""
    tmp_path.chmod(0o1777)
    theirs = tmp_path / "gpu_ann"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    if planted == "folder":
        StoreFolder.make(tmp_path, "gpu_ann", GPU).close()
        os.mkfifo(theirs / "store.json.new")
        (theirs / "store.json.new").replace(theirs / "store.json")  # whoever reads it waits for ever
    else:
        theirs.symlink_to(elsewhere)
    os.chown(theirs, NOBODY, NOBODY, follow_symlinks=False)
    assert StoreFolder.find(tmp_path, "gpu_ann", GPU) is None
    assert StoreFolder.identities(tmp_path) == []
    with pytest.raises(Refused, match="belongs to somebody else"):
        StoreFolder.make(tmp_path, "gpu_ann", GPU)
    assert list(elsewhere.iterdir()) == []


def test_a_link_of_this_user_leads_to_a_larger_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "gpu_ann").symlink_to(tmp_path / "disk")
    StoreFolder.make(tmp_path / "cache", "gpu_ann", GPU).close()
    assert (tmp_path / "disk" / "store.json").exists()
    assert stat.S_IMODE((tmp_path / "disk").stat().st_mode) == 0o700


@only_root
def test_a_private_folder_is_never_somebody_elses(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(Refused, match="belongs to somebody else"):
        private_folder(tmp_path)


def test_one_process_owns_a_folder_and_the_next_one_waits(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from runicornfs.workspace.folders import StoreFolder\n"
        f"folder = StoreFolder.make(Path({str(tmp_path)!r}), 'gpu_ann', {GPU!r})\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        folder = StoreFolder.make(tmp_path, "gpu_ann", GPU)
        assert (folder.owned, folder.owner) == (False, str(owner.pid))
        assert not folder.own()
        owner.kill()
    assert folder.own(), "whose place it takes when that one has ended"
    assert folder.owner == str(os.getpid())
    folder.close()


def test_looking_for_a_folder_makes_none(tmp_path: Path) -> None:
    assert StoreFolder.find(tmp_path / "cache", "gpu_ann", GPU) is None
    assert not (tmp_path / "cache").exists()
    StoreFolder.make(tmp_path, "gpu_ann", GPU | {"port": 2222}).close()
    assert StoreFolder.find(tmp_path, "gpu_ann", GPU) is None, "that is another store's"
    made = StoreFolder.make(tmp_path, "gpu_ann", GPU)
    made.close()
    found = StoreFolder.find(tmp_path, "gpu_ann", GPU)
    assert found is not None
    assert (found.path, found.owned) == (made.path, True)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(Refused, match="cannot be used"):
        StoreFolder.make(tmp_path / "cache", "gpu_ann", GPU)


def test_a_damaged_folder_is_left_alone(tmp_path: Path) -> None:
    StoreFolder.make(tmp_path, "gpu_ann", GPU).close()
    (tmp_path / "gpu_ann" / "store.json").write_text("{")
    assert StoreFolder.make(tmp_path, "gpu_ann", GPU).path.name.startswith("gpu_ann-")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "runicornfs"


def test_a_running_daemon_is_found_until_it_ends(runtime: Path) -> None:
    record = DaemonRecord("http://127.0.0.1:23300", "ann@gpu:/data", ["/mnt"])
    (found,) = running_daemons()
    assert (found.pid, found.api, found.mounts) == (os.getpid(), "http://127.0.0.1:23300", ["/mnt"])
    record.close()
    assert running_daemons() == []


def test_what_a_killed_daemon_wrote_down_is_removed_whoever_has_its_number_now(runtime: Path) -> None:
    record = DaemonRecord(None, "ann@gpu:/data", [])
    record._opened.close()  # as the end of a process does
    assert running_daemons() == []
    assert list(runtime.iterdir()) == []


def test_a_runtime_folder_open_to_others_is_refused(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o777)
    with pytest.raises(Refused, match="open to others"):
        runtime_folder()


@only_root
def test_a_runtime_folder_of_somebody_else_is_refused(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    os.chown(runtime, NOBODY, NOBODY)
    with pytest.raises(Refused, match="belongs to somebody else"):
        runtime_folder()


@pytest.mark.parametrize("leads_to", ["nothing", "folder"])
def test_a_link_is_no_runtime_folder(runtime: Path, leads_to: str) -> None:
    (runtime.parent / "folder").mkdir(mode=0o700)
    runtime.symlink_to(runtime.parent / leads_to)
    with pytest.raises(Refused, match=r"remove it|cannot be used"):
        runtime_folder()
    assert not (runtime.parent / "nothing").exists()


def test_a_runtime_folder_that_cannot_be_made_is_a_sentence(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `su`, which leaves the XDG_RUNTIME_DIR of another account."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(Refused, match="set XDG_RUNTIME_DIR"):
        runtime_folder()


def test_runtime_folders_are_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = os.umask(0)
    try:
        record = DaemonRecord(None, "", [])
    finally:
        os.umask(before)
    (folder,) = tmp_path.iterdir()
    (file,) = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)] == [0o700, 0o600]
    record.close()

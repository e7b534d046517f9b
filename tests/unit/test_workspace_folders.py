"""Cache folders: one a store, private, owned by one process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runicornfs.errors import Refused
from runicornfs.workspace import running
from runicornfs.workspace.folders import StoreFolder, runtime_folder
from runicornfs.workspace.running import DaemonRecord, running_daemons

GPU: dict[str, object] = {"host": "gpu", "port": 22, "user": "ann", "root": "/data"}


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


def test_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = StoreFolder.make(tmp_path / "cache", "gpu_ann", GPU)
    finally:
        os.umask(before)
    for path in (tmp_path / "cache", folder.path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.path / "store.json").stat().st_mode) == 0o600


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


def test_what_a_killed_daemon_wrote_down_is_removed(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DaemonRecord(None, "ann@gpu:/data", [])
    monkeypatch.setattr(running, "_is_alive", lambda pid: False)
    assert running_daemons() == []
    assert list(runtime.iterdir()) == []


def test_a_runtime_folder_open_to_others_is_refused(runtime: Path) -> None:
    runtime.mkdir()
    runtime.chmod(0o777)
    with pytest.raises(Refused, match="open to others"):
        runtime_folder()

"""From the user's side: stores and servers that lie. What is wrong costs itself and is named, the rest works."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import urllib.request
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests import lying_sftp
from tests.conftest import MountLocal, MountStore
from tests.remotes import QUICK, Targets, server_at

GOOD = {"w.bin": b"the weights", "sub/x": b"x" * 1000}
MEMORY_MIB = 300  # a daemon takes some 80
REFUSED = [
    "../../../../../../../../etc/passwd", "/etc/passwd", "nul\0", "", "a//b", "./a", "a/../b", "x" * 256, "y/" * 3000,
    "w.bin/below", "\ud800",
]  # fmt: skip
BROKEN: dict[str, bytes] = {
    "null bytes": bytes(1000),
    "truncated": b'{"files":[{"path":"a"',
    "nested": b'{"files":' + b"[" * 100_000,
    "digits": b'{"files":[{"path":"a","size":' + b"1" * 100_000 + b"}]}",
    "no utf-8": b'{"files":[{"path":"\xff","size":1}]}',
    "utf-16": '{"files":[]}'.encode("utf-16"),
    "mark": b'\xef\xbb\xbf{"files":[]}',
    "bomb": b'{"files":[' + b"[]," * 11_000_000 + b"[]]}",
}


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def write_lies(writer: StoreWriter, outside: Path) -> None:
    """A store with one good artifact among everything else."""
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    writer.add_version("model", "good", GOOD)
    manifests = writer.folder("model", "good").parent
    writer.add_version("model", "paths", {"w.bin": GOOD["w.bin"]})
    entries = [{"path": path, "size": 11, "digest": digest(GOOD["w.bin"])} for path in ["w.bin", *REFUSED]]
    entries += [{"path": f"s{size}", "size": size} for size in (-1, 1.0, 1e308, "1", True, None, 2**63, 2**70)]
    (manifests / "paths/v1/manifest.json").write_text(json.dumps({"files": entries}))
    for name, content in BROKEN.items():
        writer.add_version("model", name, {"w.bin": b"1"})
        (manifests / name / "v1/manifest.json").write_bytes(content)
    for name in ("versions.json", "v1/manifest.json", "v1/metadata.json"):
        for kind in ("sparse", "pipe", "link"):
            artifact = f"{kind} {name.rpartition('/')[2]}"
            writer.add_version("model", artifact, {"w.bin": b"1"})
            path = manifests / artifact / name
            if kind == "sparse":
                os.truncate(path, 5 << 30)
            else:
                path.unlink()
                os.mkfifo(path) if kind == "pipe" else path.symlink_to(outside / "secret")
    (writer.artifacts / "linked").symlink_to(outside)
    os.symlink(outside, os.fsencode(manifests) + b"/\xff\x1b[31m\n")
    run = writer.root / "project/experiment/runs/run"
    (run / "media").mkdir(parents=True)
    (run / "summary.json").write_bytes(b'{"\\ud800": {"\\udfff": NaN}}')
    (run / "media/link").symlink_to(outside / "secret")
    os.mkdir(os.fsencode(run) + b"\xff\x1b[31m\n")


@pytest.fixture
def lies(store_writer: StoreWriter, tmp_path: Path) -> StoreWriter:
    write_lies(store_writer, tmp_path / "outside")
    return store_writer


def peak_mib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


@pytest.mark.parametrize("way", ["helper", "sftp", "local"])
def test_a_store_full_of_lies(
    way: str, lies: StoreWriter, tmp_path: Path, mount_store: MountStore, mount_local: MountLocal
) -> None:
    lines = ["ForceCommand internal-sftp"] if way == "sftp" else []
    with PrivateSshd(tmp_path / "sshd", config_lines=lines) as sshd:
        mounted = mount_local(lies.root) if way == "local" else mount_store(lies.root, sshd=sshd)
        mounted.expect_log("^warning: ")
        models = mounted.mountpoint / "artifacts/model"
        assert {path: (models / "good/v1/files" / path).read_bytes() for path in GOOD} == GOOD
        assert os.listdir(models / "paths/v1/files") == ["w.bin"]
        assert not [name for name in BROKEN if (models / name / "v1").exists()]
        assert sorted(os.listdir(mounted.mountpoint / "artifacts")) == [".dedup", "model"]
        assert (mounted.mountpoint / "project/experiment/runs/run/summary.json").exists()
        assert not (mounted.mountpoint / "project/experiment/runs/run/media/link").exists()
        named = mounted.log()
        for what in ("sparse manifest.json", "pipe metadata.json", "link versions.json", "artifacts/linked", *BROKEN):
            assert what in named
        assert r"artifacts/model/\udcff\x1b[31m\n: is a symbolic link" in named
        for command in (["ls"], ["ls", "paths:v1"], ["status"], ["sync"]):
            done = mounted.run(*command)
            assert "\x1b" not in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
        with urllib.request.urlopen(f"{mounted.api}/api/runs", timeout=30) as answer:
            assert {"?": {"?": None}} in [run["summary"] for run in json.load(answer)]
        assert peak_mib(mounted.process.pid) < MEMORY_MIB
        mounted.close()


def test_what_does_not_answer_the_question_is_not_taken_for_data(store_writer: StoreWriter, tmp_path: Path) -> None:
    store_writer.add_version("model", "good", GOOD)
    lie = tmp_path / "lie"
    script = f"exec {sys.executable} {Path(lying_sftp.__file__)}"
    shell = tmp_path / "shell"
    shell.write_text(f"#!/bin/sh\nLIE_FILE={lie} {script}\n")
    shell.chmod(0o755)
    files = {f"artifacts/model/good/v1/files/{path}": content for path, content in GOOD.items()}
    with PrivateSshd(tmp_path / "sshd", config_lines=[f"ForceCommand {shell}"]) as sshd:
        for name in lying_sftp.LIES:
            lie.write_text(name)
            folder = tmp_path / f"of {name}"
            folder.mkdir()
            with server_at(sshd, store_writer.root, timeouts=QUICK) as server, Targets(folder, files) as to:
                errors = server.fill_many(to.jobs())
                if name in ("honest", "other bytes"):
                    assert errors == [None, None]
                else:
                    assert errors != [None, None], name
                    assert {path: files[path] for path in to.received} == {
                        path: to.contents()[path] for path in to.received
                    }, name

"""The programs that people load models and data sets with, on the mount."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore

FILES = "artifacts/model/net/v1/files"


def mount_of(store_writer: StoreWriter, mount_store: MountStore, files: dict[str, bytes]) -> Path:
    store_writer.add_version("model", "net", files)
    return mount_store(store_writer.root).mountpoint / FILES


def test_numpy_maps_a_file(store_writer: StoreWriter, mount_store: MountStore) -> None:
    array = np.random.default_rng(1).normal(size=(1000, 300))
    buffer = io.BytesIO()
    np.save(buffer, array)
    folder = mount_of(store_writer, mount_store, {"array.npy": buffer.getvalue()})
    mapped = np.load(folder / "array.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped[700:710], array[700:710])
    assert np.array_equal(mapped, array)


def test_a_member_of_an_archive(store_writer: StoreWriter, mount_store: MountStore) -> None:
    members = {f"m{n}.bin": np.random.default_rng(n).bytes(500_000) for n in range(10)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    folder = mount_of(store_writer, mount_store, {"all.zip": buffer.getvalue()})
    with zipfile.ZipFile(folder / "all.zip") as archive:
        assert archive.read("m7.bin") == members["m7.bin"]
        assert archive.testzip() is None


def test_json(store_writer: StoreWriter, mount_store: MountStore) -> None:
    value = {"layers": [{"name": f"l{n}", "size": n} for n in range(5000)], "été": "説明"}
    folder = mount_of(store_writer, mount_store, {"config.json": json.dumps(value).encode()})
    assert json.loads((folder / "config.json").read_text()) == value
    assert json.loads((folder.parent / "metadata.json").read_text())["name"] == "net"


SAVE = """
import sys, torch
torch.manual_seed(1)
torch.save({f"layer{n}": torch.randn(200, 250) for n in range(20)}, sys.argv[1])
"""
LOAD = """
import sys, torch
here, there = torch.load(sys.argv[1]), torch.load(sys.argv[2], mmap=sys.argv[3] == "mmap")
assert here.keys() == there.keys()
assert all(torch.equal(here[name], there[name]) for name in here)
"""


@pytest.mark.parametrize("how", ["whole", "mmap"])
@pytest.mark.timeout(300)
def test_torch_loads_a_model(store_writer: StoreWriter, mount_store: MountStore, tmp_path: Path, how: str) -> None:
    """In a process of its own: torch is no dependency, and its import takes seconds."""
    pytest.importorskip("torch", reason="torch is not installed; the README says how to get a CPU build")
    model = tmp_path / "model.pth"
    subprocess.run([sys.executable, "-c", SAVE, model], check=True)
    folder = mount_of(store_writer, mount_store, {"model.pth": model.read_bytes()})
    subprocess.run([sys.executable, "-c", LOAD, model, folder / "model.pth", how], check=True)

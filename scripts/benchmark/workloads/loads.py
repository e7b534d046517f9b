"""What programs of this field do to their files: load all of one, or a part of it."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from runicornfs.demo.samplestore import StoreWriter
from scripts.benchmark import peers
from scripts.benchmark.bench import MIB, Bench, Line, Workload
from scripts.benchmark.load import ARRAYS, CHOSEN, name
from scripts.benchmark.measuring import Outcome, Series

LOAD_TIMEOUT_S = 300.0
QUIET_S = 0.3  # the line is quiet when nothing has come for that long: read-ahead has ended
SEED = 7
WITHOUT_TORCH = "torch.load: pip finds no CPU build of PyTorch here, so it is left out"


@dataclass(frozen=True)
class Part:
    """A load of a part of a file: which program, of which file, how many bytes of it it needs."""

    title: str
    kind: str
    file: str
    needed: int


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _arrays(bench: Bench) -> dict[str, np.ndarray]:
    numbers = bench.pick(64, 16) * MIB // ARRAYS // 4
    source = np.random.default_rng(SEED)
    return {name(number): source.standard_normal(numbers, dtype=np.float32) for number in range(ARRAYS)}


def _root(bench: Bench) -> Path:
    """A model for each format, all of the same arrays."""

    def build(writer: StoreWriter) -> None:
        arrays = _arrays(bench)
        with bench.scratch() as folder:
            save_file(arrays, folder / "model.safetensors")
            np.save(folder / "model.npy", np.stack(list(arrays.values())))
            pq.write_table(pa.table(arrays), folder / "model.parquet", compression="none", use_dictionary=False)
            with zipfile.ZipFile(folder / "model.zip", "w") as archive:
                for key, array in arrays.items():
                    archive.writestr(key, array.tobytes())
            with h5py.File(folder / "model.h5", "w") as file:
                for key, array in arrays.items():
                    file.create_dataset(key, data=array)
            if _has_torch():
                torch = importlib.import_module("torch")
                torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, folder / "model.pth")
            for path in folder.iterdir():
                writer.add_version("model", path.suffix[1:], {path.name: path.read_bytes()})

    return bench.store("formats", build)


def _path(file: str) -> Path:
    return Path("artifacts/model") / Path(file).suffix[1:] / "v1/files" / file


def _load(kind: str, path: Path) -> float:
    """The seconds of one load, in a process of its own."""
    command = [sys.executable, "-m", "scripts.benchmark.load", kind, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind} failed: {done.stderr.strip()}")
    return float(done.stdout)


def _whole(bench: Bench) -> Outcome:
    outcome, line, root = Outcome(), bench.line(mbit=100), _root(bench)
    loads = {
        "safetensors load_file": ("safetensors_load_file", "model.safetensors"),
        "numpy mmap, all of it": ("numpy_mmap", "model.npy"),
        "h5py, every data set": ("h5py_all", "model.h5"),
    }
    if _has_torch():
        loads = {"torch.load": ("torch_load", "model.pth")} | loads
    else:
        outcome.note(WITHOUT_TORCH)
    cat: list[float] = []
    taken: dict[str, list[float]] = {title: [] for title in loads}
    for _ in range(bench.pick(3, 1)):
        cat.append(peers.ssh_cat(bench, line, root / _path("model.npy")))
        with peers.runicornfs(bench, line, root) as folder:
            for title, (kind, file) in loads.items():
                taken[title].append(_load(kind, folder / _path(file)))
    reference = outcome.add("ssh cat", Series(tuple(cat)), "s")
    for title, seconds in taken.items():
        reached = outcome.add(title, Series(tuple(seconds)), "s")
        outcome.at_most(1.15, f"× ssh cat, {title}", reached.over(reference))
    size = (root / _path("model.npy")).stat().st_size
    outcome.note(f"{size / MIB:.0f} MiB each, the files differ by less than 1 %; ssh cat with its connection")
    return outcome


def _parts(bench: Bench) -> Outcome:
    outcome, line, root = Outcome(), bench.line(mbit=100), _root(bench)
    array = next(iter(_arrays(bench).values())).nbytes
    column = pq.read_metadata(root / _path("model.parquet"))
    column_bytes = sum(column.row_group(n).column(CHOSEN).total_compressed_size for n in range(column.num_row_groups))
    parts = [
        Part("one safetensors tensor", "safetensors_one", "model.safetensors", array),
        Part("numpy mmap, one row", "numpy_mmap_one", "model.npy", array),
        Part("one Parquet column", "parquet_one", "model.parquet", column_bytes + column.serialized_size),
        Part("one zip member", "zip_one", "model.zip", array),
        Part("one h5py data set", "h5py_one", "model.h5", array),
    ]
    for part in parts:
        fetched, seconds = [], []
        for _ in range(bench.pick(3, 1)):
            with peers.runicornfs(bench, line, root) as folder:
                before = _quiet(line)
                seconds.append(_load(part.kind, folder / _path(part.file)))
                fetched.append((_quiet(line) - before) / MIB)
        outcome.add(part.title, Series(tuple(seconds)), "s")
        limit = 1.5 * part.needed / MIB + 1
        outcome.at_most(limit, f"MiB fetched, {part.title} ({part.needed / MIB:.2f} needed)", Series(tuple(fetched)))
    outcome.note("fetched: all that came over the line, SSH's own bytes and read-ahead included")
    return outcome


def _quiet(line: Line) -> int:
    """What has come over the line by the time at which nothing more comes."""
    seen = line.received()
    while True:
        time.sleep(QUIET_S)
        now = line.received()
        if now == seen:
            return now
        seen = now


WORKLOADS = (
    Workload("loads", "whole loads: `torch.load`, safetensors, NumPy mmap, h5py", "50 ms, 100 Mbit/s", _whole),
    Workload("parts", "one tensor, mmap row, Parquet column, zip member, h5py data set", "50 ms, 100 Mbit/s", _parts),
)

"""File formats that are read in parts: what a program asks for is fetched, and little more."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore
from tests.integration.test_mount_lazy import MIB
from tests.integration.test_mount_lazy import cache as cache_status
from tests.mounts import Mounted

FILES = "artifacts/model/net/v1/files"
ARRAYS = 32
NUMBERS = 250_000  # float32: each array has 1 MB, so each file 32
# What one array of 32 may cost, with the file's directory, whole blocks and read-ahead, also on a line as fast as this.
ONE_ARRAY = 3 * MIB + 512 * 1024


@cache
def array(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(NUMBERS, dtype=np.float32)


class Shown:
    """One file, mounted, and what reading it has fetched."""

    def __init__(self, mounted: Mounted, name: str) -> None:
        self.path = mounted.mountpoint / FILES / name
        self._mounted = mounted

    @property
    def fetched(self) -> int:
        """In bytes."""
        return cache_status(self._mounted)["bytes_fetched"]

    def report(self, what: str) -> None:
        """The numbers of docs/compatibility.md; `pytest -rP` shows them."""
        print(f"{what}: fetched {self.fetched / MIB:.2f} of {self.path.stat().st_size / MIB:.2f} MiB")


@pytest.fixture
def show(store_writer: StoreWriter, mount_store: MountStore, tmp_path: Path) -> Callable[[Path], Shown]:
    """Puts a file into a store and mounts it."""

    def mount(file: Path) -> Shown:
        store_writer.add_version("model", "net", {file.name: file.read_bytes()})
        return Shown(mount_store(store_writer.root), file.name)

    return mount


@pytest.fixture
def tensors(show: Callable[[Path], Shown], tmp_path: Path) -> Shown:
    save_file({f"layer{n:02}": array(n) for n in range(ARRAYS)}, tmp_path / "model.safetensors")
    return show(tmp_path / "model.safetensors")


def test_safetensors_loads_everything(tensors: Shown) -> None:
    loaded = load_file(tensors.path)
    assert len(loaded) == ARRAYS
    assert all(np.array_equal(loaded[f"layer{n:02}"], array(n)) for n in range(ARRAYS))


def test_safetensors_loads_one_tensor(tensors: Shown) -> None:
    with safe_open(tensors.path, framework="numpy") as file:
        assert len(list(file.keys())) == ARRAYS
        assert np.array_equal(file.get_tensor("layer20"), array(20))
    tensors.report("one tensor of safetensors")
    assert tensors.fetched < ONE_ARRAY


def test_safetensors_loads_a_slice(tensors: Shown) -> None:
    with safe_open(tensors.path, framework="numpy") as file:
        assert np.array_equal(file.get_slice("layer20")[1000:1010], array(20)[1000:1010])
    tensors.report("a slice of a tensor of safetensors")
    assert tensors.fetched < ONE_ARRAY


@pytest.mark.timeout(300)
def test_safetensors_loads_tensors_of_torch(tensors: Shown) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed; the README says how to get a CPU build")
    with safe_open(tensors.path, framework="pt") as file:
        assert torch.equal(file.get_tensor("layer20"), torch.from_numpy(array(20)))
    tensors.report("one tensor of safetensors with torch")
    assert tensors.fetched < ONE_ARRAY


@pytest.fixture
def datasets(show: Callable[[Path], Shown], tmp_path: Path) -> Shown:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for n in range(ARRAYS):
            file.create_dataset(f"group/set{n:02}", data=array(n))
    return show(tmp_path / "data.h5")


def test_h5py_reads_one_dataset(datasets: Shown) -> None:
    with h5py.File(datasets.path) as file:
        assert len(file["group"]) == ARRAYS
        assert np.array_equal(file["group/set20"][:], array(20))
    datasets.report("one dataset of HDF5")
    assert datasets.fetched < ONE_ARRAY


def test_h5py_reads_everything(datasets: Shown) -> None:
    with h5py.File(datasets.path) as file:
        assert all(np.array_equal(file[f"group/set{n:02}"][:], array(n)) for n in range(ARRAYS))


@pytest.fixture
def table(show: Callable[[Path], Shown], tmp_path: Path) -> Shown:
    columns = pa.table({f"column{n:02}": array(n) for n in range(ARRAYS)})
    pq.write_table(columns, tmp_path / "table.parquet", compression="none", use_dictionary=False)
    return show(tmp_path / "table.parquet")


@pytest.mark.parametrize("memory_map", [False, True], ids=["read", "mmap"])
def test_pyarrow_reads_one_column(table: Shown, memory_map: bool) -> None:
    read = pq.read_table(table.path, columns=["column20"], memory_map=memory_map)
    assert np.array_equal(read["column20"].to_numpy(), array(20))
    table.report(f"one column of Parquet ({'mmap' if memory_map else 'read'})")
    assert table.fetched < ONE_ARRAY


def test_pyarrow_reads_the_schema(table: Shown) -> None:
    assert len(pq.read_schema(table.path)) == ARRAYS
    table.report("the schema of Parquet")
    assert table.fetched < 2 * MIB


def test_pyarrow_reads_everything(table: Shown) -> None:
    read = pq.read_table(table.path)
    assert all(np.array_equal(read[f"column{n:02}"].to_numpy(), array(n)) for n in range(ARRAYS))


def make_database(path: Path, *, journal: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE arrays (number INTEGER PRIMARY KEY, data BLOB)")
        connection.executemany(
            "INSERT INTO arrays VALUES (?, ?)", ((n, array(n // 250).tobytes()[:4000]) for n in range(8000))
        )
    connection.close()


@pytest.fixture
def database(show: Callable[[Path], Shown], tmp_path: Path) -> Shown:
    make_database(tmp_path / "data.db", journal="DELETE")
    return show(tmp_path / "data.db")


@pytest.mark.parametrize("mode", ["mode=ro", "mode=ro&immutable=1"])
def test_sqlite_reads_one_row(database: Shown, mode: str) -> None:
    """POSIX locks on the mount are the kernel's own: a plain `mode=ro` takes and gives back one, as anywhere."""
    connection = sqlite3.connect(f"file:{database.path}?{mode}", uri=True)
    (data,) = connection.execute("SELECT data FROM arrays WHERE number = 5000").fetchone()
    assert data == array(20).tobytes()[:4000]
    assert connection.execute("SELECT count(*) FROM arrays WHERE number < 10").fetchone() == (10,)
    connection.close()
    database.report(f"one row of SQLite ({mode})")
    assert database.fetched < ONE_ARRAY


def test_sqlite_checks_the_whole_file(database: Shown) -> None:
    connection = sqlite3.connect(f"file:{database.path}?mode=ro", uri=True)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_sqlite_refuses_to_write(database: Shown) -> None:
    connection = sqlite3.connect(database.path)
    with pytest.raises(sqlite3.OperationalError, match="readonly database"):
        connection.execute("DELETE FROM arrays")
    connection.close()


def test_sqlite_needs_immutable_for_a_file_in_wal_mode(show: Callable[[Path], Shown], tmp_path: Path) -> None:
    """Such a database wants to make its files -wal and -shm beside it; nobody can do that here."""
    make_database(tmp_path / "wal.db", journal="WAL")
    shown = show(tmp_path / "wal.db")
    connection = sqlite3.connect(f"file:{shown.path}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError, match="unable to open database file"):
        connection.execute("SELECT count(*) FROM arrays")
    connection.close()
    connection = sqlite3.connect(f"file:{shown.path}?mode=ro&immutable=1", uri=True)
    assert connection.execute("SELECT count(*) FROM arrays").fetchone() == (8000,)
    connection.close()

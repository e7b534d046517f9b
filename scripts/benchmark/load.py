"""`python -m scripts.benchmark.load KIND FILE`: what a program does to a file of its format; prints the seconds.

`KINDS` are the programs. A process of its own for each, with a fresh state of its library; the import is not timed.
"""

from __future__ import annotations

import importlib
import sys
import time
import zipfile
from collections.abc import Callable
from typing import Any

ARRAYS = 32
CHOSEN = 20  # the array, column, member or data set that is read where one is


def name(number: int) -> str:
    """Of an array in any of the files."""
    return f"array{number:02}"


def torch_load(path: str) -> Callable[[], object]:
    torch = importlib.import_module("torch")
    return lambda: torch.load(path, weights_only=True)


def safetensors_load_file(path: str) -> Callable[[], object]:
    numpy = importlib.import_module("safetensors.numpy")
    return lambda: numpy.load_file(path)


def safetensors_one(path: str) -> Callable[[], object]:
    safetensors = importlib.import_module("safetensors")

    def load() -> object:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.get_tensor(name(CHOSEN))

    return load


def numpy_mmap(path: str) -> Callable[[], object]:
    numpy = importlib.import_module("numpy")
    return lambda: numpy.load(path, mmap_mode="r").sum()


def numpy_mmap_one(path: str) -> Callable[[], object]:
    numpy = importlib.import_module("numpy")
    return lambda: numpy.load(path, mmap_mode="r")[CHOSEN].sum()


def parquet_one(path: str) -> Callable[[], object]:
    parquet = importlib.import_module("pyarrow.parquet")
    return lambda: parquet.read_table(path, columns=[name(CHOSEN)])


def zip_one(path: str) -> Callable[[], object]:
    def load() -> object:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name(CHOSEN))

    return load


def h5py_all(path: str) -> Callable[[], object]:
    h5py = importlib.import_module("h5py")

    def load() -> object:
        with h5py.File(path) as file:
            return [file[name(number)][:] for number in range(ARRAYS)]

    return load


def h5py_one(path: str) -> Callable[[], object]:
    h5py = importlib.import_module("h5py")

    def load() -> object:
        with h5py.File(path) as file:
            return file[name(CHOSEN)][:]

    return load


KINDS: dict[str, Callable[[str], Callable[[], object]]] = {
    function.__name__: function
    for function in (
        torch_load,
        safetensors_load_file,
        safetensors_one,
        numpy_mmap,
        numpy_mmap_one,
        parquet_one,
        zip_one,
        h5py_all,
        h5py_one,
    )
}


def main(kind: str, path: str) -> None:
    load: Any = KINDS[kind](path)
    start = time.perf_counter()
    load()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])

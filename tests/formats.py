"""Files as models and data sets come in, and programs that read all or part of them: recorded, replayed, measured.

All files hold the same ARRAYS arrays of ARRAY_BYTES each, or a table of them, so that what a part needs is known.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

ARRAYS = 64
ARRAY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """A program that reads `file`: Python code after its imports, with `path` set. `needs` is what it needs of the
    file in bytes, None for all of it."""

    name: str
    file: str
    needs: int | None
    code: str
    imports: str = "import os"


def array(number: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(number).standard_normal(ARRAY_BYTES // 4, dtype=np.float32).reshape(-1, 1024)


def _plain(path: Path) -> None:
    with open(path, "wb") as file:
        for number in range(ARRAYS):
            file.write(array(number).tobytes())


def _npy(path: Path) -> None:
    np.save(path, np.concatenate([array(number) for number in range(ARRAYS)]))


def _safetensors(path: Path) -> None:
    save_file({f"layer{number:02}": array(number) for number in range(ARRAYS)}, path)


def _torch(path: Path) -> None:
    import torch

    torch.save({f"layer{number:02}": torch.from_numpy(array(number)) for number in range(ARRAYS)}, path)


def _hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(ARRAYS):
            file.create_dataset(f"group/set{number:02}", data=array(number))


def _hdf5_chunked(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(ARRAYS):
            file.create_dataset(f"group/set{number:02}", data=array(number), chunks=(16, 1024))


def _parquet(path: Path) -> None:
    columns = pa.table({f"column{number:02}": array(number).ravel() for number in range(ARRAYS)})
    pq.write_table(columns, path, compression="none", use_dictionary=False)


def _parquet_groups(path: Path) -> None:
    columns = pa.table({f"column{number:02}": array(number).ravel() for number in range(ARRAYS)})
    pq.write_table(columns, path, compression="none", use_dictionary=False, row_group_size=ARRAY_BYTES // 4 // 8)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(ARRAYS):
            buffer = io.BytesIO()
            np.save(buffer, array(number))
            archive.writestr(f"member{number:02}.npy", buffer.getvalue())


# How each file is made.
FILES: dict[str, Callable[[Path], None]] = {
    "plain.bin": _plain,
    "array.npy": _npy,
    "model.safetensors": _safetensors,
    "model.pth": _torch,
    "data.h5": _hdf5,
    "chunked.h5": _hdf5_chunked,
    "table.parquet": _parquet,
    "groups.parquet": _parquet_groups,
    "archive.zip": _zip,
}

_TORCH = "import torch, safetensors.torch"
_NUMPY = "import numpy, safetensors.numpy"
_ONE = ARRAY_BYTES

PROGRAMS = [
    Program("cat", "plain.bin", None, "file = open(path, 'rb', 0)\nwhile file.read(131072): pass"),
    Program(
        "backward", "plain.bin", None,
        "fd = os.open(path, os.O_RDONLY)\n"
        "for at in range(os.fstat(fd).st_size - 65536, -1, -65536): os.pread(fd, 65536, at)",
    ),
    Program(
        "strided", "plain.bin", ARRAYS * 65536,
        "fd = os.open(path, os.O_RDONLY)\n"
        f"for at in range(0, {ARRAYS * ARRAY_BYTES}, {ARRAY_BYTES}): os.pread(fd, 65536, at)",
    ),
    Program(
        "random", "plain.bin", 64 * 4096,
        "fd = os.open(path, os.O_RDONLY)\ndice = random.Random(1)\n"
        f"for _ in range(64): os.pread(fd, 4096, dice.randrange({ARRAYS * ARRAY_BYTES // 4096}) * 4096)",
        "import os, random",
    ),
    Program("torch-load", "model.pth", None, "torch.load(path)", _TORCH),
    Program(
        "torch-mmap-all", "model.pth", None, "[t.sum() for t in torch.load(path, mmap=True).values()]", _TORCH
    ),
    Program("torch-mmap-one", "model.pth", _ONE, "torch.load(path, mmap=True)['layer40'].sum()", _TORCH),
    Program("safetensors-load", "model.safetensors", None, "safetensors.numpy.load_file(path)", _NUMPY),
    Program("safetensors-torch-load", "model.safetensors", None, "safetensors.torch.load_file(path)", _TORCH),
    Program(
        "safetensors-torch-sum", "model.safetensors", None,
        "[t.sum() for t in safetensors.torch.load_file(path).values()]", _TORCH,
    ),
    Program(
        "safetensors-one", "model.safetensors", _ONE,
        "safetensors.safe_open(path, framework='numpy').get_tensor('layer40')", _NUMPY,
    ),
    Program(
        "safetensors-torch-one", "model.safetensors", _ONE,
        "safetensors.safe_open(path, framework='pt').get_tensor('layer40').sum()", _TORCH,
    ),
    Program(
        "safetensors-slice", "model.safetensors", 10 * 4096,
        "safetensors.safe_open(path, framework='numpy').get_slice('layer40')[100:110]", _NUMPY,
    ),
    Program(
        "safetensors-half", "model.safetensors", ARRAYS // 2 * _ONE,
        "file = safetensors.safe_open(path, framework='numpy')\n"
        f"for n in range(0, {ARRAYS}, 2): file.get_tensor(f'layer{{n:02}}')", _NUMPY,
    ),
    Program("parquet-all", "table.parquet", None, "pq.read_table(path)", "import pyarrow.parquet as pq"),
    Program(
        "parquet-column", "table.parquet", _ONE, "pq.read_table(path, columns=['column40'])",
        "import pyarrow.parquet as pq",
    ),
    Program(
        "parquet-column-mmap", "table.parquet", _ONE,
        "pq.read_table(path, columns=['column40'], memory_map=True)['column40'].to_numpy().sum()",
        "import pyarrow.parquet as pq",
    ),
    Program(
        "parquet-column-groups", "groups.parquet", _ONE, "pq.read_table(path, columns=['column40'])",
        "import pyarrow.parquet as pq",
    ),
    Program("hdf5-all", "data.h5", None, "[d[:] for d in h5py.File(path)['group'].values()]", "import h5py"),
    Program("hdf5-one", "data.h5", _ONE, "h5py.File(path)['group/set40'][:]", "import h5py"),
    Program("hdf5-chunked-one", "chunked.h5", _ONE, "h5py.File(path)['group/set40'][:]", "import h5py"),
    Program(
        "zip-member", "archive.zip", _ONE, "zipfile.ZipFile(path).read('member40.npy')", "import zipfile"
    ),
    Program("numpy-load", "array.npy", None, "numpy.load(path)", "import numpy"),
    Program("numpy-mmap-all", "array.npy", None, "numpy.load(path, mmap_mode='r').sum()", "import numpy"),
    Program(
        "numpy-mmap-part", "array.npy", _ONE, "numpy.load(path, mmap_mode='r')[10240:10496].sum()", "import numpy"
    ),
    Program(
        "numpy-mmap-rows", "array.npy", 64 * 4096,
        "a = numpy.load(path, mmap_mode='r')\n"
        "for row in numpy.random.default_rng(1).integers(0, len(a), 64): a[row].sum()", "import numpy",
    ),
    Program(
        "numpy-mmap-threads", "array.npy", None,
        "a = numpy.load(path, mmap_mode='r')\n"
        "quarters = [a[n * len(a) // 4:(n + 1) * len(a) // 4] for n in range(4)]\n"
        "list(ThreadPoolExecutor(4).map(numpy.sum, quarters))",
        "import numpy\nfrom concurrent.futures import ThreadPoolExecutor",
    ),
]  # fmt: skip

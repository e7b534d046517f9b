"""What the commands print where standard output is not what a programmer has: other encodings, full, closed, narrow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounts import PATIENCE_S, environment_in
from tests.strangers import answering, response

ODD_NAMES = ["été", "odd\udcff", "two\nlines", "\x1b[2Jclear", "a\u202eb", "字", "x" * 500]
ARTIFACTS = [
    {
        "name": name,
        "type": "model",
        "num_versions": 1,
        "latest_version": 1,
        "size_bytes": 2**62,
        "created_at": -9.2e9,
        "updated_at": 9.2e9,
        "aliases": {name: 1},
    }
    for name in ODD_NAMES
]


def ls(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """`runicornfs ls` of a store with odd names, as a process."""
    with answering(response(json.dumps(ARTIFACTS).encode())) as address:
        return subprocess.run(
            [sys.executable, "-m", "runicornfs", "ls", "--api", address, *options],
            env=environment_in(folder) | variables,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C.UTF-8"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"TERM": "dumb", "COLUMNS": "1", "LINES": "1"},
    ],
)
def test_every_encoding_gets_one_line_for_each_artifact_and_valid_json(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    told = ls(tmp_path, **variables)
    assert (told.returncode, told.stderr) == (0, b"")
    assert len(told.stdout.splitlines()) == 1 + len(ODD_NAMES)
    assert b"\x1b" not in told.stdout
    told = ls(tmp_path, "--json", **variables)
    assert (told.returncode, told.stderr) == (0, b"")
    assert json.loads(told.stdout.decode(variables.get("PYTHONIOENCODING", "utf-8"))) == ARTIFACTS


def test_a_reader_that_has_read_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    many = response(json.dumps(ARTIFACTS * 2000).encode())
    with answering(many) as address:
        command = f"{sys.executable} -m runicornfs ls --api {address} | head -n 1"
        done = subprocess.run(
            command, shell=True, env=environment_in(tmp_path), capture_output=True, timeout=PATIENCE_S, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"NAME")


def test_an_output_that_takes_nothing_is_said_in_one_sentence(tmp_path: Path) -> None:
    with answering(response(json.dumps(ARTIFACTS).encode())) as address, open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "runicornfs", "ls", "--api", address],
            env=environment_in(tmp_path), stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"Error: No space left on device\n")


def test_a_closed_output_is_no_traceback(tmp_path: Path) -> None:
    with answering(response(json.dumps(ARTIFACTS).encode())) as address:
        command = f"exec {sys.executable} -m runicornfs ls --api {address} >&-"
        done = subprocess.run(
            command, shell=True, env=environment_in(tmp_path), capture_output=True, timeout=PATIENCE_S, check=False
        )
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)


def test_a_runtime_folder_that_cannot_be_used_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "runicornfs", "ls"],
        env=environment_in(tmp_path) | {"XDG_RUNTIME_DIR": str(tmp_path / "file")},
        capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert done.stderr.count(b"\n") == 1

"""The log of a run that goes on, followed through the mount by the programs that people follow logs with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountLocal, MountStore
from tests.mounts import PATIENCE_S, Mounted
from tests.waiting import wait_until

# Python's own way to follow a file. Says by a line of its own that it has come to the end.
FOLLOW = """
import sys, time
with open(sys.argv[1]) as log:
    while True:
        print(log.readline(), end="", flush=True)
        time.sleep(0.01)
"""
FOLLOWERS = {
    "tail -f": ["tail", "-n", "+1", "-s", "0.05", "-f"],
    "tail -F": ["tail", "-n", "+1", "-s", "0.05", "-F"],
    "readline": [sys.executable, "-c", FOLLOW],
}


@pytest.fixture
def run(store_writer: StoreWriter) -> str:
    return store_writer.add_run("vision", "train", status="running", log=["epoch 1", "epoch 2"])


@pytest.fixture(params=["remote", "local"])
def alive(
    request: pytest.FixtureRequest,
    store_writer: StoreWriter,
    run: str,
    mount_store: MountStore,
    mount_local: MountLocal,
) -> Mounted:
    """A store with a run that goes on, mounted in both ways."""
    return mount_store(store_writer.root) if request.param == "remote" else mount_local(store_writer.root)


def log_of(mounted: Mounted, run: str) -> Path:
    return mounted.mountpoint / f"vision/train/runs/{run}/logs.txt"


@contextmanager
def following(command: list[str], path: Path, output: Path) -> Iterator[Callable[[], bytes]]:
    """Runs a program that follows a file; gives what it has printed so far."""
    with (
        open(output, "wb") as file,
        subprocess.Popen([*command, path], stdout=file, stderr=subprocess.PIPE) as process,
    ):
        try:
            yield output.read_bytes
            assert process.poll() is None, "it follows still"
        finally:
            process.kill()
            _, said = process.communicate(timeout=PATIENCE_S)
    assert said == b""


@pytest.mark.parametrize("program", FOLLOWERS)
@pytest.mark.promise("R8")
def test_new_lines_arrive_after_a_sync(
    alive: Mounted, store_writer: StoreWriter, run: str, tmp_path: Path, program: str
) -> None:
    there = store_writer.run_folder(run) / "logs.txt"
    with following(FOLLOWERS[program], log_of(alive, run), tmp_path / "printed") as printed:
        wait_until(lambda: printed() == there.read_bytes(), "the lines that were there")
        for epoch in range(3, 6):
            store_writer.append_log(run, f"epoch {epoch}")
            alive.run("sync")
            wait_until(lambda: printed() == there.read_bytes(), f"the line of epoch {epoch}")


def test_an_open_log_knows_its_new_size(alive: Mounted, store_writer: StoreWriter, run: str) -> None:
    there = store_writer.run_folder(run) / "logs.txt"
    with open(log_of(alive, run), "rb") as log:
        before = log.read()
        store_writer.append_log(run, "epoch 3")
        alive.run("sync")
        wait_until(lambda: os.fstat(log.fileno()).st_size == there.stat().st_size, "the new size")
        assert log.seek(0, os.SEEK_END) == there.stat().st_size
        log.seek(len(before))
        assert before + log.read() == there.read_bytes()
        log.seek(0)
        assert log.read() == there.read_bytes()


def test_a_large_growth_is_read_whole(alive: Mounted, store_writer: StoreWriter, run: str) -> None:
    there = store_writer.run_folder(run) / "logs.txt"
    with open(log_of(alive, run), "rb") as log:
        for number in range(3):
            with open(there, "ab") as file:
                file.write(b"%d" % number * 700_001)
            alive.run("sync")
        assert log.read() == there.read_bytes()


def test_until_the_sync_the_log_ends_where_it_did(alive: Mounted, store_writer: StoreWriter, run: str) -> None:
    """The server's file may grow at any time: what was synced can be read all the same."""
    before = (store_writer.run_folder(run) / "logs.txt").read_bytes()
    store_writer.append_log(run, "epoch 3")
    assert log_of(alive, run).read_bytes() == before
    with open(log_of(alive, run), "rb") as log:
        store_writer.append_log(run, "epoch 4")
        assert log.read() == before


@pytest.mark.promise("R8")
def test_a_log_that_was_replaced_by_a_shorter_one_stays_what_it_was(
    alive: Mounted, store_writer: StoreWriter, run: str
) -> None:
    there = store_writer.run_folder(run) / "logs.txt"
    before = there.read_bytes()
    with open(log_of(alive, run), "rb") as log:
        assert log.read() == before
        there.unlink()
        there.write_bytes(b"anew\n")
        alive.run("sync")
        with open(there, "ab") as file:
            file.write(b"and longer than it ever was\n" * 10)
        alive.run("sync")
        assert os.pread(log.fileno(), 10_000, 0) == before
        assert log_of(alive, run).read_bytes() == there.read_bytes()


@pytest.mark.promise("R8")
def test_a_log_that_is_gone_stays_what_it_was(alive: Mounted, store_writer: StoreWriter, run: str) -> None:
    before = (store_writer.run_folder(run) / "logs.txt").read_bytes()
    with open(log_of(alive, run), "rb") as log:
        assert log.read(1) == before[:1]
        store_writer.soft_delete_run(run)
        alive.run("sync")
        assert not log_of(alive, run).exists()
        assert os.pread(log.fileno(), 10_000, 0) == before

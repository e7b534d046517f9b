"""Several processes that read in every way there is, at random, while the store is synced and the cache is emptied."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from runicornfs.content.blocks import BLOCK
from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore
from tests.mounts import PATIENCE_S, Mounted

# Beside the borders of blocks and pages; one whose first part is zeros; together more than the smaller cache holds.
CONTENTS = {
    "odd": os.urandom(3 * 2**20 + 1),
    "blocks": os.urandom(24 * BLOCK),
    "small": os.urandom(BLOCK - 1),
    "zeros": bytes(2**20) + b"x" + bytes(2**20),
}
READS = 150  # of each process
PROGRAM = [sys.executable, "-m", "tests.fsx"]
# The kernel copies between file systems of one type only; programs then read and write.
ALLOWED = "refused copied: EXDEV"


@pytest.mark.promise("R10")
@pytest.mark.parametrize("cache_size", ["64MiB", "4MiB"])
@pytest.mark.parametrize("program", ["runicornfs", "tests.unpassed_mount"])
def test_every_read_gives_the_bytes_of_the_file(
    mount_store: MountStore, store_writer: StoreWriter, monkeypatch: pytest.MonkeyPatch, program: str, cache_size: str
) -> None:
    store_writer.add_version("model", "net", CONTENTS)
    monkeypatch.setattr(Mounted, "program", program)
    mounted = mount_store(store_writer.root, "--cache-size", cache_size)
    folder = "artifacts/model/net/v1/files"
    processes = [
        subprocess.Popen(
            [*PROGRAM, mounted.mountpoint / folder / name, store_writer.root / folder / name, str(seed), str(READS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed, name in enumerate(["odd", "blocks", "small", "zeros", "odd"])
    ]
    try:
        disturb(mounted, store_writer, processes)
        told = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    unexpected = [line for said in told for line in said.splitlines() if not line.startswith(ALLOWED)]
    if (
        cache_size == "4MiB"
    ):  # five readers may need all of it at once: then there is no room, and that is what they hear
        unexpected = [line for line in unexpected if "ENOSPC" not in line]
    assert not unexpected
    assert [process.returncode for process in processes] == [0] * len(processes)


def disturb(mounted: Mounted, store: StoreWriter, processes: list[subprocess.Popen[str]]) -> None:
    """Empties the cache, and syncs a store that has changed, again and again while they read."""
    deadline = time.monotonic() + PATIENCE_S
    with httpx.Client(base_url=mounted.api, trust_env=False, timeout=PATIENCE_S) as api:
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            api.post("/api/remote/cache/clear").raise_for_status()
            store.add_version("model", "other", {"w": os.urandom(10)})
            api.post("/api/remote/sync").raise_for_status()
            time.sleep(0.1)  # at full speed they would read nothing twice


def test_what_reads_at_random_would_see_a_wrong_byte(tmp_path: Path) -> None:
    """Of a test that finds nothing one wants to know whether it would."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    content = CONTENTS["small"]
    right.write_bytes(content)
    wrong.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said = subprocess.run([*PROGRAM, wrong, right, "1", "100"], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "other ones" in said.stdout

"""The demo, as a newcomer runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MakeRelay
from tests.integration.test_connecting import CTRL_C, Attempt
from tests.mounts import PATIENCE_S, require_fuse, source_of
from tests.stores import add_described_version
from tests.terminals import on_terminal

COMMAND = [sys.executable, "-m", "runicornfs", "demo"]


def environment(folder: Path) -> dict[str, str]:
    return dict(os.environ) | {"TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder)}


def test_once_shows_what_is_fetched_and_what_is_not(tmp_path: Path) -> None:
    require_fuse()
    done = subprocess.run(
        [*COMMAND, "--once"], env=environment(tmp_path), capture_output=True, text=True, timeout=50, check=True
    )
    fetched = re.findall(r"Fetched so far: (\S+) of 70.0MiB", done.stdout)
    assert len(fetched) == 3
    assert fetched[0] == "0B"
    assert fetched[1] == fetched[2]
    assert fetched[1].endswith("KiB")
    assert "latest -> v3" in done.stdout
    assert list(tmp_path.glob("runicornfs-demo-*")) == []


def test_it_stays_until_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    require_fuse()
    with subprocess.Popen(
        COMMAND, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        mountpoint = next(line for line in process.stdout if "end it with Ctrl-C" in line).split()[3].rstrip(";")
        assert (Path(mountpoint) / "artifacts/model").is_dir()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    assert list(tmp_path.glob("runicornfs-demo-*")) == []


def test_a_sync_that_takes_long_shows_a_bar_on_a_terminal(
    tmp_path: Path, sshd: PrivateSshd, relay: MakeRelay, store_writer: StoreWriter
) -> None:
    require_fuse()
    add_described_version(store_writer, "dataset", "wide", {f"{n:06}.bin": n for n in range(10_000)})
    line = relay(sshd, mbit=2)
    attempt = Attempt(tmp_path, sshd, store_writer.root)
    source = source_of(sshd, store_writer.root, line.port)
    command = attempt.command(source, *attempt.with_key(), *attempt.with_known_hosts())
    with on_terminal(command, attempt.environment()) as terminal:
        assert b"syncing metadata" in terminal.read_until(b"files")
        assert b"synced 3 metadata files" in terminal.read_until(b"mounted ")
        terminal.type(CTRL_C)
        assert terminal.wait() == 0

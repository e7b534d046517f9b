"""Runicorn 0.4.1's own client of a remote store, in an environment of its own.

Runs with that environment's Python as `runicorn_client.py CONFIG`, where CONFIG is JSON: `host`, `port`, `username`,
`private_key_path`, `remote_root`, `cache_dir`, and `download` (a model's name) or null. It prints as JSON how many
seconds the first sync took, and the download if there was one. The other functions are for the benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.benchmark.bench import Bench, Line

RUNICORN = "runicorn==0.4.1"
INSTALL_TIMEOUT_S = 600.0
RUN_TIMEOUT_S = 900.0
POLL_S = 0.01


@cache
def python() -> Path | None:
    """The interpreter that has it; installed where it is not there yet. None where it cannot be had."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runicornfs-bench"
    home = base / RUNICORN.replace("==", "-")
    if not home.exists():
        base.mkdir(parents=True, exist_ok=True)
        print(f"Installing {RUNICORN} into {home} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=base, prefix="making-") as made:
            venv.create(made, symlinks=True)
            pip = [sys.executable, "-m", "pip", "--python", f"{made}/bin/python", "install", "--quiet"]
            command = [*pip, "--disable-pip-version-check", RUNICORN]
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
            if done.returncode:
                return None
            os.rename(made, home)
            os.mkdir(made)  # for the end of the context
    return home / "bin/python"


def measure(bench: Bench, line: Line, root: Path, download: str | None = None) -> dict[str, float]:
    """The seconds of its first sync of a store, and of a download of `download:v1`. RuntimeError where it fails."""
    interpreter = python()
    assert interpreter is not None
    with bench.scratch() as folder:
        config = {
            "host": "127.0.0.1",
            "port": line.port,
            "username": bench.sshd.user,
            "private_key_path": str(bench.sshd.identity),
            "remote_root": str(root),
            "cache_dir": str(folder / "cache"),
            "download": download,
        }
        done = subprocess.run(
            [str(interpreter), "-I", __file__, json.dumps(config)],
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{RUNICORN} failed: {done.stderr.strip()[-500:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def run(config: dict[str, Any]) -> dict[str, float]:
    """What is timed."""
    from runicorn.remote_storage import RemoteConfig, RemoteStorageAdapter  # type: ignore[import-not-found]

    cache_dir, download = Path(config.pop("cache_dir")), config.pop("download")
    adapter = RemoteStorageAdapter(RemoteConfig(use_agent=False, **config), cache_dir, auto_sync=False)
    start = time.perf_counter()
    adapter.connect()
    if not adapter.sync_metadata():
        raise SystemExit("its sync failed")
    answer = {"sync": time.perf_counter() - start}
    if download is not None:
        start = time.perf_counter()
        task = adapter.download_artifact(download, "model", 1)
        while (status := adapter.get_download_status(task)).is_running:
            time.sleep(POLL_S)
        if status.status != "completed":
            raise SystemExit(f"its download failed: {status.error}")
        answer["download"] = time.perf_counter() - start
    adapter.disconnect()
    return answer


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))

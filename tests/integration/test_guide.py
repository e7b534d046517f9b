"""The curl lines of the user guide do what it says, exactly as they are printed there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.mounts import Mounted
from tests.waiting import wait_until

SET_ALIAS = """\
curl -X POST http://localhost:23300/api/remote/artifacts/resnet50/v3/alias \\
  -H "Content-Type: application/json" \\
  -d '{"alias": "production"}'
"""
# Without a Content-Type curl says that this is a form.
SET_ALIAS_BRIEFLY = """\
curl -X POST http://localhost:23300/api/remote/artifacts/resnet50/v3/alias \\
  -d '{"alias": "production"}'
"""
SWITCH_TO_REMOTE = """\
curl -X POST http://localhost:23300/api/remote/mode/switch \\
  -H "Content-Type: application/json" \\
  -d '{"mode": "remote"}'
"""
SWITCH_TO_LOCAL = """\
curl -X POST http://localhost:23300/api/remote/mode/switch \\
  -H "Content-Type: application/json" \\
  -d '{"mode": "local"}'
"""
CLEAR = "curl -X POST http://localhost:23300/api/remote/cache/clear"
CLEANUP = "curl -X POST http://localhost:23300/api/remote/cache/cleanup"
DOWNLOADS = "curl http://localhost:23300/api/remote/downloads"
STATUS = "curl http://localhost:23300/api/remote/download/{task_id}/status"
CANCEL = "curl -X DELETE http://localhost:23300/api/remote/download/{task_id}"


pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def run(mounted: Mounted, lines: str) -> Any:
    """Runs the lines in a shell, against this daemon's port instead of the default one."""
    lines = lines.replace("http://localhost:23300", mounted.api.replace("127.0.0.1", "localhost"))
    shell = ["bash", "-c", lines.replace("curl ", "curl --noproxy '*' -sS ")]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("lines", [SET_ALIAS, SET_ALIAS_BRIEFLY])
def test_an_alias_is_set_on_the_server(mounted: Mounted, sample_store: Path, lines: str) -> None:
    folder = sample_store / "artifacts/model/resnet50"
    StoreWriter(sample_store).set_alias("model", "resnet50", "production", 1)
    mounted.run("sync")
    answer = run(mounted, lines)
    assert answer["ok"], answer
    assert json.loads((folder / "versions.json").read_text())["aliases"]["production"] == 3
    link = mounted.mountpoint / "artifacts/model/resnet50/production"
    wait_until(lambda: link.readlink() == Path("v3"), "the alias in the mount")


def test_the_mode_is_switched(mounted: Mounted) -> None:
    assert run(mounted, SWITCH_TO_REMOTE)["mode"] == "remote"
    assert "--store" in run(mounted, SWITCH_TO_LOCAL)["detail"], "no store of this machine was named"


def test_the_cache_is_cleared_and_cleaned_up(mounted: Mounted) -> None:
    (mounted.mountpoint / "artifacts/model/resnet50/v3/files/model.pth").read_bytes()
    cleaned = run(mounted, CLEANUP)
    assert (cleaned["ok"], cleaned["files_removed"]) == (True, 0)
    cleared = run(mounted, CLEAR)
    assert (cleared["ok"], cleared["freed_bytes"] >= 1_500_000) == (True, True)
    assert (mounted.mountpoint / "artifacts/model/resnet50/v3/files/model.pth").stat().st_size == 1_500_000


def test_downloads_are_listed_followed_and_cancelled(mounted: Mounted) -> None:
    started = run(mounted, "curl -X POST 'http://localhost:23300/api/remote/download/resnet50/v3?type=model'")
    task = started["task_id"]
    assert task in [download["task_id"] for download in run(mounted, DOWNLOADS)["downloads"]]
    status = STATUS.replace("{task_id}", task)
    wait_until(lambda: run(mounted, status)["status"] == "completed", "the download")
    assert run(mounted, CANCEL.replace("{task_id}", task))["code"] == "not_found", "it has ended"

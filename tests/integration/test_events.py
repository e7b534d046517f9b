"""What is going on, as server-sent events and as metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runicornfs.demo.samplestore import StoreWriter
from tests.conftest import MountStore
from tests.mounts import Mounted

MODEL = "artifacts/model/resnet50/v3/files/model.pth"


@pytest.fixture
def http(mounted: Mounted) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mounted.api, trust_env=False, timeout=30) as client:
        yield client


class Stream:
    """An open stream of events."""

    def __init__(self, http: httpx.Client, last: str | None = None) -> None:
        headers = {"Last-Event-ID": last} if last else {}
        self._response = http.stream("GET", "/api/events", headers=headers)
        self._lines = self._response.__enter__().iter_lines()
        self.last = last

    def next(self, subject: str) -> Any:
        """The state of the next event about this subject."""
        event: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name:
                event[name] = value
            elif event.get("event") == subject:
                self.last = event["id"]
                return json.loads(event["data"])
            else:
                event = {}
        raise AssertionError("the stream has ended")

    def close(self) -> None:
        self._response.__exit__(None, None, None)


def test_a_new_client_is_told_the_state_of_everything(http: httpx.Client, mounted: Mounted) -> None:
    stream = Stream(http)
    told = {subject: stream.next(subject) for subject in ("sync", "connection", "cache", "mount")}
    assert told["sync"]["status"] == "completed"
    assert told["connection"]["status"] == "connected"
    assert told["cache"]["files"] == 0
    assert told["mount"] == http.get("/api/mounts").json()
    stream.close()


def test_changes_are_told_as_they_happen(http: httpx.Client, mounted: Mounted, sample_store: Path) -> None:
    stream = Stream(http)
    stream.next("mount")
    (mounted.mountpoint / MODEL).read_bytes()
    assert stream.next("cache")["bytes_fetched"] > 0
    before = stream.next("sync") if mounted.run("sync").returncode == 0 else None
    assert before is not None
    StoreWriter(sample_store).add_version("model", "resnet50", {"model.pth": b"new"})
    task = http.post("/api/remote/download/resnet50/v3", params={"type": "model"}).json()["task_id"]
    while (state := stream.next("download"))["status"] != "completed":
        assert state["task_id"] == task
    stream.close()


def test_a_client_that_comes_back_misses_nothing(http: httpx.Client, mounted: Mounted) -> None:
    stream = Stream(http)
    stream.next("mount")
    stream.close()
    (mounted.mountpoint / MODEL).read_bytes()
    again = Stream(http, stream.last)
    assert again.next("cache")["files"] == 1
    again.close()


def test_a_number_of_another_process_is_answered_with_everything(http: httpx.Client, mounted: Mounted) -> None:
    stream = Stream(http, "17")
    assert stream.next("mount")["mounts"]
    stream.close()


def test_an_open_stream_does_not_hold_up_the_end(http: httpx.Client, mounted: Mounted) -> None:
    stream = Stream(http)
    stream.next("mount")
    mounted.stop()
    with pytest.raises(AssertionError, match="ended"):
        stream.next("mount")


def number(text: str, name: str) -> float:
    found = re.search(rf"^runicornfs_{name} (\S+)$", text, re.MULTILINE)
    assert found, f"there is no {name}"
    return float(found[1])


def test_metrics_count_what_was_read(http: httpx.Client, mounted: Mounted) -> None:
    content = (mounted.mountpoint / MODEL).read_bytes()
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert number(answer.text, "bytes_fetched_total") >= len(content)
    assert number(answer.text, "reads_missed_total") == number(answer.text, "fetch_wait_seconds_count") >= 1
    assert number(answer.text, "mounts") == number(answer.text, "connected") == 1
    assert number(answer.text, "sync_age_seconds") >= 0
    assert number(answer.text, "reconnects_total") == 0


def test_metrics_count_the_calls_that_reached_the_mount(http: httpx.Client, mounted: Mounted) -> None:
    """What the kernel knows already it does not ask again, and then nothing is counted."""
    path = mounted.mountpoint / MODEL
    path.stat()
    before = number(http.get("/metrics").text, r'operations_total\{operation="getattr"\}')
    path.stat()
    after = http.get("/metrics").text
    assert number(after, r'operations_total\{operation="getattr"\}') == before >= 1
    assert "open" not in re.findall(r'operations_total\{operation="(\w+)"\}', after)
    path.read_bytes()
    assert number(http.get("/metrics").text, r'operations_total\{operation="open"\}') == 1


def test_metrics_of_two_mounts_are_their_own(mounted: Mounted, mount_store: MountStore, sample_store: Path) -> None:
    other = mount_store(sample_store)
    (mounted.mountpoint / MODEL).read_bytes()
    with httpx.Client(base_url=other.api, trust_env=False) as client:
        assert number(client.get("/metrics").text, "bytes_fetched_total") == 0

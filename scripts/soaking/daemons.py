"""The mounts of a soak: processes of `runicornfs mount` that are ended, killed and started again in their folders."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.soaking.ledger import Ledger, Violation
from tests.mounts import TROUBLE, Mounted

# A mount that was synced before is there within seconds; this is for a machine that is very busy.
START_S = 60.0
# The longest that a call may take: an edit waits for a lock and for the line.
CALL_S = 100.0
# What a daemon may say of the faults that it is given.
EXPECTED = re.compile(r"the connection to \S+ (was lost|is back)|was in use: it is taken away")


class Refusal(Exception):
    """The API said no; `code` is its stable word."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(f"{status} {code}: {text}")
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Held:
    """What a process holds at one moment: descriptors by kind, threads by name, children, resident bytes."""

    descriptors: Counter[str]
    threads: int
    children: int
    resident: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """Raises OSError where there is no such process."""
        kinds: Counter[str] = Counter()
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                kinds[_kind(os.readlink(f"/proc/{pid}/fd/{fd}"))] += 1
            except FileNotFoundError:
                continue  # it was closed meanwhile
        tasks = os.listdir(f"/proc/{pid}/task")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return cls(kinds, len(tasks), len(children), int(match[1]) * 1024 if match else 0)


def _kind(target: str) -> str:
    """`/…/content/blocks/ab…-12` is a content, `socket:[123]` a socket."""
    if target.endswith(" (deleted)"):
        return "deleted file"
    if "/content/blocks/" in target:
        return "content"
    if target.startswith("/") and not target.startswith("/dev/"):
        name = os.path.basename(target)
        return f"file {name}" if name.startswith(("index.db", "records.db", "lock")) else "file"
    return target.partition(":")[0]


class Slot:
    """One place where a store is mounted, whichever process serves it. `cache` names the cache folder that it uses.

    `changing` is held by whoever ends and starts it.
    """

    def __init__(
        self, name: str, cache: str, folder: Path, source: str, options: Sequence[str], ledger: Ledger
    ) -> None:
        self.name = name
        self.cache = cache
        self.folder = folder
        self.mountpoint = folder / "mount"
        self.changing = threading.Lock()
        self.killed = 0
        self._ledger = ledger
        self._source = source
        self._port = _free_port()
        self._options = [*options, "--api", f"127.0.0.1:{self._port}"]
        self._mounted: Mounted | None = None
        self._read = 0  # of the log
        self._looked = time.monotonic()
        folder.mkdir(parents=True)

    @property
    def scope(self) -> str:
        """Of troubles that this mount alone has."""
        return f"mount {self.name}"

    @property
    def pid(self) -> int:
        assert self._mounted is not None
        return self._mounted.process.pid

    @property
    def running(self) -> bool:
        return self._mounted is not None and self._mounted.process.poll() is None

    def start(self) -> None:
        """Raises Violation where it does not come although nothing keeps it from coming."""
        while not self._ledger.stop.is_set():
            began = time.monotonic()
            self._mounted = Mounted(self.folder, self._source, *self._options)
            try:
                self._mounted.wait(START_S)
                self._ledger.took("mount started", time.monotonic() - began)
                return
            except (pytest.fail.Exception, AssertionError) as failure:
                if self.running:
                    self._mounted.give_up()
                    raise Violation("a mount comes", f"{self.name}: {failure}") from None
                if not self._ledger.troubled("line", began):
                    raise Violation("a mount comes", f"{self.name}: {failure}") from None
                self._ledger.count("mounts refused while the server was away")
            time.sleep(1)

    def stop(self) -> None:
        """As a service manager does it. Raises Violation where it does not end in order."""
        assert self._mounted is not None
        began = time.monotonic()
        try:
            self._mounted.stop()
        except (pytest.fail.Exception, AssertionError) as failure:
            raise Violation("SIGTERM ends a mount in order", f"{self.name}: {failure}") from None
        self._ledger.took("mount ended", time.monotonic() - began)

    def kill(self) -> None:
        self.killed += 1
        assert self._mounted is not None
        self._mounted.kill()

    def abort(self) -> None:
        """Its log then says what each of its threads did."""
        if self._mounted is not None and self.running:
            self._mounted.give_up()

    def close(self) -> None:
        """Takes everything away, whatever state it is in."""
        if self._mounted is not None:
            self._mounted.expect_log(".")  # looked at elsewhere
            try:
                self._mounted.close()
            except (pytest.fail.Exception, AssertionError) as failure:
                self._ledger.note(self.name, f"close: {failure}")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = CALL_S) -> Any:
        """Raises Refusal, httpx.TransportError where nobody answers, Violation for an answer that is a bug."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self._port}", trust_env=False, timeout=timeout_s) as client:
            answer = client.request(method, path, json=body)
        if answer.status_code == 500:
            raise Violation("the API knows each of its errors", f"{self.name}: {method} {path}: {answer.text[:500]}")
        if answer.is_error:
            said = answer.json()
            raise Refusal(answer.status_code, str(said.get("code")), str(said.get("detail")))
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    def gauges(self) -> dict[str, float]:
        """What `/metrics` says of the present, by name."""
        found, kind = {}, ""
        for line in str(self.ask("GET", "/metrics")).splitlines():
            if line.startswith("# TYPE"):
                kind = line.split()[3]
            elif kind == "gauge" and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name.removeprefix("runicornfs_")] = float(value)
        return found

    def new_trouble(self) -> list[str]:
        """Lines that its log has got since the last time, and that no fault explains."""
        path = self.folder / "stderr"
        since, self._looked = self._looked, time.monotonic()
        with open(path, "rb") as file:
            file.seek(self._read)
            text = file.read()
            self._read = file.tell()
        lines = text.decode(errors="replace").splitlines()
        trouble = [line for line in lines if TROUBLE.search(line) and not EXPECTED.search(line)]
        if any(self._ledger.troubled(scope, since) for scope in ("line", "cut")):
            trouble = [line for line in trouble if not line.startswith("warning: ")]  # the first sync of a start failed
        return trouble


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Measures how mounting, looking up, syncing, evicting and clearing grow with the store and with the cache.

    .venv/bin/python scripts/scale.py curve docs/scale.json     catalogs of 10³ … 10⁶ files, caches of 10³ … 10⁵
    .venv/bin/python scripts/scale.py sync docs/scale.json      first and further syncs, at 50 ms and 100 Mbit/s
    .venv/bin/python scripts/scale.py large docs/scale.json     a first sync of 1 GB of metadata, at 100 Mbit/s

Each adds its part to the file; `scripts/scale_plot.py` draws the curves. Everything is generated with fixed seeds below
a temporary folder, served by a private sshd on loopback, and removed. Times are seconds, sizes bytes; each value is the
median of its repetitions, with the least and the largest beside it. It takes five minutes and 8 GB of disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runicornfs.catalog.catalog import Catalog
from runicornfs.content.blocks import BLOCK, pack
from runicornfs.content.cache import ContentCache
from runicornfs.content.records import Record, Records
from runicornfs.content.sparse import SparseFiles, new_name
from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.store.observed import Observed, ObservedKind
from runicornfs.workspace.folders import StoreFolder
from tests.mounts import environment_in, login_options, source_of
from tests.relay import Relay

FILES_A_VERSION = 1000  # in ten folders
VERSIONS_AN_ARTIFACT = 10
CATALOGS = [10**3, 10**4, 10**5, 10**6]  # files
CACHES = [10**3, 10**4, 10**5]  # files
LARGE_ARTIFACTS, LARGE_FILES = 1000, 4700  # 1 GB of manifests
CONTENT_SIZE = 64 * 1024  # cached bytes of one file in a generated cache
LOOKUPS = 1000  # files that are looked up, spread over the store
REPETITIONS = 5
RTT_MS, MBIT = 50.0, 100.0
POLL_S = 0.01
Result = dict[str, Any]


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


# What is generated


def manifest_of(seed: int, files: int) -> bytes:
    """A manifest as the SDK writes it: some 230 bytes an entry."""
    dice = random.Random(seed)
    now = 1_760_000_000.0 + seed
    entries = [
        {
            "path": f"part-{n % 10:02}/sample-{n:07}.parquet",
            "size": 1000 + dice.randrange(10**6),
            "digest": f"sha256:{dice.randbytes(32).hex()}",
            "modified_at": now + dice.random(),
        }
        for n in range(files)
    ]
    record = {"files": entries, "references": [], "total_files": files, "total_references": 0, "created_at": now}
    return json.dumps(record | {"total_size": 10**9}, indent=2).encode()


def metadata_of(name: str, version: int, files: int, manifest: bytes) -> bytes:
    digest = hashlib.sha256(manifest).hexdigest()
    record = {"name": name, "type": "dataset", "version": version, "created_at": 1.76e9, "updated_at": 1.76e9}
    record |= {"created_by_run": "", "size_bytes": 10**9, "num_files": files, "num_references": 0, "status": "ready"}
    return json.dumps(record | {"metadata": {}, "tags": [], "manifest_digest": digest}, indent=2).encode()


def index_of(name: str, versions: int, files: int) -> bytes:
    entries = [
        {"version": n, "created_at": 1.76e9 + n, "created_by_run": "", "size_bytes": 10**9, "num_files": files}
        | {"status": "ready", "aliases": ["latest"]}
        for n in range(1, versions + 1)
    ]
    record = {"artifact_name": name, "artifact_type": "dataset", "versions": entries, "aliases": {"latest": versions}}
    return json.dumps(record | {"created_at": 1.76e9, "updated_at": 1.76e9}, indent=2).encode()


def documents(artifacts: int, versions: int, files: int) -> Iterator[tuple[str, bytes]]:
    """Path and content of every document of a store of data sets."""
    for artifact in range(artifacts):
        name = f"data-{artifact:05}"
        folder = f"artifacts/dataset/{name}"
        yield f"{folder}/versions.json", index_of(name, versions, files)
        for version in range(1, versions + 1):
            manifest = manifest_of(artifact * 1000 + version, files)
            yield f"{folder}/v{version}/manifest.json", manifest
            yield f"{folder}/v{version}/metadata.json", metadata_of(name, version, files, manifest)


def shape_of(files: int) -> tuple[int, int, int]:
    versions = max(1, files // FILES_A_VERSION)
    artifacts = max(1, versions // VERSIONS_AN_ARTIFACT)
    return artifacts, versions // artifacts, files // versions


def build(cache_dir: Path, files: int) -> None:
    """Run in a process of its own: syncs a generated store into a new catalog and prints how that went."""
    identity: dict[str, object] = {"host": "127.0.0.1", "port": 22, "user": "nobody", "root": "/store"}
    folder = StoreFolder.make(cache_dir, "127.0.0.1_nobody", identity)
    catalog = Catalog.open(folder.index)
    stage_s = 0.0
    with catalog.update() as update:
        update.stage(Observed("artifacts", ObservedKind.DIRECTORY, b"d", 0, 0, None))
        for path, content in documents(*shape_of(files)):
            seen = Observed(path, ObservedKind.DOCUMENT, b"token", len(content), 1_760_000_000_000_000_000, content)
            stage_s += timed(partial(update.stage, seen))
        apply_s = timed(partial(update.apply, last_sync=time.time()))
    catalog.close()
    folder.close()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    index_bytes = folder.index.stat().st_size
    synced = {"stage": stage_s, "apply": apply_s, "sync_resident": resident, "index_bytes": index_bytes}
    print(json.dumps(synced))


# Programs that run


@dataclass(frozen=True)
class Mount:
    """A mount by a process of its own. `took`: seconds from its start until it was mounted."""

    folder: Path
    process: int
    took: float
    api: str

    def resident(self) -> tuple[int, int]:
        """Bytes that are resident now, and the most that ever were."""
        lines = Path(f"/proc/{self.process}/status").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        return int(sizes["VmRSS"].split()[0]) * 1024, int(sizes["VmHWM"].split()[0]) * 1024

    def sync(self) -> float:
        """Seconds that one more sync takes, as the daemon tells."""
        httpx.post(f"{self.api}/api/remote/sync", timeout=60).raise_for_status()
        while (progress := self._progress())["status"] == "running":
            time.sleep(POLL_S)
        assert progress["status"] == "completed", progress
        return float(progress["completed_at"] - progress["started_at"])

    def _progress(self) -> Result:
        answer: Result = httpx.get(f"{self.api}/api/remote/status", timeout=60).json()["sync_progress"]
        return answer


@contextmanager
def mounted(folder: Path, source: str, *options: str) -> Iterator[Mount]:
    mountpoint = folder / "mount"
    command = [sys.executable, "-m", "runicornfs", "mount", source, str(mountpoint), "--api", "127.0.0.1:0"]
    command += ["--cache-dir", str(folder / "cache"), "--sync-interval", "0", *options]
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment_in(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - begun
        if not line.startswith("mounted"):
            raise SystemExit(f"it was not mounted: {line!r}")
        (record,) = (folder / "run" / "runicornfs").glob("*.json")
        yield Mount(mountpoint, process.pid, took, str(json.loads(record.read_text())["api"]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def uncached(path: Path) -> None:
    """The kernel keeps no page of the files below `path`: as after a restart of the machine."""
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


# What is measured


def catalog_at(files: int, folder: Path) -> Result:
    """A catalog of so many files: synced, mounted from the cache, listed, looked up."""
    folder.mkdir()
    built = json.loads(
        subprocess.check_output([sys.executable, __file__, "build", str(folder / "cache"), "--files", str(files)])
    )
    dice = random.Random(files)
    times: dict[str, list[float]] = {name: [] for name in ("mount", "resident", "ls", "lookup", "most_resident")}
    for _ in range(REPETITIONS):
        uncached(folder / "cache")
        with mounted(folder, "sftp://nobody@127.0.0.1:22/store", "--offline") as mount:
            times["mount"].append(mount.took)
            times["resident"].append(mount.resident()[0])
            where = mount.folder / "artifacts/dataset/data-00000/v1/files/part-00"
            times["ls"].append(timed(partial(listing_of, where)))
            paths = [mount.folder / path for path in some_paths(dice, files)]
            times["lookup"].append(statistics.median(timed(path.stat) for path in paths))
            times["most_resident"].append(mount.resident()[1])
    shutil.rmtree(folder)
    return {"files": files, **built, **{name: spread(values) for name, values in times.items()}}


def listing_of(folder: Path) -> list[os.stat_result]:
    """What `ls -l` asks for."""
    return [entry.stat() for entry in os.scandir(folder)]


def some_paths(dice: random.Random, files: int) -> Iterator[str]:
    artifacts, versions, a_version = shape_of(files)
    for _ in range(LOOKUPS):
        artifact, version, n = dice.randrange(artifacts), dice.randrange(versions), dice.randrange(a_version)
        yield f"artifacts/dataset/data-{artifact:05}/v{version + 1}/files/part-{n % 10:02}/sample-{n:07}.parquet"


class Nobody:
    """The server of a cache that fetches nothing."""

    def fill(self, *arguments: object) -> None:
        raise AssertionError("nothing is fetched here")

    def line(self) -> tuple[float, float]:
        return 0.05, 0.0


def fill_cache(folder: Path, files: int) -> None:
    """So many whole contents at rest."""
    (folder / "content").mkdir(parents=True)
    records = Records(folder / "content")
    blocks = SparseFiles(folder / "content" / "blocks")
    for number in range(files):
        key = hashlib.sha256(b"%d" % number).hexdigest()
        name = new_name(key)
        os.close(blocks.create(name, CONTENT_SIZE))
        count = -(-CONTENT_SIZE // BLOCK)
        packed = pack(bytearray(b"\1" * count))
        records.put(
            Record(key, name, f"artifacts/{number}", CONTENT_SIZE, CONTENT_SIZE, packed, True, 1.7e9 + number, None)
        )
    records.flush()
    records.close()


def cache_at(files: int, folder: Path) -> Result:
    """A cache of so many contents: opened, half of it evicted, the rest cleared."""
    times: dict[str, list[float]] = {name: [] for name in ("start", "evict", "clear")}
    place = folder / "content"
    for _ in range(REPETITIONS):
        fill_cache(folder, files)
        uncached(folder)
        begun = time.perf_counter()
        cache = ContentCache(place, Nobody(), 10**15, 0)
        times["start"].append(time.perf_counter() - begun)
        cache.close()
        cache = ContentCache(place, Nobody(), 10**15, 0)
        cache._cleaner.join()
        cache._room.limit = files // 2 * CONTENT_SIZE
        times["evict"].append(timed(cache.cleanup))
        times["clear"].append(timed(cache.clear))
        cache.close()
        shutil.rmtree(folder)
    return {"files": files, **{name: spread(values) for name, values in times.items()}}


def curve(work: Path) -> Result:
    return {
        "catalogs": [catalog_at(files, work / "catalog") for files in CATALOGS],
        "caches": [cache_at(files, work / "cache") for files in CACHES],
    }


def sync(work: Path) -> Result:
    """A store of 200 models of five versions each and their 1,000 runs: synced first, with nothing new, with one new
    version, and by the next daemon."""
    writer = StoreWriter(work / "store")
    write_store(writer)
    times: defaultdict[str, list[float]] = defaultdict(list)
    sizes: defaultdict[str, list[float]] = defaultdict(list)
    with PrivateSshd() as sshd:
        for turn in range(REPETITIONS):
            folder = work / f"client{turn}"
            folder.mkdir()
            with Relay(sshd.port, rtt_ms=RTT_MS, mbit=MBIT) as line:
                sshd.trust(line.port)
                source = source_of(sshd, writer.root, line.port)
                with mounted(folder, source, *login_options(sshd)) as mount:
                    times["first"].append(mount.took)
                    sizes["first_down"].append(line.stats().down)
                    times["nothing_new_while_exporting"].append(mount.sync())
                    wait_for_export(folder / "cache")
                    before = line.stats()
                    times["nothing_new"].append(mount.sync())
                    after = line.stats()
                    sizes["nothing_up"].append(after.up - before.up)
                    sizes["nothing_down"].append(after.down - before.down)
                    writer.add_version("model", "model-007", {"weights.bin": b"%d" % turn})
                    times["one_version"].append(mount.sync())
                with mounted(folder, source, *login_options(sshd)) as mount:
                    times["next_start"].append(mount.took)
    return {name: spread(values) for name, values in {**times, **sizes}.items()}


def write_store(writer: StoreWriter) -> None:
    for artifact in range(200):
        for version in range(5):
            used = [("model", f"model-{artifact - 1:03}", 1)] if artifact else []
            summary = {"acc": version / 5}
            run = writer.add_run("project", f"experiment {artifact % 20}", summary=summary, log=["done"], uses=used)
            files = {f"part {n}/weights.bin": b"%d %d %d" % (artifact, version, n) for n in range(5)}
            writer.add_version("model", f"model-{artifact:03}", files, created_by_run=run)


def wait_for_export(cache_dir: Path) -> None:
    """The exported JSON is written behind the first sync, and would be measured with the next one."""
    while any(cache_dir.glob("*/metadata/.being-written")):
        time.sleep(POLL_S)


def large(work: Path) -> Result:
    """1,000 data sets of one version with a manifest of 1 MB each."""
    total = 0
    for path, content in documents(LARGE_ARTIFACTS, 1, LARGE_FILES):
        file = work / "store" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        total += len(content)
    folder = work / "client"
    folder.mkdir()
    with PrivateSshd() as sshd, Relay(sshd.port, mbit=MBIT) as line:
        sshd.trust(line.port)
        with mounted(folder, source_of(sshd, work / "store", line.port), *login_options(sshd)) as mount:
            found = {"first": mount.took, "most_resident": mount.resident()[1], "down": line.stats().down}
    return {"bytes": total, "files": LARGE_ARTIFACTS * LARGE_FILES, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["curve", "sync", "large", "build"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--files", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "build":
        build(options.file, options.files)
        return
    with tempfile.TemporaryDirectory(prefix="runicornfs-scale-") as work:
        found = {"curve": curve, "sync": sync, "large": large}[options.what](Path(work))
    known = json.loads(options.file.read_text()) if options.file.exists() else {}
    options.file.write_text(json.dumps(known | {options.what: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

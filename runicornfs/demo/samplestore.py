"""Writes Runicorn stores byte for byte in the way the SDK (0.4.1, 0.5.0) does, for the demo and for the tests.

A store written here is what a GPU server holds: same files, same modes, same order of steps (a version's folder is
complete before `versions.json` names it), same lock. So it may be changed while it is mounted, which is what tests do.
Any number of threads and processes may write one store; each version is saved under the artifact's lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from runicornfs.demo.contents import Content, picture, safetensors

# Files are read for their sha256 in pieces of this size; larger ones are no faster.
PIECE = 1 << 20
# The weights of the demo's large model: enough to see the cache and the read-ahead at work, made in under a second.
LARGE_MODEL_BYTES = 64 << 20


class VersionKey(NamedTuple):
    """One version of one artifact."""

    type: str
    name: str
    version: int


class StoreWriter:
    """Adds to the store at `root` and changes it, as the SDK and Runicorn's own viewer do.

    clock: what it writes as the time (Unix seconds).
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self.artifacts = root / "artifacts"
        self.pool = self.artifacts / ".dedup"
        self._clock = clock
        self._runs: dict[str, Path] = {}

    def folder(self, type_: str, name: str) -> Path:
        """The folder of an artifact."""
        return self.artifacts / type_ / name

    def version_folder(self, type_: str, name: str, version: int) -> Path:
        return self.folder(type_, name) / f"v{version}"

    def run_folder(self, run: str) -> Path:
        """The folder of a run that this writer made or that was there before. KeyError if there is none."""
        if run not in self._runs:
            for found in self.root.glob(f"*/*/runs/{run}"):
                self._runs[run] = found
        return self._runs[run]

    # Versions

    def add_version(
        self,
        type_: str,
        name: str,
        files: Mapping[str, Content],
        *,
        created_by_run: str = "",
        metadata: Mapping[str, Any] | None = None,
        description: str = "",
        tags: Sequence[str] = (),
        references: Sequence[Mapping[str, Any]] = (),
        aliases: Sequence[str] = (),
    ) -> int:
        """Saves a new version and returns its number; `latest` moves to it, and so does each of `aliases`.

        files: content by path below `files/`. references: entries for data that lies elsewhere (`uri`, `size`, …).
        Raises FileExistsError where the SDK fails too: the number that the length of the index gives is taken.
        """
        folder = self.folder(type_, name)
        with self._locked(folder):
            index = self.index(type_, name)
            version = len(index["versions"]) + 1
            place = folder / f"v{version}"
            (place / "files").mkdir(parents=True)
            entries = [self._store(place / "files", path, content) for path, content in files.items()]
            manifest = {
                "files": entries,
                "references": [
                    {"uri": "", "checksum": None, "size": None, "metadata": {}} | dict(r) for r in references
                ],
                "total_size": sum(e["size"] for e in entries) + sum(r.get("size") or 0 for r in references),
                "total_files": len(entries),
                "total_references": len(references),
                "created_at": self._clock(),
            }
            digest = hashlib.sha256(_write_json(place / "manifest.json", manifest)).hexdigest()
            now = self._clock()
            entry = {
                "version": version,
                "created_at": now,
                "created_by_run": created_by_run,
                "size_bytes": manifest["total_size"],
                "num_files": len(entries),
                "status": "ready",
                "aliases": ["latest"],
            }
            record = {
                "name": name,
                "type": type_,
                "version": version,
                "created_at": now,
                "updated_at": now,
                "created_by_run": created_by_run,
                "created_by_user": None,
                "size_bytes": manifest["total_size"],
                "num_files": len(entries),
                "num_references": len(references),
                "status": "ready",
                "metadata": dict(metadata or {}),
                "description": description,
                "tags": list(tags),
                "aliases": ["latest"],
                "parent_artifacts": [],
                "manifest_digest": digest,
            }
            _write_json(place / "metadata.json", record)
            index["versions"].append(entry)
            index["aliases"] |= {"latest": version} | dict.fromkeys(aliases, version)
            self._save_index(folder, index)
        if created_by_run:
            sizes = {key: record[key] for key in ("size_bytes", "num_files", "num_references")}
            self._note(created_by_run, "artifacts_created.json", VersionKey(type_, name, version), "created_at", sizes)
        return version

    def set_alias(self, type_: str, name: str, alias: str, version: int | None) -> None:
        """Points an alias to a version; None removes it."""
        folder = self.folder(type_, name)
        with self._locked(folder):
            index = self.index(type_, name)
            index["aliases"].pop(alias, None)
            if version is not None:
                index["aliases"][alias] = version
            self._save_index(folder, index)

    def soft_delete(self, type_: str, name: str, version: int) -> None:
        """Marks a version as deleted: it goes from every list, its files stay."""
        marker = {"deleted_at": self._clock(), "deleted_by": "user", "version": version, "artifact_name": name}
        text = json.dumps(marker, ensure_ascii=False)
        (self.version_folder(type_, name, version) / ".deleted").write_text(text, encoding="utf-8")

    def restore(self, type_: str, name: str, version: int) -> None:
        """Takes back a soft delete."""
        (self.version_folder(type_, name, version) / ".deleted").unlink()

    def delete_permanently(self, type_: str, name: str, version: int) -> None:
        """Deletes a version as the SDK does: without the lock, and its number may come back with other bytes."""
        shutil.rmtree(self.version_folder(type_, name, version))
        index = self.index(type_, name)
        index["versions"] = [entry for entry in index["versions"] if entry["version"] != version]
        index["aliases"] = {alias: number for alias, number in index["aliases"].items() if number != version}
        if "latest" not in index["aliases"] and index["versions"]:
            index["aliases"]["latest"] = index["versions"][-1]["version"]
        self._save_index(self.folder(type_, name), index)

    def index(self, type_: str, name: str) -> dict[str, Any]:
        """`versions.json` as it stands, or that of an artifact without versions."""
        path = self.folder(type_, name) / "versions.json"
        if path.exists():
            index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return index
        now = self._clock()
        empty: dict[str, Any] = {"artifact_name": name, "artifact_type": type_, "versions": [], "aliases": {}}
        return empty | {"created_at": now, "updated_at": now}

    # Runs

    def add_run(
        self,
        project: str,
        experiment: str,
        *,
        status: str = "finished",
        summary: Mapping[str, Any] | None = None,
        steps: int = 0,
        log: Sequence[str] = (),
        media: Mapping[str, bytes] | None = None,
        uses: Sequence[tuple[str, str, int]] = (),
    ) -> str:
        """Writes a run and returns its id, which `add_version` takes as `created_by_run`.

        status: `running`, `finished` or `failed`. steps: how many lines of metrics its events have. log: lines of
        logs.txt. media: pictures by name. uses: versions (type, name, number) that the run read.
        """
        now = self._clock()
        run = time.strftime("%Y%m%d_%H%M%S_", time.localtime(now)) + secrets.token_hex(3)
        folder = self.root / project / experiment / "runs" / run
        self._runs[run] = folder
        (folder / "media").mkdir(parents=True)
        self.pool.mkdir(parents=True, exist_ok=True)
        meta = {
            "id": run,
            "project": project,
            "name": experiment,
            "created_at": now,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.release()} ({platform.machine()})",
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "storage_dir": str(self.root),
        }
        _write_json(folder / "meta.json", meta)
        state: dict[str, Any] = {"status": status, "started_at": now}
        if status != "running":
            state["ended_at"] = self._clock()
        self._write_locked(folder / "status.json", state)
        if summary is not None:
            self._write_locked(folder / "summary.json", summary)
        for name, image in (media or {}).items():
            path = f"media/{int(self._clock() * 1000)}_{secrets.token_hex(3)}_{name}"
            (folder / path).write_bytes(image)
            data = {"key": Path(name).stem, "path": path, "step": 1, "caption": None}
            self.append_event(run, "image", data)
        for step in range(1, steps + 1):
            values = {"loss": 1 / step, "acc": 1 - 1 / step, "global_step": step, "time": self._clock()}
            self.append_event(run, "metrics", values)
        for line in log:
            self.append_log(run, line)
        for key in uses:
            self.use(run, *key)
        return run

    def append_log(self, run: str, text: str) -> None:
        """Adds a line to the run's logs.txt, as a run that is alive does."""
        line = f"{time.strftime('%H:%M:%S', time.localtime(self._clock()))} | {text}\n"
        _append(self.run_folder(run) / "logs.txt", line)

    def append_event(self, run: str, kind: str, data: Mapping[str, Any]) -> None:
        """Adds a line to the run's events.jsonl."""
        event = {"ts": self._clock(), "type": kind, "data": dict(data)}
        _append(self.run_folder(run) / "events.jsonl", json.dumps(event, ensure_ascii=False) + "\n")

    def use(self, run: str, type_: str, name: str, version: int) -> None:
        """Notes that a run read a version."""
        record = json.loads((self.version_folder(type_, name, version) / "metadata.json").read_text(encoding="utf-8"))
        sizes = {key: record[key] for key in ("size_bytes", "num_files")}
        self._note(run, "artifacts_used.json", VersionKey(type_, name, version), "used_at", sizes)

    def soft_delete_run(self, run: str) -> None:
        """Moves a run to the recycle bin, as the viewer does."""
        folder = self.run_folder(run)
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))["status"]
        marker = {"deleted_at": self._clock(), "reason": "user_deleted", "original_status": status}
        _write_json(folder / ".deleted", marker)

    # How the SDK writes

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Holds an artifact's lock, which stays in its folder."""
        self.pool.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _store(self, files: Path, path: str, content: Content) -> dict[str, Any]:
        """Puts a file into the pool, links it to its place and returns its entry in the manifest."""
        with tempfile.NamedTemporaryFile(dir=self.pool, delete=False) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            size = file.tell()
            file.seek(0)
            digest = _sha256(file)
        written = Path(file.name)
        modified = written.stat().st_mtime
        pooled = self.pool / digest[:2] / digest
        if pooled.exists():
            written.unlink()
        else:
            pooled.parent.mkdir(exist_ok=True)
            written.chmod(0o644)
            written.replace(pooled)
        place = files / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(pooled)
        return {"path": path, "size": size, "digest": f"sha256:{digest}", "modified_at": modified}

    def _save_index(self, folder: Path, index: dict[str, Any]) -> None:
        """Replaces versions.json at once; its mode is mkstemp's 0600, as the SDK leaves it."""
        index["updated_at"] = self._clock()
        _replace_json(folder / "versions.json", index)

    def _note(self, run: str, file: str, key: VersionKey, when: str, sizes: Mapping[str, int]) -> None:
        path = self.run_folder(run) / file
        uses = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"artifacts": []}
        what = {"name": key.name, "type": key.type, "version": key.version}
        uses["artifacts"].append(what | {when: self._clock()} | dict(sizes))
        _replace_json(path, uses)

    def _write_locked(self, path: Path, value: Mapping[str, Any]) -> None:
        path.with_name(path.name + ".lock").touch()
        _write_json(path, value)


def write_sample_store(root: Path) -> StoreWriter:
    """Writes the demo's store into `root`: two models, a data set, a configuration and the runs that made them.

    One model has a file of 64 MiB; the names of the data set have spaces and Unicode. Takes about a second.
    """
    writer = StoreWriter(root)
    prepare = writer.add_run("vision", "prepare", summary={"pictures": 24}, log=["prepared 24 pictures"])
    pictures: dict[str, Content] = {
        f"train/{label}/{number:03}.png": picture(32, colour + 10 * number)
        for colour, label in enumerate(("stop sign", "Vorfahrt gewähren", "止まれ"))
        for number in range(8)
    }
    about: dict[str, Content] = {
        "labels.csv": b"folder,meaning\nstop sign,stop\n",
        "標識/説明 été.txt": b"Signs, seen in summer.\n",
    }
    signs = "street signs"
    writer.add_version("dataset", signs, pictures, created_by_run=prepare, description="the first 24")
    writer.add_version("dataset", signs, pictures | about, created_by_run=prepare, description="with labels")

    settings: dict[str, Content] = {"train.yaml": b"epochs: 30\nbatch_size: 64\nlearning_rate: 0.003\n"}
    writer.add_version("config", "resnet50", settings, description="what all runs of resnet50 use")
    for number, accuracy in enumerate((0.71, 0.78, 0.83), start=1):
        run = writer.add_run(
            "vision",
            "train",
            summary={"best_acc": accuracy},
            steps=20,
            log=[f"epoch {10 * number}", f"accuracy {accuracy}"],
            media={"confusion.png": picture(64, number)},
            uses=[("dataset", signs, 2), ("config", "resnet50", 1)],
        )
        weights: dict[str, Content] = {
            "model.safetensors": safetensors({"layer.weight": (number, 1024, 1024)}, seed=number)
        }
        facts = {"accuracy": accuracy, "epochs": 10 * number}
        writer.add_version(
            "model", "resnet50", weights | settings, created_by_run=run, metadata=facts, tags=["nightly"]
        )
    writer.set_alias("model", "resnet50", "production", 2)

    run = writer.add_run("language", "quantise", status="failed", log=["quantised 64 layers", "evaluation failed"])
    layers = {f"layers.{number:02}.weight": (1024, LARGE_MODEL_BYTES >> 16) for number in range(64)}
    large: dict[str, Content] = {
        "config.json": b'{"layers": 64, "dtype": "int8"}',
        "model.safetensors": safetensors(layers, seed=64),
    }
    writer.add_version("model", "gpt-mini", large, created_by_run=run, description="64 MiB of int8 weights")
    return writer


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _write_json(path: Path, value: Mapping[str, Any]) -> bytes:
    data = json.dumps(value, indent=2, ensure_ascii=False).encode()
    path.write_bytes(data)
    return data


def _replace_json(path: Path, value: Mapping[str, Any]) -> None:
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.stem}_", suffix=".json.tmp", delete=False
    ) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode())
    os.replace(file.name, path)


def _append(path: Path, line: str) -> None:
    path.with_name(path.name + ".lock").touch()
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)

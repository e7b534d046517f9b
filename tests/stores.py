"""Stores of any shape and size, written quickly; and hypothesis strategies for what is odd in them but legal."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import IO, Any

from hypothesis import strategies as st

from runicornfs.demo.samplestore import StoreWriter

# What a component of a path may hold in bytes (NAME_MAX).
NAME_BYTES = 255


def holes(size: int) -> Callable[[IO[bytes]], None]:
    """Content of `size` zero bytes that takes no room on the disk."""

    def write(file: IO[bytes]) -> None:
        file.truncate(size)
        file.seek(size)

    return write


def add_many_versions(writer: StoreWriter, versions: int, files: int) -> None:
    """One data set, `many`, of this many versions with this many tiny, different files each, in ten folders."""
    for version in range(versions):
        contents = {f"part {n % 10}/{n:05}.txt": b"%d %d" % (version, n) for n in range(files)}
        writer.add_version("dataset", "many", contents)


def add_many_artifacts(writer: StoreWriter, artifacts: int, versions: int) -> None:
    """Models `model-000`, `model-001`, … with this many versions each, every version of one file of its own."""
    for artifact in range(artifacts):
        for version in range(versions):
            writer.add_version("model", f"model-{artifact:03}", {"weights.bin": b"%d %d" % (artifact, version)})


def add_many_runs(writer: StoreWriter, runs: int) -> list[str]:
    """Finished runs of ten experiments of one project; their ids."""
    return [writer.add_run("project", f"experiment {n % 10}", summary={"n": n}) for n in range(runs)]


def add_described_version(writer: StoreWriter, type_: str, name: str, sizes: Mapping[str, int]) -> int:
    """A version whose manifest lists files of these sizes, all zeros, that are not there: for what reads records only.

    Costs no file operation a file, so a manifest of 100,000 entries takes about a second.
    """
    version = writer.add_version(type_, name, {})
    place = writer.version_folder(type_, name, version)
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = [
        {
            "path": path,
            "size": size,
            "digest": f"sha256:{_digest_of_zeros(size)}",
            "modified_at": manifest["created_at"],
        }
        for path, size in sizes.items()
    ]
    manifest |= {"total_size": sum(sizes.values()), "total_files": len(sizes)}
    replace_record(writer, type_, name, version, "manifest.json", manifest)
    return version


def replace_record(writer: StoreWriter, type_: str, name: str, version: int | None, file: str, value: Any) -> None:
    """Puts another `versions.json` (version None), `metadata.json` or `manifest.json` in place at once.

    value: written as JSON; bytes are written as they are, malformed or not.
    """
    folder = writer.folder(type_, name) if version is None else writer.version_folder(type_, name, version)
    data = value if isinstance(value, bytes) else json.dumps(value, indent=2, ensure_ascii=False).encode()
    temporary = folder / f".{file}.tmp"
    temporary.write_bytes(data)
    os.replace(temporary, folder / file)


@cache
def _digest_of_zeros(size: int) -> str:
    return hashlib.sha256(bytes(size)).hexdigest()


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and len(name.encode()) <= NAME_BYTES


def file_names() -> st.SearchStrategy[str]:
    """Whatever Linux takes as a file's name and JSON as a string: newlines, dashes in front, right to left, emoji, …"""
    ordinary = st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,4})?", fullmatch=True)
    odd = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=60)
    known = st.sampled_from(
        ["-rf", "a b", " ", "\n", "\t.txt", "~", "*", "'\"`$(x)", "\\", "%2F", "...", "v1", "latest", "versions.json",
         ".lock", ".hidden", "e\u0301", "\u00e9", "説明 été.txt", "\U0001f984", "\u202egnp.exe",
         "x" * NAME_BYTES, "é" * 127]
    )  # fmt: skip
    return st.one_of(ordinary, known, odd.filter(_is_file_name))


def file_paths(depth: int = 4) -> st.SearchStrategy[str]:
    """Relative paths of such names."""
    return st.lists(file_names(), min_size=1, max_size=depth).map("/".join)


def file_trees(max_size: int = 8) -> st.SearchStrategy[dict[str, bytes]]:
    """Files of one version, by path; no file stands where another one needs a folder."""

    def without_conflicts(files: dict[str, bytes]) -> dict[str, bytes]:
        parents = {path[:at] for path in files for at, character in enumerate(path) if character == "/"}
        return {path: content for path, content in files.items() if path not in parents}

    return st.dictionaries(file_paths(), st.binary(max_size=64), max_size=max_size).map(without_conflicts)

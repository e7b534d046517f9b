"""What is installed: our package, with the control API inside it, and nothing else at the top."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PARTS = ("api", "runicornfs", "LICENSE", "README.md", "pyproject.toml")


@pytest.mark.slow
@pytest.mark.parametrize("by_way_of", ["the folder", "the source archive"])
def test_a_wheel_installs_no_top_level_api(tmp_path: Path, by_way_of: str) -> None:
    project = copy_of_the_project(tmp_path / "project")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    if by_way_of == "the folder":
        build.append("--wheel")
    subprocess.run([*build, str(project)], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")

    venv.create(tmp_path / "venv", with_pip=False)
    target = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    installed = {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")} - {"bin"}
    assert installed == {"runicornfs"}
    assert files_below(target / "runicornfs") == files_below(project / "runicornfs")

    asked = "import importlib.util as u; print(u.find_spec('api'), u.find_spec('runicornfs.api').origin)"
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["None", str(target / "runicornfs" / "api" / "__init__.py")]


def copy_of_the_project(folder: Path) -> Path:
    """What a build reads, so that it leaves nothing in the project and finds nothing of an earlier build."""
    folder.mkdir()
    for part in PARTS:
        if (PROJECT / part).is_dir():
            shutil.copytree(PROJECT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / part, folder / part)
    return folder


def files_below(package: Path) -> set[str]:
    """The files of a package, those behind a symlink too: modules, and what the API serves."""
    found = set()
    for folder, _, names in os.walk(package, followlinks=True):
        found |= {os.path.relpath(os.path.join(folder, name), package) for name in names if not name.endswith(".pyc")}
    return found

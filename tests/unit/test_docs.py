"""What the documents say of the tests is true: promises have tests that name them, tests that are named are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))}


def promises() -> list[str]:
    return re.findall(r"\*\*([A-Z]\d+)\*\*", (ROOT / "docs/semantics.md").read_text())


def named_in(source: str) -> set[str]:
    """The promises that decorators of tests name."""
    return {
        argument.value
        for function in ast.walk(ast.parse(source))
        if isinstance(function, (ast.FunctionDef, ast.ClassDef))
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.promise"
        for argument in decorator.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def test_every_promise_has_a_number_of_its_own() -> None:
    assert sorted(promises()) == sorted(set(promises()))


def test_every_promise_is_named_by_a_test_and_every_named_one_is_made() -> None:
    named = set().union(*map(named_in, TESTS.values()))
    assert set(promises()) - named == set(), "promised, and no test names it"
    assert named - set(promises()) == set(), "named by a test, and not promised"


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", (ROOT / "docs" / page).read_text())
    assert len(named) > 30
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in TESTS.get(file, "")] == []

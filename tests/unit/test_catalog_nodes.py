"""Inode numbers: the same for ever, and never one that means something else."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.catalog.nodes import inode_of
from tests.stores import file_paths


@pytest.mark.parametrize(
    ("path", "inode"),
    [("", 1), ("artifacts", 3204508522640914433), ("artifacts/model/resnet50", 8402080597289225009)],
)
def test_the_number_of_a_path_never_changes(path: str, inode: int) -> None:
    assert inode_of(path) == inode


@given(st.one_of(file_paths(), st.binary(min_size=1).map(os.fsdecode)))
def test_a_number_has_63_bits_and_is_neither_0_nor_the_roots(path: str) -> None:
    assert 1 < inode_of(path) < 2**63

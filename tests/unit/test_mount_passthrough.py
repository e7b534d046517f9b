"""Which files the kernel reads by itself: all that are open under one number go the same way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runicornfs.mount.passthrough import Passthrough


class Backings:
    """The kernel, which may refuse."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.asked = 0
        self.refusal = 0

    def open_backing(self, fd: int) -> int:
        self.asked += 1
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        assert os.fstat(fd)
        self.open.append(self.asked)
        return self.asked

    def close_backing(self, backing: int) -> None:
        self.open.remove(backing)


class Content:
    def __init__(self, path: Path | None) -> None:
        self._path = path

    def share(self) -> int | None:
        return None if self._path is None else os.open(self._path, os.O_RDONLY)


@pytest.fixture
def backings() -> Backings:
    return Backings()


@pytest.fixture
def passthrough(backings: Backings) -> Passthrough:
    return Passthrough(backings)


@pytest.fixture
def whole(tmp_path: Path) -> Content:
    (tmp_path / "whole").touch()
    return Content(tmp_path / "whole")


PARTIAL = Content(None)


def test_a_whole_content_is_read_by_the_kernel_until_it_is_closed(
    passthrough: Passthrough, backings: Backings, whole: Content
) -> None:
    assert passthrough.opened(7, whole) == 1
    assert passthrough.opened(7, whole) == 1
    passthrough.closed(7)
    assert backings.open == [1]
    passthrough.closed(7)
    assert backings.open == []


def test_while_a_partial_one_is_open_the_others_go_its_way(passthrough: Passthrough, whole: Content) -> None:
    assert passthrough.opened(7, PARTIAL) is None
    assert passthrough.opened(7, whole) is None
    passthrough.closed(7)
    passthrough.closed(7)
    assert passthrough.opened(7, whole) is not None


def test_what_was_whole_when_it_was_opened_first_stays_so(passthrough: Passthrough, whole: Content) -> None:
    first = passthrough.opened(7, whole)
    assert passthrough.opened(7, PARTIAL) == first


def test_no_descriptor_is_left_open(passthrough: Passthrough, whole: Content) -> None:
    before = os.listdir("/proc/self/fd")
    passthrough.opened(7, whole)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.ELOOP])
def test_a_kernel_that_refuses_is_not_asked_again(
    passthrough: Passthrough, backings: Backings, whole: Content, refusal: int
) -> None:
    backings.refusal = refusal
    assert passthrough.opened(7, whole) is None
    assert passthrough.opened(8, whole) is None
    assert backings.asked == 1


def test_a_passing_failure_is_tried_again(passthrough: Passthrough, backings: Backings, whole: Content) -> None:
    backings.refusal = errno.EMFILE
    assert passthrough.opened(7, whole) is None
    backings.refusal = 0
    assert passthrough.opened(8, whole) is not None

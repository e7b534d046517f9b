"""Every error has one place in each of the two tables."""

from __future__ import annotations

import errno

import pytest

from runicornfs.api.problems import STATUSES
from runicornfs.errors import NoSpace, RunicornFSError, StaleFile, TimedOut, Unreachable
from runicornfs.mount.errnos import ERRNOS, errno_of


def family(kind: type[RunicornFSError]) -> set[type[RunicornFSError]]:
    return {kind}.union(*(family(child) for child in kind.__subclasses__()))


def test_every_error_has_an_errno() -> None:
    assert set(ERRNOS) == family(RunicornFSError)


def test_every_error_has_an_http_status() -> None:
    assert set(STATUSES) == family(RunicornFSError)


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in family(RunicornFSError)]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (Unreachable("away"), errno.ENETUNREACH),
        (TimedOut("slow"), errno.ETIMEDOUT),
        (StaleFile("other"), errno.ESTALE),
        (NoSpace("full"), errno.ENOSPC),
        (OSError(errno.EROFS, "no"), errno.EROFS),
        (ValueError("a bug"), errno.EIO),
    ],
)
def test_a_program_sees_the_errno_of_the_design(error: Exception, number: int) -> None:
    assert errno_of(error) == number

"""Which errors are right at which moment. Any other is a violation."""

from __future__ import annotations

import errno
import os

from scripts.soaking.daemons import Slot
from scripts.soaking.ledger import Ledger, Violation

# Scopes of troubles. A line that was cut is mended before a reader hears of it; one that is down is heard of.
LINE = "line"
CUT = "cut"  # calls that were under way may fail
HANDOVER = "handover"  # the owner of the shared cache is changing: calls may fail, reads may not

AWAY = {errno.ENETUNREACH, errno.ETIMEDOUT}
# Of a mount that nobody serves, or that is not there at the moment. One that ends lets go of the server first.
UNSERVED = {
    errno.ENOTCONN,
    errno.ECONNABORTED,
    errno.ENOENT,
    errno.EIO,
    errno.ENODEV,
    errno.ESTALE,
    errno.ENETUNREACH,
}
# Of a version that somebody takes away: its name is gone, its number has come back with other bytes.
LEAVING = {errno.ENOENT, errno.ESTALE, errno.EIO}
# A page of a mapped file that cannot be read kills the reader.
SIGBUS = -7

# Codes of the API.
CODES_AWAY = {
    "unreachable",
    "connection_lost",
    "timed_out",
    "outcome_unknown",
    "interrupted",
    "owner_gone",
    "refused",
    "conflict",
    "server_error",
}
CODES_LEAVING = {"not_found", "missing_on_server", "stale_file", "content_mismatch", "conflict"}


def allowed(ledger: Ledger, slot: Slot, start: float, settled: bool) -> set[int]:
    """Errors that a read of this mount since `start` may have had."""
    found: set[int] = set()
    if ledger.troubled(LINE, start):
        found |= AWAY
    if ledger.troubled(slot.scope, start):
        found |= UNSERVED
    if not settled:
        found |= LEAVING
    return found


def judge(ledger: Ledger, slot: Slot, what: str, number: int, start: float, settled: bool) -> None:
    """An error of a reader; raises Violation where it was none of those."""
    right = allowed(ledger, slot, start, settled)
    if number in right or (number == SIGBUS and right):
        ledger.count(f"reads that ended with {name_of(number)}, as they may")
        return
    raise Violation(
        "an error that a reader sees has its reason",
        f"{what}: {name_of(number)}, allowed were {sorted(map(name_of, right)) or 'none'}",
    )


def name_of(number: int) -> str:
    if number < 0:
        return f"signal {-number}"
    return errno.errorcode.get(number, os.strerror(number))

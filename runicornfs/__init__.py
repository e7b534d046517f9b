"""A remote Runicorn store as a folder."""

from __future__ import annotations

import logging
from typing import Any

from runicornfs.store.paths import printable

__version__ = "0.1.0"


class _Printable(logging.Formatter):
    """Names come from a server, which may put into them what a terminal obeys."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


def log_to_stderr(verbose: bool) -> None:
    """For programs: warnings on standard error, with `verbose` everything of ours."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("runicornfs").setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("runicornfs.remote.paramiko").setLevel(logging.WARNING)
    # paramiko reports with tracebacks what it raises as well; we say it in a sentence.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)

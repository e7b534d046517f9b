"""A remote Runicorn store as a folder."""

from __future__ import annotations

import logging

__version__ = "0.1.0"


def log_to_stderr(verbose: bool) -> None:
    """For programs: warnings on standard error, with `verbose` everything of ours."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("runicornfs").setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("runicornfs.remote.paramiko").setLevel(logging.WARNING)
    # paramiko reports with tracebacks what it raises as well; we say it in a sentence.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)

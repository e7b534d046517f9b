"""The program: the command line, joined to what its commands start. Heavy parts are imported where they are started, so
that a client command answers at once."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from runicornfs.cli.commands import Launchers, cli
from runicornfs.cli.parameters import LaunchOptions


def main() -> None:
    """The console script. Exit status: 0 done, 1 it failed, 2 the command line was wrong."""
    _complete_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may be what the terminal's encoding cannot say
            stream.reconfigure(errors="backslashreplace")
    cli(obj=Launchers(launch=_launch, demo=_demo), prog_name="runicornfs")


def _complete_standard_streams() -> None:
    """Whoever starts us may have closed some of them. The next files that are opened would take their numbers: a lock
    that ends with `--daemon`, a database that gets what programs write to standard error."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null == number:
                os.set_inheritable(null, True)  # as the others are
            else:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115 -- it stays open


def _launch(options: LaunchOptions) -> None:
    from runicornfs.daemon import background

    if options.daemon and (status := background.launch()) is not None:
        sys.exit(status)
    from runicornfs.daemon.compose import run

    run(options)


def _demo(mountpoint: Path | None, once: bool) -> None:
    from runicornfs.demo.demo import run_demo

    run_demo(mountpoint, once)

"""The command: which workloads are run, and where their report goes."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import pytest

from scripts.benchmark import machine, report
from scripts.benchmark.bench import Bench, Workload
from scripts.benchmark.workloads import WORKLOADS

# Either ends the run, and everything that it has started is taken away.
ENDING = (signal.SIGINT, signal.SIGTERM)
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main() -> int:
    options = _options()
    if options.list:
        for workload in WORKLOADS:
            print(f"{workload.name:16} {workload.title} ({workload.line})")
        return 0
    chosen = [workload for workload in WORKLOADS if not options.only or workload.name in options.only]
    for signum in ENDING:
        signal.signal(signum, _end)
    measured = run(chosen, options.quick)
    earlier = report.load(options.json) if options.json is not None else []
    order = [workload.name for workload in WORKLOADS]
    rows = report.merged(earlier, measured, order)
    about = machine.description()
    if options.json is not None:
        report.save(options.json, rows, about)
    for path in (options.markdown, DOCUMENT if options.write else None):
        if path is not None:
            path.write_text(report.markdown(rows, about, order), encoding="utf-8")
    return int(any(row.outcome is None for row in measured))


def run(chosen: Sequence[Workload], quick: bool) -> list[report.Row]:
    """Each workload in turn; one that fails does not keep the others from being measured."""
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runicornfs-bench-")))
        bench = Bench(folder, stack, quick)
        for workload in chosen:
            print(f"{workload.name} …", end="\r", file=sys.stderr, flush=True)
            start = time.monotonic()
            outcome, failure = None, ""
            try:
                outcome = workload.measure(bench)
            except (Exception, pytest.fail.Exception) as error:
                if _was_interrupted(error):
                    raise KeyboardInterrupt from error
                failure = f"{type(error).__name__}: {error}"
            taken = time.monotonic() - start
            about = (workload.name, workload.title, workload.line)
            rows.append(report.Row(*about, quick, report.today(), taken, outcome, failure))
            print(report.text(rows[-1]), flush=True)
    return rows


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether this is about the end of something that Ctrl-C ended, too: a mount that it is then missing."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _end(signum: int, frame: FrameType | None) -> None:
    for other in ENDING:  # an impatient second one would leave mounts and folders behind
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures runicornfs against its peers.")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds, some four minutes in all")
    parser.add_argument("--only", action="append", metavar="NAME", choices=names, help="only this workload; repeatable")
    parser.add_argument("--list", action="store_true", help="say which workloads there are")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report to a file")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="add each round's numbers to a file; report all it has"
    )
    parser.add_argument("--write", action="store_true", help="write the report to docs/benchmarks.md")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

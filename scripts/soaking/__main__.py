"""The command: how long, with which choices, and where the report goes."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from scripts.soaking import report
from scripts.soaking.soak import Plan, Soak

LAST = 40  # lines of the time line that are shown after a violation


def main() -> int:
    options = _options()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="runicornfs-soak-"))
    print(f"soak of {options.minutes:g} minutes, seed {seed}", flush=True)
    result = Soak(folder, seed, Plan.of(options.minutes)).run()
    if options.report is not None:
        options.report.write_text(report.markdown(result), encoding="utf-8")
    if result.violation is None:
        shutil.rmtree(folder)
        read = result.ledger.counts["bytes read and compared"] / 2**30
        print(f"no violation in {result.seconds / 60:.1f} minutes, {read:.1f} GiB compared")
        return 0
    for bulky in ("server", "downloads", "cache-shared", "cache-own"):
        if not options.keep:
            shutil.rmtree(folder / bulky, ignore_errors=True)
    lines = (folder / "timeline").read_text(encoding="utf-8").splitlines()
    print("\n".join(line[:300] for line in lines[-LAST:]), file=sys.stderr)
    print(f"\nVIOLATION with seed {seed}: {result.violation}", file=sys.stderr)
    print(f"time line and logs: {folder}", file=sys.stderr)
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the load lasts (default: 60)")
    parser.add_argument("--seed", type=int, help="what the actors choose by (default: another each time)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what it came to as Markdown")
    parser.add_argument("--keep", action="store_true", help="after a violation keep the store and the caches, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""What pip-audit's JSON on standard input comes to: status 0 nothing known, 1 vulnerabilities, 75 not (all) looked up.

pip-audit itself says "No known vulnerabilities found", with status 0, also where it could not look up a single package.
"""

from __future__ import annotations

import json
import sys

NOT_DONE = 75  # EX_TEMPFAIL of sysexits.h


def main() -> int:
    try:
        packages = json.load(sys.stdin)["dependencies"]
    except (ValueError, KeyError, TypeError):
        print("NOT AUDITED: the list of known vulnerabilities cannot be reached from here", file=sys.stderr)
        return NOT_DONE
    vulnerable = [package for package in packages if package.get("vulns")]
    unknown = [package for package in packages if "skip_reason" in package]
    for package in vulnerable:
        for vulnerability in package["vulns"]:
            fixed = ", ".join(vulnerability.get("fix_versions") or ["no version"])
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}", file=sys.stderr)
    if unknown:
        print(
            f"NOT AUDITED: {len(unknown)} of {len(packages)} packages could not be looked up, the first because of:"
            f" {unknown[0]['skip_reason']}",
            file=sys.stderr,
        )
    if vulnerable:
        return 1
    if unknown or not packages:
        return NOT_DONE
    print(f"no vulnerability is known of the {len(packages)} packages in constraints.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())

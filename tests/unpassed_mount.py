"""`python -m tests.unpassed_mount mount …`: runicornfs as on a kernel that reads nothing from the cache by itself."""

from __future__ import annotations

from runicornfs.main import main
from runicornfs.mount import fuse

if __name__ == "__main__":
    fuse.may_pass_through = lambda: False  # type: ignore[attr-defined]
    main()

"""The adapter to libfuse, without a kernel."""

from __future__ import annotations

from types import SimpleNamespace

from runicornfs.mount.fuse import StoreFuse
from runicornfs.mount.operations import Attributes, Listing


class Folder:
    """An open folder of many entries; counts those that are made into a `struct stat`."""

    def __init__(self, entries: int) -> None:
        self.made = 0
        self._listing = [(f"{number:05}", Attributes(number + 2, 0o100444, 1, 0, 0)) for number in range(entries)]

    def listing(self, number: int) -> Listing:
        return self._listing

    def stat(self, attributes: Attributes) -> dict[str, int]:
        self.made += 1
        return {"st_ino": attributes.inode, "st_mode": attributes.mode}


def test_a_folder_of_many_entries_is_made_into_stats_once_however_many_calls_it_takes() -> None:
    """All of it was made anew for each buffer of the kernel's, which holds some thirty entries."""
    folder = Folder(1000)
    fuse = StoreFuse.__new__(StoreFuse)
    fuse.operations = folder
    file = SimpleNamespace(contents=SimpleNamespace(fh=1))
    seen: list[str] = []
    while len(seen) < 1000:
        room = iter(range(30))

        def fill(buffer: object, name: bytes, status: object, offset: int, flags: int, room: object = room) -> int:
            if next(room, None) is None:  # type: ignore[call-overload]
                return 1
            seen.append(name.decode())
            assert offset == len(seen)
            return 0

        fuse.readdir_fuse_3(None, None, fill, len(seen), file, 1)
    assert seen == [f"{number:05}" for number in range(1000)]
    assert folder.made <= 1000 + 1000 // 30 + 1

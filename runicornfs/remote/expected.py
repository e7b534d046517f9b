"""Whether a file on the server is still the one that the catalog describes."""

from __future__ import annotations

from runicornfs.errors import StaleFile
from runicornfs.remote.packets import Attributes
from runicornfs.store.files import RemoteFile
from runicornfs.store.paths import shown


def check_expected(there: Attributes, file: RemoteFile) -> None:
    """Raises StaleFile where it is another one."""
    if _fits(there, file):
        return
    if not there.is_file:
        raise StaleFile(f"{shown(file.path)} on the server is no regular file")
    what = (
        f"has {there.size} bytes instead of {file.size}"
        if there.size != file.size
        else "was changed since the last sync"
    )
    raise StaleFile(f"{shown(file.path)} on the server {what}")


def _fits(there: Attributes, file: RemoteFile) -> bool:
    """A file with a digest has its very size; one without (a log) may have grown, but not changed at the same size."""
    if not there.is_file:
        return False
    if there.size is None or (file.mtime_s is None and there.size == file.size):
        return True
    if file.mtime_s is None:
        return False
    return there.size > file.size or (there.size == file.size and there.mtime_s in (None, file.mtime_s))

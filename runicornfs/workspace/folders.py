"""Where things lie on this machine: one cache folder a store, owned by one process at a time.

Everything is private to the user (0700, 0600). A folder says in `store.json` which store it belongs to, so that a
second port or root of the same host and user gets a folder of its own and nothing is mixed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from pathlib import Path

from runicornfs.errors import Refused

DEFAULT_CACHE_DIR = Path("~/.runicorn_remote_cache")
IDENTITY_FILE = "store.json"
LOCK_FILE = "lock"


class StoreFolder:
    """The cache folder of one store, locked by this process until `close`.

    `metadata/`, `index.db` and `content/` lie in it, as the user guide draws it.
    """

    def __init__(self, cache_dir: Path, name: str, identity: dict[str, object]) -> None:
        """`name` is the folder's wished name, `identity` what tells this store from any other. Raises Refused where
        another process uses the folder or it cannot be written."""
        base = cache_dir.expanduser()
        try:
            private_folder(base)
            self.path = _choose(base, name, identity)
            self._lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Refused(f"the cache folder {base} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._lock, 20).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise Refused(
                f"another runicornfs (process {owner}) uses the cache folder {self.path}: "
                "use its mount, end it, or name another folder with --cache-dir"
            ) from None
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    @property
    def index(self) -> Path:
        return self.path / "index.db"

    @property
    def metadata(self) -> Path:
        return self.path / "metadata"

    @property
    def content(self) -> Path:
        return self.path / "content"

    def close(self) -> None:
        os.close(self._lock)


def private_folder(path: Path) -> Path:
    """Makes a folder that only this user can enter, or checks that it is one of this user's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid == os.getuid():
        path.chmod(0o700)
    return path


def default_min_free(path: Path) -> int:
    """Bytes of the disk that the cache leaves free where nobody said how much: 1 GiB, or 5 % of a small disk."""
    disk = os.statvfs(path)
    return min(1024**3, disk.f_blocks * disk.f_frsize // 20)


def runtime_folder() -> Path:
    """Where running daemons write down their addresses. Raises Refused if somebody else has made it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base, "runicornfs") if base else Path(tempfile.gettempdir(), f"runicornfs-{os.getuid()}")
    path.mkdir(mode=0o700, parents=bool(base), exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or path.is_symlink() or status.st_mode & 0o077:
        raise Refused(f"{path} belongs to somebody else or is open to others: remove it, or set XDG_RUNTIME_DIR")
    return path


def _choose(base: Path, name: str, identity: dict[str, object]) -> Path:
    """The folder of this store: by its name, or with a suffix where another store has that name already."""
    name = name.replace("/", "%2F").replace("\0", "%00")
    text = json.dumps(identity, sort_keys=True)
    suffix = hashlib.sha256(text.encode()).hexdigest()[:8]
    for path in (base / name, base / f"{name}-{suffix}"):
        private_folder(path)
        file = path / IDENTITY_FILE
        try:
            if json.loads(file.read_text()) == identity:
                return path
        except FileNotFoundError:
            file.touch(mode=0o600)
            file.write_text(text)
            return path
        except ValueError:
            continue  # not readable: whatever lies there is not known to be this store's
    raise Refused(f"the cache folder {base / name} is damaged: move it away")

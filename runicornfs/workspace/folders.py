"""Where things lie on this machine: one cache folder a store, owned by one process at a time.

Everything is private to the user (0700, 0600). A folder says in `store.json` which store it belongs to, so that a
second port or root of the same host and user gets a folder of its own and nothing is mixed.
"""

from __future__ import annotations

import contextlib
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
INDEX = "index.db"


class StoreFolder:
    """The cache folder of one store. `metadata/`, `index.db` and `content/` lie in it, as the user guide draws it.

    One process at a time owns it (`owned`) and may change what is in it; it ends its ownership with `close`, or with
    its own end. Belongs to one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        """Opens a folder that `find` or `make` has named, and owns it if nobody else does."""
        self.path = path
        try:
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Refused(f"the cache folder {path} cannot be used: {error.strerror}") from None
        self.owned = False
        try:
            self.own()
        except OSError as error:  # a file system without locks
            os.close(self._lock)
            raise Refused(f"the cache folder {path} cannot be locked: {error.strerror}") from None

    @classmethod
    def find(cls, cache_dir: Path, name: str, identity: dict[str, object]) -> StoreFolder | None:
        """The folder of this store, if it was made at some time. See `make`."""
        for path in _candidates(cache_dir.expanduser(), name, identity):
            if _identity(path) == identity:
                return cls(path)
        return None

    @classmethod
    def make(cls, cache_dir: Path, name: str, identity: dict[str, object]) -> StoreFolder:
        """`name` is the folder's wished name, `identity` what tells this store from any other; where another store has
        that name already it gets a suffix. Raises Refused where it cannot be written."""
        base = cache_dir.expanduser()
        try:
            private_folder(base)
            return cls(_choose(base, name, identity))
        except OSError as error:
            raise Refused(f"the cache folder {base} cannot be used: {error.strerror}") from None

    @classmethod
    def identities(cls, cache_dir: Path) -> list[dict[str, object]]:
        """Which stores have a folder, the one that was synced last first."""
        found = []
        for path in cache_dir.expanduser().glob("*"):
            identity = _identity(path)
            if isinstance(identity, dict) and (path / INDEX).exists():
                found.append(((path / INDEX).stat().st_mtime_ns, identity))
        return [identity for _, identity in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def own(self) -> bool:
        """Tries to become the owner; True if this process is."""
        if not self.owned:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            with contextlib.suppress(OSError):  # a full disk: it is for messages only
                os.truncate(self._lock, 0)
                os.pwrite(self._lock, str(os.getpid()).encode(), 0)
            self.owned = True
        return True

    @property
    def owner(self) -> str:
        """The process that owns it, for a message."""
        return os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"

    @property
    def index(self) -> Path:
        return self.path / INDEX

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
    for path in _candidates(base, name, identity):
        private_folder(path)
        file = path / IDENTITY_FILE
        if not file.exists():
            part = path / f"{IDENTITY_FILE}.{os.getpid()}"  # another process may read it at this moment
            try:
                part.touch(mode=0o600)
                part.write_text(json.dumps(identity, sort_keys=True))
                part.replace(file)
            except OSError:
                part.unlink(missing_ok=True)
                raise
        if _identity(path) == identity:
            return path
    raise Refused(f"the cache folder {base / name} is damaged: move it away")


def _candidates(base: Path, name: str, identity: dict[str, object]) -> tuple[Path, Path]:
    """By its name, or with a suffix where another store has that name already."""
    name = name.replace("/", "%2F").replace("\0", "%00")
    suffix = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return base / name, base / f"{name}-{suffix}"


def _identity(path: Path) -> object:
    """Whose folder it is; None where that is not readable: then it is not known to be this store's."""
    try:
        return json.loads((path / IDENTITY_FILE).read_text())
    except (OSError, ValueError):
        return None

"""Where things lie on this machine: one cache folder a store, owned by one process at a time.

Everything is private to the user (0700, 0600), and nothing is used that somebody else has put there. A folder says in
`store.json` which store it belongs to, so that a second port or root of the same host and user gets a folder of its own
and nothing is mixed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path

from runicornfs.errors import Refused

DEFAULT_CACHE_DIR = Path("~/.runicorn_remote_cache")
IDENTITY_FILE = "store.json"
LOCK_FILE = "lock"
INDEX = "index.db"


class StoreFolder:
    """The cache folder of one store. `metadata/`, `index.db` and `content/` lie in it, as the user guide draws it.

    One process at a time owns it (`owned`) and may change what is in it; it ends its ownership with `disown`, `close`
    or its own end. Belongs to one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        """Opens a folder that `find` or `make` has named, and owns it if nobody else does."""
        self.path = path
        try:
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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
        that name already it gets a suffix. Raises Refused where it cannot be written or is somebody else's."""
        try:
            base = cache_folder(cache_dir)
            return cls(_choose(base, name, identity))
        except OSError as error:
            raise Refused(f"the cache folder {cache_dir} cannot be used: {error.strerror}") from None

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

    def disown(self) -> None:
        """Lets another process become the owner."""
        if self.owned:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self.owned = False

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
    """Makes a folder that only this user can enter, and those above it that are missing; one that is there is closed
    to others. Raises Refused where it is somebody else's, and OSError."""
    _make(path)
    if not _is_ours(path):
        raise Refused(f"the folder {path} belongs to somebody else: name another one")
    path.chmod(0o700)
    return path


def cache_folder(path: Path) -> Path:
    """The folder that the folders of all stores lie in: made private, as they are themselves.

    One that holds other things as well (a home, /tmp) keeps its mode. Raises Refused where somebody else could take
    away what is ours in it, and OSError.
    """
    path = path.expanduser()
    _make(path)
    status = path.stat()
    if _is_ours(path):
        if all(_is_of_a_cache(entry) for entry in path.iterdir()):
            path.chmod(0o700)
    elif status.st_uid != 0 or not status.st_mode & stat.S_ISVTX:
        raise Refused(f"the cache folder {path} belongs to somebody else: name one of this account's with --cache-dir")
    return path


def default_min_free(path: Path) -> int:
    """Bytes of the disk that the cache leaves free where nobody said how much: 1 GiB, or 5 % of a small disk."""
    disk = os.statvfs(path)
    return min(1024**3, disk.f_blocks * disk.f_frsize // 20)


def runtime_folder() -> Path:
    """Where running daemons write down their addresses. Raises Refused if somebody else has made it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base, "runicornfs") if base else Path(tempfile.gettempdir(), f"runicornfs-{os.getuid()}")
    try:
        _make(path)
        status = path.lstat()
    except OSError as error:
        raise Refused(f"{path} cannot be used: {error.strerror}; set XDG_RUNTIME_DIR to a folder of your own") from None
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
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
        return json.loads((path / IDENTITY_FILE).read_text()) if _is_ours(path) else None
    except (OSError, ValueError):
        return None


def _make(path: Path) -> None:
    """mkdir's mode counts for the last folder alone, so each that is missing is made by itself."""
    if not path.is_dir():
        if path.parent != path:
            _make(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether a folder is this user's, and so is the link that leads to it if it is one."""
    return {path.lstat().st_uid, path.stat().st_uid} == {os.getuid()}


def _is_of_a_cache(entry: Path) -> bool:
    """Whether this is something that lies in the folder of all stores."""
    return entry.name.startswith("daemon.log") or (entry / IDENTITY_FILE).exists()

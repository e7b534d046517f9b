"""Opens stores: finds out where one lies, connects where that is needed, and chooses its cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runicornfs.catalog.catalog import Catalog
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Contents
from runicornfs.content.local import LocalContents
from runicornfs.errors import Refused, TimedOut, Unreachable
from runicornfs.manage.editors import LocalEditor, ServerEditor
from runicornfs.remote.address import RemoteSource
from runicornfs.remote.scan import check_folder, scan_folder
from runicornfs.remote.server import Server
from runicornfs.remote.sshconfig import HostSettings
from runicornfs.workspace.firstscan import ServerScan
from runicornfs.workspace.folders import LOCK_FILE, StoreFolder, default_min_free
from runicornfs.workspace.opened import OpenedStore, Origin

# Of the empty store: the beginning of its folder's name, its own name there, and the age in seconds at which its lock
# has been taken for sure by a process that lives.
TEMPORARY_PREFIX = "runicornfs-"
EMPTY = "empty"
LEFT_AFTER_S = 60.0


@dataclass(frozen=True)
class Keeping:
    """How contents and metadata are kept on this machine. Sizes in bytes."""

    cache_dir: Path
    cache_size: int
    min_free: int | None = None  # None: as `default_min_free` says

    def contents(self, server: Server, folder: StoreFolder) -> ContentCache:
        min_free = default_min_free(folder.path) if self.min_free is None else self.min_free
        return ContentCache(folder.content, server, self.cache_size, min_free)


def open_remote(
    source: str, host: HostSettings, server: Server, keeping: Keeping, offline: bool = False
) -> OpenedStore:
    """Opens the store of a server that is not connected yet, and connects unless another process has it open already.

    With `offline` it shows what was synced earlier. The caller closes the server where this raises.
    Raises ServerErrors and Refused.
    """
    name = f"{host.hostname}_{host.user}"
    # The folder is named after the machine, not after an alias that may come to mean another one.
    identity: dict[str, object] = {
        "host": host.hostname,
        "port": host.port,
        "user": host.user,
        "root": server.address.root,
    }
    scan = ServerScan(server)
    folder = StoreFolder.find(keeping.cache_dir, name, identity)
    if folder is None or folder.owned:
        # Others need not wait for us, and a mistyped source leaves no folder.
        synced = folder is not None and _was_synced(folder)
        if folder is not None:
            folder.close()
        if not offline:
            _connect(server, scan, synced)
        elif not synced:
            where = RemoteSource(host.hostname, server.address.root, host.user, host.port)
            raise Refused(f"{where} was never synced on this machine: check the address, or mount without --offline")
        folder = StoreFolder.make(keeping.cache_dir, name, identity)
        if not folder.owned:
            scan.close()  # another process was quicker
    origin = Origin(
        source=source,
        scan=scan,
        editor=ServerEditor(server),
        keep=partial(keeping.contents, server),
        server=server,
    )
    return _opened(origin, folder)


def open_latest(keeping: Keeping) -> OpenedStore | None:
    """The store of a server that was synced last on this machine, offline; None where there was none yet."""
    for identity in StoreFolder.identities(keeping.cache_dir):
        match identity:
            case {"host": str(name), "port": int(port), "user": str(user), "root": str(root)}:
                host = HostSettings(name, name, port, user)
                server = Server(host, root)
                return open_remote(str(RemoteSource(name, root, user, port)), host, server, keeping, offline=True)
    return None


def open_local(root: Path, keeping: Keeping) -> OpenedStore:
    """Opens a store of this machine. Raises StoreUnusable and Refused."""
    root = root.resolve()
    check_folder(root)

    def keep(folder: StoreFolder) -> Contents:
        return LocalContents(root)

    origin = Origin(
        source=str(root),
        scan=partial(scan_folder, str(root)),
        editor=LocalEditor(str(root)),
        keep=keep,
        local_root=root,
    )
    return _opened(origin, StoreFolder.make(keeping.cache_dir, f"local_{root.name}", {"local": str(root)}))


def open_nothing() -> OpenedStore:
    """An empty store, for as long as nobody has named one. It leaves nothing behind; what one that was killed has left
    goes with the next."""
    _remove_left()
    temporary = tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX)
    root = Path(temporary.name)
    origin = Origin(
        source="",
        scan=lambda known: iter(()),
        editor=LocalEditor(str(root)),
        keep=lambda folder: LocalContents(root),
        local_root=root,
    )
    store = _opened(origin, StoreFolder.make(root, EMPTY, {}))
    store.on_close(temporary.cleanup)
    return store


def _remove_left() -> None:
    """Removes the empty stores of processes that are gone. A lock that is younger may not have been taken yet."""
    for lock in Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*/{EMPTY}/{LOCK_FILE}"):
        folder = lock.parents[1]
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if time.time() - lock.lstat().st_mtime > LEFT_AFTER_S:
                with open(os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as opened:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)


def _opened(origin: Origin, folder: StoreFolder) -> OpenedStore:
    try:
        return OpenedStore(origin, folder)
    except OSError as error:
        folder.close()
        raise Refused(f"the cache folder {folder.path} cannot be used: {error.strerror}") from error
    except BaseException:
        folder.close()
        raise


def _connect(server: Server, scan: ServerScan, synced: bool) -> None:
    """Of a store that was synced the next sync tells whether it is still there."""
    try:
        server.connect()
    except (Unreachable, TimedOut) as error:
        if synced:
            raise type(error)(f"{error} (--offline shows what was synced earlier)") from error
        raise
    if not synced:
        scan.begin()


def _was_synced(folder: StoreFolder) -> bool:
    if not folder.index.exists():
        return False
    try:
        catalog = Catalog.open(folder.index)
    except OSError as error:
        raise Refused(f"the cache folder {folder.path} cannot be used: {error.strerror}") from error
    try:
        return catalog.last_sync() is not None
    finally:
        catalog.close()

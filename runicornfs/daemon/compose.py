"""The one place that knows all parts: makes them in order, joins them, and takes them down in reverse."""

from __future__ import annotations

import contextlib
import importlib
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runicornfs.cli.display import SyncDisplay
from runicornfs.cli.parameters import ApiAddress, LaunchOptions
from runicornfs.daemon import background
from runicornfs.daemon.questions import confirmation, credentials
from runicornfs.daemon.stop import Stop
from runicornfs.daemon.token import find_token, take_token
from runicornfs.errors import InvalidInput, Refused, RunicornFSError
from runicornfs.mount import mountpoint as mountpoints
from runicornfs.mount.session import Mount
from runicornfs.remote.address import LocalSource, RemoteSource
from runicornfs.store.paths import printable
from runicornfs.workspace.connection import Access, SshFiles
from runicornfs.workspace.folders import cache_folder
from runicornfs.workspace.opening import Keeping
from runicornfs.workspace.running import DaemonRecord
from runicornfs.workspace.workspace import Workspace

if TYPE_CHECKING:
    from runicornfs.api.app import Admission

POLL_S = 0.1  # how often the progress of the first sync is shown, and how soon an unmounted daemon ends


@dataclass(frozen=True)
class Daemon:
    """What runs. `mount` is the one that was asked for at the start, `api` the control API's address."""

    workspace: Workspace
    mount: Mount | None
    api: str | None
    stop: Stop

    def wait(self) -> None:
        """Returns when somebody wants it to end, or when there is nobody left to serve: no mount and no API."""
        while not self.stop.wait(POLL_S):
            if self.mount is not None and self.mount.ended.is_set():
                return


def run(options: LaunchOptions) -> None:
    """Mounts or serves, and stays until Ctrl-C, SIGTERM or, where it was started to mount, umount."""
    stop = Stop()
    with stop.watching(), running(options, stop) as daemon:
        if options.daemon:
            background.detach(_log_file(daemon.workspace, options))
        daemon.wait()


@contextlib.contextmanager
def running(options: LaunchOptions, stop: Stop) -> Iterator[Daemon]:
    """A daemon that runs as long as the context: connected, synced, mounted. Raises what stands in the way, and Stopped
    where the end is wished before it is ready."""
    _allow_many_files()
    _forbid_core_dumps()
    with ExitStack() as stack:
        try:
            daemon = _start(stack, options, stop)
        except RunicornFSError:
            stop.check()  # what was cut short fails in some way of its own
            raise
        yield daemon


def _start(stack: ExitStack, options: LaunchOptions, stop: Stop) -> Daemon:
    token = take_token()  # before any program is started
    if options.mountpoint is not None:  # before anything that takes long: a mistake here is the commonest
        mountpoints.check_fuse(options.mount_options.allow_other)
        mountpoints.prepare(options.mountpoint)
    threading.Thread(target=_import_ahead, args=(options,), name="imports", daemon=True).start()
    keeping = Keeping(options.cache_dir, options.cache_size, options.min_free)
    workspace = Workspace(keeping, SshFiles(options.ssh_config, options.known_hosts))
    stack.callback(workspace.close)
    stop.on_request(workspace.connection.interrupt)
    _open(workspace, options)
    api = None
    if options.api is not None:
        api = _serve(stack, workspace, options.api, token)
        if options.source is not None:
            print(f"control API on {api}", file=sys.stderr)
    if workspace.store.source and not options.offline:
        _first_sync(workspace, stop)
    mount = None
    if options.mountpoint is not None:
        mount = workspace.mount(options.mountpoint, options.mount_options)
    record = DaemonRecord(api, workspace.store.source, [] if mount is None else [str(mount.mountpoint)])
    stack.callback(record.close)
    if options.source is not None:
        print(f"mounted {options.source.text} on {options.mountpoint}", flush=True)
    else:
        if mount is not None:
            print(f"mounted on {mount.mountpoint}", file=sys.stderr)
        print(f"listening on {api}", flush=True)
    return Daemon(workspace, mount if options.source is not None else None, api, stop)


def _open(workspace: Workspace, options: LaunchOptions) -> None:
    """The stores that were named: the one of this machine, and the one to mount."""
    source = None if options.source is None else options.source.store
    local = source.root if isinstance(source, LocalSource) else options.store
    if local is not None:
        workspace.connection.use_local(local).go_online(options.sync_interval)
    if options.source is not None and isinstance(source, RemoteSource):
        if options.port is not None and source.port not in (None, options.port):
            raise InvalidInput(f"the source names port {source.port} and --port names {options.port}")
        access = Access(
            options.source.text,
            RemoteSource(source.host, source.root, source.user, options.port or source.port),
            credentials(options),
            confirmation(options.accept_host_key),
            options.sync_interval,
            options.transport,
        )
        workspace.connection.connect(access, options.offline)


def _serve(stack: ExitStack, workspace: Workspace, address: ApiAddress, token: str | None) -> str:
    """Starts the control API; returns its address."""
    from runicornfs.api.app import create_app
    from runicornfs.daemon.api_server import ApiServer

    app = create_app(workspace, _admission(address, token))
    server = ApiServer(app, address)
    stack.callback(server.close)
    stack.callback(app.state.events.close)
    return server.url


def _import_ahead(options: LaunchOptions) -> None:
    """Loads what is needed once a store is open while its server is waited for: either takes some 0.3 s.

    What cannot be loaded is reported where it is needed.
    """
    modules = ["runicornfs.mount.fuse"] if options.mountpoint is not None else []
    if options.api is not None:
        modules += ["runicornfs.api.app", "runicornfs.daemon.api_server"]
    with contextlib.suppress(Exception):
        for module in modules:
            importlib.import_module(module)


def _admission(address: ApiAddress, token: str | None) -> Admission:
    """Who may call: this account alone; off loopback whoever has the token."""
    from runicornfs.api.app import Admission

    if address.is_loopback:
        return Admission(token=find_token(token, needed=False))
    names = frozenset() if address.is_unspecified else frozenset({address.host.lower()})
    return Admission(names, find_token(token, needed=True), always=True)


def _log_file(workspace: Workspace, options: LaunchOptions) -> Path:
    if workspace.store.source:
        return workspace.store.folder.path / "daemon.log"
    try:
        return cache_folder(options.cache_dir) / "daemon.log"
    except OSError as error:
        raise Refused(f"the cache folder {options.cache_dir} cannot be used: {error.strerror}") from None


def _allow_many_files() -> None:
    """A file that a program has open in the mount costs us a descriptor; 1,024, the usual limit, is soon reached."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _forbid_core_dumps() -> None:
    """Passwords and keys are in this process's memory: a crash must not write them to a disk (decision 32)."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def _first_sync(workspace: Workspace, stop: Stop) -> None:
    """Returns when the catalog shows the store; the export to `metadata/` goes on behind it."""
    display = SyncDisplay()
    run = workspace.sync()
    while not run.committed.wait(POLL_S):
        stop.check()
        display.show(workspace.progress())
    try:
        run.wait(run.committed)
    except RunicornFSError as error:
        if workspace.store.folder.owned or workspace.store.catalog.last_sync() is None:
            raise
        # Another process has the store open, and it has lost its server meanwhile: show what that one shows.
        print(f"warning: {printable(str(error))}", file=sys.stderr)
    display.finish(workspace.progress())
    for problem in workspace.problems():
        print(f"warning: {printable(problem)}", file=sys.stderr)

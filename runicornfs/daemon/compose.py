"""The one place that knows all parts: makes them in order, joins them, and takes them down in reverse."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from runicornfs.api.app import create_app
from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.update import Changes
from runicornfs.cli.display import SyncDisplay
from runicornfs.cli.parameters import LaunchOptions
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Contents
from runicornfs.content.local import LocalContents
from runicornfs.daemon.api_server import ApiServer
from runicornfs.daemon.stop import Stop, interruptible
from runicornfs.errors import InvalidInput, RunicornFSError
from runicornfs.mount import mountpoint as mountpoints
from runicornfs.mount.session import Mount
from runicornfs.remote.address import LocalSource, RemoteSource
from runicornfs.remote.helper import check_folder, scan_folder, scan_server
from runicornfs.remote.hostkeys import Confirm, UnknownHostKey, accept_fingerprint
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import Server
from runicornfs.remote.sshconfig import resolve_host
from runicornfs.sync.export import MetadataExport
from runicornfs.sync.syncer import Scan, Syncer
from runicornfs.workspace.folders import StoreFolder, default_min_free
from runicornfs.workspace.running import DaemonRecord
from runicornfs.workspace.workspace import Workspace

POLL_S = 0.1  # how often the progress of the first sync is shown, and how soon an unmounted daemon ends


@dataclass(frozen=True)
class Daemon:
    """A store that is mounted. `api` is its control API's address."""

    workspace: Workspace
    mount: Mount
    api: str | None
    stop: Stop

    def wait(self) -> None:
        """Returns when somebody wants it to end, or when the mount is gone."""
        while not self.stop.wait(POLL_S) and not self.mount.ended.is_set():
            pass


def run(options: LaunchOptions) -> None:
    """Mounts and stays until Ctrl-C, SIGTERM or umount."""
    stop = Stop()
    with stop.watching(), running(options, stop) as daemon:
        daemon.wait()


@contextlib.contextmanager
def running(options: LaunchOptions, stop: Stop) -> Iterator[Daemon]:
    """A daemon that runs as long as the context: connected, synced, mounted. Raises what stands in the way, and Stopped
    where the end is wished before it is ready."""
    mountpoints.check_fuse(options.mount_options.allow_other)
    _allow_many_files()
    with ExitStack() as stack:
        try:
            daemon = _start(stack, options, stop)
        except RunicornFSError:
            stop.check()  # what was cut short fails in some way of its own
            raise
        print(f"mounted {options.source.text} on {options.mountpoint}", flush=True)
        yield daemon


def _start(stack: ExitStack, options: LaunchOptions, stop: Stop) -> Daemon:
    mountpoints.prepare(options.mountpoint)  # before anything that takes long: a mistake here is the commonest
    store = options.source.store
    if isinstance(store, LocalSource):
        workspace = _local(stack, options, store)
    else:
        workspace = _remote(stack, options, store, stop)
    api = None
    if options.api is not None:
        server = ApiServer(create_app(workspace), options.api)
        stack.callback(server.close)
        api = server.url
        print(f"control API on {api}", file=sys.stderr)
    _first_sync(workspace, stop)
    mount = workspace.mount(options.mountpoint, options.mount_options)
    stack.callback(mount.stop)
    record = DaemonRecord(api, workspace.source, [str(mount.mountpoint)])
    stack.callback(record.close)
    return Daemon(workspace, mount, api, stop)


def _remote(stack: ExitStack, options: LaunchOptions, source: RemoteSource, stop: Stop) -> Workspace:
    if options.port is not None and source.port not in (None, options.port):
        raise InvalidInput(f"the source names port {source.port} and --port names {options.port}")
    host = resolve_host(
        RemoteSource(source.host, source.root, source.user, options.port or source.port),
        config_file=options.ssh_config,
        known_hosts=options.known_hosts,
    )
    server = Server(
        host, source.root, Credentials(identity_files=options.identities), confirm=_confirm(options.accept_host_key)
    )
    stack.callback(server.close)
    stop.on_request(server.close)
    server.connect()
    server.verify_store()
    # The folder is named after the machine, not after an alias that may come to mean another one; and made only now, so
    # that a mistyped source leaves none.
    identity: dict[str, object] = {
        "host": host.hostname,
        "port": host.port,
        "user": host.user,
        "root": source.root,
    }
    folder = StoreFolder(options.cache_dir, f"{host.hostname}_{host.user}", identity)
    stack.callback(folder.close)
    catalog = Catalog.open(folder.index)
    stack.callback(catalog.close)
    min_free = default_min_free(folder.path) if options.min_free is None else options.min_free
    contents = ContentCache(folder.content, server, options.cache_size, min_free)
    stack.callback(contents.close)
    scan = partial(scan_server, server, source.root)
    workspace = _workspace(stack, options.source.text, folder, catalog, contents, scan, options, server)
    contents.on_dropped(lambda key: workspace.content_dropped(catalog.paths_of(bytes.fromhex(key))))
    return workspace


def _local(stack: ExitStack, options: LaunchOptions, source: LocalSource) -> Workspace:
    root = source.root.resolve()
    check_folder(root)
    folder = StoreFolder(options.cache_dir, f"local_{root.name}", {"local": str(root)})
    stack.callback(folder.close)
    catalog = Catalog.open(folder.index)
    stack.callback(catalog.close)
    contents = LocalContents(root)
    scan = partial(scan_folder, str(root))
    return _workspace(stack, str(root), folder, catalog, contents, scan, options, local_root=root)


def _workspace(
    stack: ExitStack,
    source: str,
    folder: StoreFolder,
    catalog: Catalog,
    contents: Contents,
    scan: Scan,
    options: LaunchOptions,
    server: Server | None = None,
    local_root: Path | None = None,
) -> Workspace:
    def announce(changes: Changes) -> None:
        workspace.announce(changes)

    export = MetadataExport(folder.metadata, catalog.document)
    syncer = Syncer(catalog, scan, export, announce)
    stack.callback(syncer.join)
    if server is not None:
        stack.callback(server.close)  # a sync that waits for the line ends with the line
    stack.callback(syncer.cancel)
    workspace = Workspace(source, folder.path, catalog, contents, syncer, server=server, local_root=local_root)
    if options.sync_interval:
        syncer.every(options.sync_interval)
    return workspace


def _allow_many_files() -> None:
    """A file that a program has open in the mount costs us a descriptor; 1,024, the usual limit, is soon reached."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _first_sync(workspace: Workspace, stop: Stop) -> None:
    """Returns when the catalog shows the store; the export to `metadata/` goes on behind it."""
    display = SyncDisplay()
    run = workspace.sync()
    while not run.committed.wait(POLL_S):
        stop.check()
        display.show(workspace.status().sync_progress)
    run.wait(run.committed)
    display.finish(workspace.status().sync_progress)
    for problem in workspace.problems():
        print(f"warning: {problem}", file=sys.stderr)


def _confirm(fingerprint: str | None) -> Confirm | None:
    """How an unknown host key is decided on: by the fingerprint that was named, else by the person at the terminal."""
    if fingerprint is not None:
        return accept_fingerprint(fingerprint)
    if sys.stdin.isatty() and sys.stderr.isatty():
        return _ask
    return None


def _ask(unknown: UnknownHostKey) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False  # a reconnection in the background: nobody expects a question now
    with interruptible():
        return click.confirm(
            f"The host {unknown.host} is not known. Its {unknown.key_type} key has the fingerprint\n"
            f"  {unknown.fingerprint}\nIs it the right one, and shall it be added to known_hosts?",
            err=True,
        )

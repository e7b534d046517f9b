"""Which store is in use, and the line to its server: connecting, disconnecting, and remote or local.

A store that was opened stays open until the end, without a connection once another one is in use: what programs have
open of it keeps its bytes, and coming back to it costs nothing. Before there is any store, an empty one is in use.

`_changing` is held while any of that changes, also while a server is waited for. `store` and `mode` are replaced under
it and read without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runicornfs.errors import Conflict, Interrupted, Refused
from runicornfs.remote.address import RemoteSource, check_root
from runicornfs.remote.bulk import Transport
from runicornfs.remote.hostkeys import Confirm
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import Server
from runicornfs.remote.sshconfig import resolve_host
from runicornfs.workspace.opened import OpenedStore
from runicornfs.workspace.opening import Keeping, open_latest, open_local, open_nothing, open_remote

LOCAL, REMOTE = "local", "remote"
# Seconds that somebody who wants to connect waits for another who does: as long as a server may take that is silent
# both at the login and then.
TURN_S = 30.0


@dataclass(frozen=True)
class SshFiles:
    """What ssh's own files say about hosts; None: the usual ones."""

    config: Path | None = None
    known_hosts: Path | None = None


@dataclass(frozen=True)
class Access:
    """How to reach a store on a server. `source` is what a person called it."""

    source: str
    store: RemoteSource
    credentials: Credentials = field(repr=False)
    confirm: Confirm | None = None
    sync_interval: float = 0.0  # seconds; 0: only on demand
    transport: Transport = "auto"


class Connection:
    """Thread-safe. `opened` hears of every store that is opened, `shown` of every one that is in use from now on."""

    def __init__(
        self,
        keeping: Keeping,
        ssh: SshFiles,
        opened: Callable[[OpenedStore], None],
        shown: Callable[[OpenedStore], None],
    ) -> None:
        self._keeping = keeping
        self._ssh = ssh
        self._opened = opened
        self._shown = shown
        self._changing = threading.Lock()
        self._stack = ExitStack()
        self._remotes: dict[tuple[str, int, str, str], OpenedStore] = {}
        self._local: OpenedStore | None = None
        self._remote: OpenedStore | None = None
        self._attempt: Server | None = None  # which is being connected
        self._ending = False  # the program: whoever waits for its turn to connect gives up
        self.mode = LOCAL
        self.store = self._keep(open_nothing())

    @property
    def connecting(self) -> bool:
        """Whether a server is waited for."""
        return self._attempt is not None

    @property
    def local_root(self) -> Path | None:
        """The store of this machine, if one was named."""
        return None if self._local is None else self._local.local_root

    @property
    def remote_available(self) -> bool:
        """Whether there is a remote store to switch to, connected or not."""
        return self._remote is not None

    @property
    def remote_connected(self) -> bool:
        remote = self._remote
        return remote is not None and remote.upkeep.state().connected

    def connect(self, access: Access, offline: bool = False) -> OpenedStore:
        """Opens the store there, connected unless `offline`, and uses it. The one before stays if this fails.

        Raises ServerErrors, Refused, Interrupted, and Conflict while others are being connected all the time.
        """
        host = resolve_host(access.store, config_file=self._ssh.config, known_hosts=self._ssh.known_hosts)
        key = (host.hostname, host.port, host.user, check_root(access.store.root))
        with self._turn():
            store = self._remotes.get(key)
            if store is None:
                server = self._attempt = Server(
                    host,
                    access.store.root,
                    access.credentials,
                    confirm=access.confirm,
                    transport=access.transport,
                )
                try:
                    store = open_remote(access.source, host, server, self._keeping, offline)
                except BaseException:
                    server.close()
                    raise
                finally:
                    self._attempt = None
                self._remotes[key] = self._keep(store)
            elif store.server is not None and store.folder.owned and not offline:
                self._attempt = store.server
                try:
                    store.server.log_in_as(host, access.credentials, access.confirm)
                    store.server.connect()
                    store.server.verify_store()
                finally:
                    self._attempt = None
            if not offline:
                store.go_online(access.sync_interval)
            before, self._remote = self._remote, store
            self._use(store, REMOTE)
        if before is not None and before is not store:
            before.go_offline()
        return store

    def disconnect(self) -> str:
        """Ends the connection, or the attempt at one; what was synced and cached stays. Returns the mode from now on.

        Raises Refused where there is none, or where another process keeps it.
        """
        if self._end_attempt():
            with self._changing:  # when it has ended
                return self.mode
        with self._changing:
            if self._remote is None:
                raise Refused("no server is connected")
            if not self._remote.folder.owned:
                raise Refused(
                    f"the connection is kept by another runicornfs (process {self._remote.folder.owner}): disconnect it"
                    " there"
                )
            self._remote.go_offline()
            if self._local is not None:
                self._use(self._local, LOCAL)
        return self.mode

    def use_local(self, root: Path) -> OpenedStore:
        """Uses the store of this machine in `root`. Raises StoreUnusable and Refused."""
        with self._changing:
            self._local = self._keep(open_local(root, self._keeping))
            self._use(self._local, LOCAL)
            return self._local

    def switch(self, mode: str) -> None:
        """`local` or `remote`: the store that was connected last, also by an earlier process, and then offline.

        Raises Refused where there is no such store.
        """
        with self._changing:
            if mode == REMOTE and self._remote is None:
                self._remember()
            store = self._local if mode == LOCAL else self._remote
            if store is None and mode == LOCAL:
                raise Refused("there is no store of this machine to switch to: name it with --store at the start")
            if store is None:
                raise Refused("there is no remote store to switch to: connect to one first")
            self._use(store, mode)

    def interrupt(self) -> None:
        """Ends every wait for a server, and connects to none any more; for the end of the program."""
        self._ending = True
        self._end_attempt()
        for store in list(self._remotes.values()):
            store.interrupt()

    def close(self) -> None:
        """Closes all stores. Nothing may use them any more."""
        self.interrupt()
        with self._changing:
            self._stack.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Holds the lock, for which nobody waits longer than an attempt to connect takes."""
        if not self._changing.acquire(timeout=TURN_S):
            raise Conflict("another server is being connected: try again when that has ended, or disconnect first")
        try:
            if self._ending:
                raise Interrupted("the program is ending: no server is connected any more")
            yield
        finally:
            self._changing.release()

    def _remember(self) -> None:
        """Opens what an earlier process has synced. Under the lock."""
        store = open_latest(self._keeping)
        if store is not None and store.server is not None:
            server = store.server.address
            self._remotes[server.host, server.port, server.user, server.root] = self._keep(store)
            self._remote = store

    def _end_attempt(self) -> bool:
        attempt = self._attempt
        if attempt is None:
            return False
        attempt.close()
        return True

    def _keep(self, store: OpenedStore) -> OpenedStore:
        self._stack.callback(store.close)
        self._opened(store)
        return store

    def _use(self, store: OpenedStore, mode: str) -> None:
        """Under the lock."""
        self.mode = mode
        if store is not self.store:
            self.store = store
            self._shown(store)

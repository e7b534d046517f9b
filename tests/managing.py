"""Stores that tests edit, in each of the ways there are: on this disk, by the program on a server, over SFTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from runicornfs.catalog.catalog import Catalog
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.manage.editors import Editor, LocalEditor, ServerEditor
from runicornfs.manage.manager import Manager
from runicornfs.remote.scan import scan_folder, scan_store
from runicornfs.remote.server import Server
from runicornfs.sync.export import MetadataExport
from runicornfs.sync.syncer import Scan, Syncer
from tests.remotes import server_at

WAYS = ("local", "program", "sftp")
# What makes a server one without programs.
SFTP_ONLY = ["ForceCommand internal-sftp"]


class Managed:
    """A store with its catalog, synced once, and what edits it."""

    def __init__(self, folder: Path, scan: Scan, editor: Editor, server: Server | None = None) -> None:
        folder.mkdir(parents=True)
        self.server = server
        self.catalog = Catalog.open(folder / "index.db")
        self.syncer = Syncer(self.catalog, scan, MetadataExport(folder / "metadata", self.catalog.document))
        self.manager = Manager(self.catalog, editor, self.syncer.export, self.syncer.owe)
        if server is not None:
            server.on_state(lambda state: self.syncer.reached() if state == "connected" else None)

    def sync(self) -> None:
        run = self.syncer.start()
        run.wait(run.finished, 30)

    def edit(self, action: str, version: int = 0, artifact: str = "artifacts/model/net", **more: Any) -> list[str]:
        return self.manager.edit(artifact, {"action": action, "version": version, **more})

    def versions(self, name: str = "net") -> list[int]:
        """Those that are shown."""
        return [version.version for version in self.catalog.artifacts.versions(self.catalog.artifacts.find(name))]

    def aliases(self, name: str = "net") -> dict[str, int]:
        """Those that are shown."""
        return {alias: version for found in self.catalog.artifacts.all() if found.name == name
                for alias, version in found.aliases.items()}  # fmt: skip

    def is_connected(self) -> bool:
        return self.server is None or self.server.state == "connected"

    def close(self) -> None:
        self.syncer.cancel()
        self.syncer.join()
        self.catalog.close()


@contextmanager
def managed(
    way: str, folder: Path, root: Path, sshd: PrivateSshd | None = None, port: int | None = None
) -> Iterator[Managed]:
    """The store at `root`, edited in one of WAYS; `sshd` is a server of the kind that the way needs, `port` that of a
    relay before it."""
    with ExitStack() as stack:
        if way == "local":
            store = Managed(folder, lambda known: scan_folder(str(root), known), LocalEditor(str(root)))
        else:
            assert sshd is not None
            server = stack.enter_context(server_at(sshd, root, port=port))
            store = Managed(folder, lambda known: scan_store(server, str(root), known), ServerEditor(server), server)
        stack.callback(store.close)
        store.sync()
        yield store

"""Downloads without a network: a store on this disk, its catalog, a cache that fetches from it, and the tasks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from runicornfs.catalog.artifacts import ArtifactRef
from runicornfs.catalog.catalog import Catalog
from runicornfs.content.cache import ContentCache
from runicornfs.content.contents import Contents
from runicornfs.content.local import LocalContents
from runicornfs.demo.samplestore import StoreWriter
from runicornfs.downloads.records import ACTIVE, Download
from runicornfs.downloads.selection import WantedFile, select
from runicornfs.downloads.tasks import DownloadTasks
from tests.fake_transfers import FakeTransfers
from tests.unit.observing import apply, observe
from tests.waiting import wait_until

NET = "artifacts/model/net/v1/files"


class World:
    """Everything of it is in `folder`; at the end all is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = StoreWriter(folder / "server")
        self.transfers = FakeTransfers(folder / "server")
        self.own = folder / "own"
        self.own.mkdir(parents=True)
        self._stack = ExitStack()
        self.catalog = Catalog.open(self.own / "index.db")
        self._stack.callback(self.catalog.close)
        self.cache: ContentCache
        self.tasks: DownloadTasks

    def __enter__(self) -> World:
        return self

    def __exit__(self, *reason: object) -> None:
        self.transfers.release()
        self._stack.close()

    def add(self, files: dict[str, bytes], type: str = "model", name: str = "net") -> ArtifactRef:
        """A new version, synced."""
        self.store.add_version(type, name, files)
        apply(self.catalog, *observe(self.store.root))
        return self.catalog.artifacts.find(name, type)

    def open(self, limit: int = 1 << 40) -> DownloadTasks:
        """What a process makes when it starts."""
        self.cache = ContentCache(self.own / "content", self.transfers, limit, 0)
        self._stack.callback(self.cache.close)
        return self.over(self.cache)

    def open_local(self) -> DownloadTasks:
        return self.over(LocalContents(self.store.root))

    def over(self, contents: Contents) -> DownloadTasks:
        self.tasks = DownloadTasks(self.own, self.catalog, contents)
        self._stack.callback(self.tasks.close)
        return self.tasks

    def end(self) -> None:
        """What a process does when it ends."""
        self.tasks.close()
        self.cache.close()

    def download(self, ref: ArtifactRef, version: int = 1, **how: object) -> Download:
        """One download, until it has ended."""
        started, _ = self.tasks.download(ref, version, **how)  # type: ignore[arg-type]
        return self.ended(started)

    def ended(self, download: Download) -> Download:
        task_id = download.order.task_id
        wait_until(lambda: self.tasks.get(task_id).status not in ACTIVE, f"the end of {download.order.artifact}")
        return self.tasks.get(task_id)


def files_in(folder: Path | str) -> dict[str, bytes]:
    """Every file below a folder, hidden ones as well."""
    top = Path(folder)
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def files_of(world: World, ref: ArtifactRef) -> list[WantedFile]:
    """The files of version 1, as a task sees them."""
    return select(world.catalog, ref, 1).files

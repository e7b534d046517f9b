"""Where the versions of the store in use come from and what became of them, from its catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runicornfs.catalog.artifacts import ArtifactRef
from runicornfs.errors import InvalidInput
from runicornfs.store.lineage import LineageGraph

if TYPE_CHECKING:
    from runicornfs.workspace.workspace import Workspace

# Steps from versions over runs to versions; as Runicorn has them.
DEPTH = 3
DEPTH_LIMIT = 10


class Lineage:
    """Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def of(self, artifact: ArtifactRef, version: int, max_depth: int = DEPTH) -> LineageGraph:
        """The graph around a version: see `store.lineage`. Raises InvalidInput."""
        if not 1 <= max_depth <= DEPTH_LIMIT:
            raise InvalidInput(f"max_depth takes 1 to {DEPTH_LIMIT}")
        return self._workspace.store.catalog.lineage.of(artifact.type, artifact.name, version, max_depth)

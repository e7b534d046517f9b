"""Versions are deleted and restored, aliases set and removed, tags added and removed: where the store in use lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runicornfs.catalog.artifacts import ArtifactRef
from runicornfs.errors import Refused
from runicornfs.manage.editors import Edit
from runicornfs.store import edits
from runicornfs.store.paths import printable, shown

if TYPE_CHECKING:
    from runicornfs.workspace.workspace import Workspace


class Managing:
    """Thread-safe. Every method changes the store and touches the network; what it returns is one sentence that says
    what was done and where. The change shows in lists and mounts when it returns.

    Raises NotFound and AmbiguousName for the name, InvalidInput for an alias or tag that cannot be one, Conflict where
    the version's state or another program stands in the way, Refused where the server is not connected, ServerErrors.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @property
    def where(self) -> str:
        """Where a change is made now."""
        return "locally" if self._workspace.store.mode == "local" else "on remote server"

    def delete(self, name: str, version: int, type: str | None = None, permanent: bool = False) -> str:
        """Softly: the version goes from every list and can be restored. For good: its files are removed, and no other
        version ever gets its number."""
        action = edits.DELETE_FOR_GOOD if permanent else edits.DELETE
        done = "Permanently deleted" if permanent else "Soft deleted"
        return self._edit_version(done, name, version, type, {"action": action})

    def restore(self, name: str, version: int, type: str | None = None) -> str:
        """Takes back a soft delete."""
        return self._edit_version("Restored", name, version, type, {"action": edits.RESTORE})

    def set_alias(self, name: str, version: int, alias: str, type: str | None = None) -> str:
        """An alias that stands elsewhere moves."""
        edit = {"action": edits.SET_ALIAS, "alias": alias}
        return self._edit_version(f"Set alias {shown(alias)} to", name, version, type, edit)

    def remove_alias(self, name: str, alias: str, type: str | None = None) -> str:
        artifact = self._workspace.artifacts.find(name, type)
        edit = {"action": edits.REMOVE_ALIAS, "version": 0, "alias": alias}
        return self._edit(f"Removed alias {shown(alias)} of {printable(artifact.name)}", artifact, edit)

    def add_tags(self, name: str, version: int, tags: list[str], type: str | None = None) -> str:
        edit = {"action": edits.ADD_TAGS, "tags": tags}
        return self._edit_version(f"Added {_tags(tags)} to", name, version, type, edit)

    def remove_tags(self, name: str, version: int, tags: list[str], type: str | None = None) -> str:
        edit = {"action": edits.REMOVE_TAGS, "tags": tags}
        return self._edit_version(f"Removed {_tags(tags)} from", name, version, type, edit)

    def _edit_version(self, done: str, name: str, version: int, type: str | None, edit: Edit) -> str:
        artifact = self._workspace.artifacts.find(name, type, version)
        return self._edit(f"{done} {printable(artifact.name)}:v{version}", artifact, edit | {"version": version})

    def _edit(self, done: str, artifact: ArtifactRef, edit: Edit) -> str:
        store = self._workspace.store
        where = self.where
        now = store.upkeep.state()
        if not now.connected:
            raise Refused(f"this is done on the server, which is not connected: {now.advice}")
        notes = store.upkeep.edit(artifact.path, edit)
        store.catalog.catch_up()  # the edit may have been made by the process that owns the cache folder
        return "; ".join([f"{done} {where}", *notes])


def _tags(tags: list[str]) -> str:
    return f"tag {shown(tags[0])}" if len(tags) == 1 else f"{len(tags)} tags"

"""Where a version comes from and what became of it, from the catalog alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runicornfs.api.calls import NAMED, Asked, Call, call
from runicornfs.api.requests import OfVersion
from runicornfs.store.lineage import LineageGraph
from runicornfs.workspace.lineage import DEPTH, DEPTH_LIMIT


class LineageParameters(OfVersion):
    """`max_depth`: steps from versions over runs to versions."""

    max_depth: Annotated[int, Field(ge=1, le=DEPTH_LIMIT)] = DEPTH


def calls() -> list[Call]:
    path = "/api/artifacts/{name}/v{version:digits}/lineage"
    return [call("GET", path, lineage, parameters=LineageParameters, answers=LineageGraph, refusals=NAMED)]


def lineage(asked: Asked[LineageParameters, None]) -> LineageGraph:
    """Draws the graph around a version: the runs that produced and used it, and theirs."""
    wanted, workspace = asked.parameters, asked.workspace
    artifact = workspace.artifacts.find(wanted.name, wanted.type, wanted.version)
    return workspace.lineage.of(artifact, wanted.version, wanted.max_depth)

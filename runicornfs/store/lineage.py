"""Where a version comes from and what became of it: the graph of versions and runs, from plain records. Pure.

Edges point the way the data went: from a version to the run that *uses* it, from a run to the version that it
*produces*. From the version that is asked for, the walk goes up (the runs that produced it, what those used, and so on)
and down (the runs that used it, what those produced, …), and never turns: what else a producing run produced is not
shown. One step of `max_depth` is from versions over runs to versions.

What is named but not there is a node all the same. `metadata.state` of a node says which it is: `present`, `deleted`
(softly, or for good with its entry kept) or `missing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, NamedTuple, Protocol, TypeVar

# More than a person can look at; a hostile store could otherwise ask for millions.
NODE_LIMIT = 1000
EDGE_LIMIT = 5000


class Version(NamedTuple):
    """One version of one artifact, there or not."""

    type: str
    name: str
    version: int


class Run(NamedTuple):
    """One run by its id and its folder in the store, which is "" for a run that is not there."""

    id: str
    path: str


Place = TypeVar("Place", Version, Run)


class Link(NamedTuple):
    """A run used or produced a version; `at` in seconds since 1970."""

    run: Run
    version: Version
    at: float


class Records(Protocol):
    """What is known. Each method answers for all that it is asked for at once, with at most EDGE_LIMIT + 1 links."""

    def producing(self, versions: Sequence[Version]) -> list[Link]:
        """By which runs these versions were produced."""
        ...

    def using(self, versions: Sequence[Version]) -> list[Link]:
        """By which runs these versions were used."""
        ...

    def produced(self, runs: Sequence[Run]) -> list[Link]:
        """What these runs produced."""
        ...

    def used(self, runs: Sequence[Run]) -> list[Link]:
        """What these runs used."""
        ...

    def about(self, versions: Sequence[Version], runs: Sequence[Run]) -> dict[Version | Run, dict[str, Any]]:
        """Metadata of those that are known, `state` among it."""
        ...


@dataclass(frozen=True, slots=True)
class LineageNode:
    """`node_id` is `NAME:vN` or `run:ID`. Where that is taken in this graph (a name under two types, a run's id in two
    projects) the nearest to the root has it, the others are `TYPE/NAME:vN` and `run:` with the run's folder."""

    node_type: str  # artifact, run
    node_id: str
    label: str
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """`created_at` in seconds since 1970: when the run used or produced the version."""

    source: str
    target: str
    edge_type: str  # uses: version to run; produces: run to version
    created_at: float


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """`root_artifact` is a node's id. `metadata`: `max_depth`, and `truncated` where the limits cut something off."""

    root_artifact: str
    nodes: list[LineageNode]
    edges: list[LineageEdge]
    metadata: dict[str, Any]


def lineage_of(root: Version, records: Records, max_depth: int) -> LineageGraph:
    """The graph around `root`: ancestors before descendants, nearest first, then newest; always the same."""
    walk = _Walk(root)
    walk.follow(records.producing, "produces", records.used, "uses", max_depth)
    walk.follow(records.using, "uses", records.produced, "produces", max_depth)
    versions = [node for node in walk.nodes if isinstance(node, Version)]
    runs = [node for node in walk.nodes if isinstance(node, Run)]
    about = records.about(versions, runs)
    ids = _identifiers(walk.nodes)
    edges = []
    for (run, version, edge_type), at in walk.edges.items():
        source, target = (version, run) if edge_type == "uses" else (run, version)
        edges.append(LineageEdge(ids[source], ids[target], edge_type, at))
    return LineageGraph(
        root_artifact=ids[root],
        nodes=[_node(node, ids[node], about.get(node, {"state": "missing"})) for node in walk.nodes],
        edges=edges,
        metadata={"max_depth": max_depth, "truncated": walk.truncated},
    )


class _Walk:
    """What was met so far, in the order in which it was met."""

    def __init__(self, root: Version) -> None:
        self.nodes: dict[Version | Run, None] = {root: None}
        self.edges: dict[tuple[Run, Version, str], float] = {}
        self.truncated = False
        self._root = root

    def follow(
        self,
        runs_of: Callable[[Sequence[Version]], list[Link]],
        to_run: str,
        versions_of: Callable[[Sequence[Run]], list[Link]],
        to_version: str,
        max_depth: int,
    ) -> None:
        """Goes in one direction, each version and run once: so it ends in a cycle, too."""
        versions = [self._root]
        seen: set[Version | Run] = {self._root}
        for _ in range(max_depth):
            runs = _new((link.run for link in self._kept(runs_of(versions), to_run)), seen)
            if not runs:
                return
            versions = _new((link.version for link in self._kept(versions_of(runs), to_version)), seen)
            if not versions:
                return

    def _kept(self, links: list[Link], edge_type: str) -> list[Link]:
        """Adds the links as edges, newest first, with the nodes at both ends; returns those there was room for."""
        kept = []
        self.truncated |= len(links) > EDGE_LIMIT
        for link in sorted(links, key=lambda link: (-link.at, link)):
            edge = (link.run, link.version, edge_type)
            if edge not in self.edges:
                ends: list[Version | Run] = [link.run, link.version]
                missing = [end for end in ends if end not in self.nodes]
                if len(self.nodes) + len(missing) > NODE_LIMIT or len(self.edges) >= EDGE_LIMIT:
                    self.truncated = True
                    continue
                self.nodes.update(dict.fromkeys(missing))
                self.edges[edge] = link.at
            kept.append(link)
        return kept


def _new(found: Iterable[Place], seen: set[Version | Run]) -> list[Place]:
    """What was not seen before, once each, in its order."""
    fresh = [node for node in dict.fromkeys(found) if node not in seen]
    seen.update(fresh)
    return fresh


def _identifiers(nodes: Iterable[Version | Run]) -> dict[Version | Run, str]:
    taken: set[str] = set()
    ids = {}
    for node in nodes:
        if isinstance(node, Version):
            short = f"{node.name}:v{node.version}"
            names = (short, f"{node.type}/{short}")
        else:
            names = (f"run:{node.id}", f"run:{node.path}")
        # The last resort is for names that were made to be mistaken for others.
        tries = chain(names, (f"{names[1]}#{number}" for number in count(2)))
        ids[node] = next(name for name in tries if name not in taken)
        taken.add(ids[node])
    return ids


def _node(node: Version | Run, node_id: str, about: dict[str, Any]) -> LineageNode:
    if isinstance(node, Version):
        facts = {"name": node.name, "type": node.type, "version": node.version}
        return LineageNode("artifact", node_id, f"{node.name} v{node.version}", facts | about)
    return LineageNode("run", node_id, f"Run {node.id}", {"run_id": node.id} | about)

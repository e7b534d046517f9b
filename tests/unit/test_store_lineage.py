"""The graph of versions and runs, from records that are made up here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from runicornfs.store import lineage
from runicornfs.store.lineage import LineageGraph, Link, Run, Version, lineage_of

DATA = Version("dataset", "signs", 1)
NET = Version("model", "net", 1)
SMALL = Version("model", "net-small", 1)
PREPARE = Run("prepare", "vision/prep/runs/prepare")
TRAIN = Run("train", "vision/train/runs/train")
EXPORT = Run("export", "vision/export/runs/export")


class Notes:
    """Who produced and who used what; everything is there, but for what `gone` names."""

    def __init__(self, *notes: tuple[Run, str, Version], gone: Sequence[Version | Run] = ()) -> None:
        self._notes = [(Link(run, version, float(at)), word) for at, (run, word, version) in enumerate(notes)]
        self._gone = gone
        self.asked = 0

    def producing(self, versions: Sequence[Version]) -> list[Link]:
        return self._found("produces", versions)

    def using(self, versions: Sequence[Version]) -> list[Link]:
        return self._found("uses", versions)

    def produced(self, runs: Sequence[Run]) -> list[Link]:
        return self._found("produces", runs)

    def used(self, runs: Sequence[Run]) -> list[Link]:
        return self._found("uses", runs)

    def about(self, versions: Sequence[Version], runs: Sequence[Run]) -> dict[Version | Run, dict[str, Any]]:
        nodes: list[Version | Run] = [*versions]
        nodes += runs
        return {node: {"state": "present"} for node in nodes if node not in self._gone}

    def _found(self, word: str, ends: Sequence[Version] | Sequence[Run]) -> list[Link]:
        self.asked += 1
        return [link for link, said in self._notes if said == word and (link.run in ends or link.version in ends)]


LINE = ((PREPARE, "produces", DATA), (TRAIN, "uses", DATA), (TRAIN, "produces", NET), (EXPORT, "uses", NET),
        (EXPORT, "produces", SMALL))  # fmt: skip


def arrows(graph: LineageGraph) -> set[str]:
    return {f"{edge.source} {edge.edge_type} {edge.target}" for edge in graph.edges}


def ids(graph: LineageGraph) -> list[str]:
    return [node.node_id for node in graph.nodes]


def test_edges_point_the_way_the_data_went() -> None:
    graph = lineage_of(NET, Notes(*LINE), max_depth=3)
    assert graph.root_artifact == "net:v1"
    assert arrows(graph) == {
        "run:prepare produces signs:v1",
        "signs:v1 uses run:train",
        "run:train produces net:v1",
        "net:v1 uses run:export",
        "run:export produces net-small:v1",
    }
    assert [(edge.target, edge.created_at) for edge in graph.edges if edge.edge_type == "produces"] == [
        ("net:v1", 2.0),
        ("signs:v1", 0.0),
        ("net-small:v1", 4.0),
    ]


def test_nodes_stand_nearest_first_and_ancestors_before_descendants() -> None:
    graph = lineage_of(NET, Notes(*LINE), max_depth=3)
    assert ids(graph) == ["net:v1", "run:train", "signs:v1", "run:prepare", "run:export", "net-small:v1"]
    assert [node.node_type for node in graph.nodes[:2]] == ["artifact", "run"]
    assert [node.label for node in graph.nodes[:2]] == ["net v1", "Run train"]
    assert graph.nodes[0].metadata == {"name": "net", "type": "model", "version": 1, "state": "present"}


def test_a_step_goes_from_versions_over_runs_to_versions() -> None:
    assert ids(lineage_of(NET, Notes(*LINE), max_depth=1)) == [
        "net:v1",
        "run:train",
        "signs:v1",
        "run:export",
        "net-small:v1",
    ]
    assert ids(lineage_of(DATA, Notes(*LINE), max_depth=1)) == ["signs:v1", "run:prepare", "run:train", "net:v1"]


def test_what_else_a_producing_run_produced_is_not_shown() -> None:
    other = Version("model", "other", 1)
    graph = lineage_of(NET, Notes(*LINE, (TRAIN, "produces", other)), max_depth=3)
    assert "other:v1" not in ids(graph)


def test_a_cycle_ends() -> None:
    notes = Notes((TRAIN, "uses", NET), (TRAIN, "produces", NET))
    graph = lineage_of(NET, notes, max_depth=10)
    assert ids(graph) == ["net:v1", "run:train"]
    assert arrows(graph) == {"net:v1 uses run:train", "run:train produces net:v1"}
    assert notes.asked == 4


def test_two_ways_to_one_version_make_one_node() -> None:
    second = Run("second", "vision/train/runs/second")
    notes = Notes((TRAIN, "produces", NET), (second, "produces", NET), (TRAIN, "uses", DATA), (second, "uses", DATA))
    graph = lineage_of(NET, notes, max_depth=3)
    assert sorted(ids(graph)) == ["net:v1", "run:second", "run:train", "signs:v1"]
    assert len(graph.edges) == 4


def test_what_is_not_there_is_a_node_that_says_so() -> None:
    graph = lineage_of(NET, Notes(*LINE, gone=[DATA, TRAIN]), max_depth=3)
    states = {node.node_id: node.metadata["state"] for node in graph.nodes}
    assert states["signs:v1"] == states["run:train"] == "missing"
    assert states["run:prepare"] == "present", "the walk goes through what is missing"


def test_names_that_several_share_become_longer_the_further_away() -> None:
    settings = Version("config", "net", 1)
    copy = Run("train", "copies/train/runs/train")
    notes = Notes((TRAIN, "produces", NET), (TRAIN, "uses", settings), (copy, "uses", NET))
    graph = lineage_of(NET, notes, max_depth=3)
    assert ids(graph) == ["net:v1", "run:train", "config/net:v1", "run:copies/train/runs/train"]
    assert len(arrows(graph)) == 3


def test_names_made_to_be_mistaken_for_others_are_told_apart() -> None:
    posing = Version("model", "run:train", 1)
    run = Run("train:v1", "model/run:train:v1")
    graph = lineage_of(posing, Notes((run, "uses", posing), (Run("train:v1", ""), "uses", posing)), max_depth=3)
    assert len(set(ids(graph))) == 3


def test_the_same_records_make_the_same_graph_in_any_order() -> None:
    links = [Link(Run(f"r{n}", f"p/n/runs/r{n}"), NET, float(n // 5)) for n in range(20)]

    class Given(Notes):
        def __init__(self, links: list[Link]) -> None:
            super().__init__()
            self._links = links

        def using(self, versions: Sequence[Version]) -> list[Link]:
            return self._links

    assert lineage_of(NET, Given(links), 3) == lineage_of(NET, Given(links[::-1]), 3)


def test_a_graph_has_no_more_nodes_than_the_limit_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "NODE_LIMIT", 5)
    fan = [(Run(f"r{n}", f"p/n/runs/r{n}"), "uses", NET) for n in range(20)]
    graph = lineage_of(NET, Notes(*fan), max_depth=3)
    assert ids(graph) == ["net:v1", "run:r19", "run:r18", "run:r17", "run:r16"], "the newest are kept"
    assert graph.metadata == {"max_depth": 3, "truncated": True}
    known = set(ids(graph))
    assert all(edge.source in known and edge.target in known for edge in graph.edges)


def test_a_graph_has_no_more_edges_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "EDGE_LIMIT", 3)
    graph = lineage_of(NET, Notes(*LINE), max_depth=3)
    assert len(graph.edges) == 3
    assert graph.metadata["truncated"]


def test_a_whole_graph_is_not_called_truncated() -> None:
    assert lineage_of(NET, Notes(*LINE), max_depth=3).metadata == {"max_depth": 3, "truncated": False}

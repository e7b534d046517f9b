"""Runs, projects and lineage, as the catalog has them after a sync: the SDK's own sample, and stores that are odder."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runicornfs.catalog import database
from runicornfs.catalog.catalog import Catalog
from runicornfs.catalog.runs import LISTED_SUMMARY
from runicornfs.errors import NotFound
from runicornfs.store.lineage import LineageGraph
from runicornfs.store.observed import Observed
from tests.unit.observing import a_version, apply, directory, document, index, observe, plain_file

RUN = "vision/train/runs/r1"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(tmp_path / "index.db")
    yield catalog
    catalog.close()


def a_run(folder: str = RUN, **records: Any) -> list[Observed]:
    """A run's folder with these records; `created` and `used` are lists of (type, name, version)."""
    found = [directory(folder)]
    for name, content in records.items():
        if name in ("created", "used"):
            content = {"artifacts": [{"type": kind, "name": name, "version": n} for kind, name, n in content]}
            found.append(document(f"{folder}/artifacts_{name}.json", content))
        else:
            found.append(document(f"{folder}/{name}.json", content))
    return found


def a_model(name: str, run: str | None = None, type: str = "model") -> list[Observed]:
    """An artifact with one version, which says that this run made it."""
    folder = f"artifacts/{type}/{name}"
    record = index({1: "ready"})
    record["versions"][0] |= {"created_by_run": run, "created_at": 7.0}
    return [document(f"{folder}/versions.json", record), *a_version(f"{folder}/v1")]


def arrows(graph: LineageGraph) -> set[str]:
    return {f"{edge.source} {edge.edge_type} {edge.target}" for edge in graph.edges}


def states(graph: LineageGraph) -> dict[str, str]:
    return {node.node_id: node.metadata["state"] for node in graph.nodes}


def test_the_samples_runs_are_what_their_records_say(catalog: Catalog, sample_store: Path) -> None:
    assert apply(catalog, *observe(sample_store)).problems == []
    runs = catalog.runs.select()
    assert len(runs) == 8
    assert [run.created_at for run in runs] == sorted((run.created_at for run in runs), reverse=True)
    for run in runs:
        folder = sample_store / run.path
        meta = json.loads((folder / "meta.json").read_text())
        status = json.loads((folder / "status.json").read_text())
        assert (run.id, run.project, run.name) == (meta["id"], meta["project"], meta["name"])
        assert (run.created_at, run.pid) == (meta["created_at"], meta["pid"])
        assert (run.status, run.started_at, run.ended_at) == tuple(status.values())
        summary = folder / "summary.json"
        assert run.summary == (json.loads(summary.read_text()) if summary.exists() else None)
        for count, file in ((run.artifacts_created_count, "created"), (run.artifacts_used_count, "used")):
            uses = folder / f"artifacts_{file}.json"
            assert count == (len(json.loads(uses.read_text())["artifacts"]) if uses.exists() else 0)
    assert catalog.runs.projects() == ["nlp", "vision"]
    assert catalog.runs.names("vision") == ["export", "prep", "train"]
    assert catalog.runs.names("nowhere") == []
    assert {run.name for run in catalog.runs.select("vision", "train")} == {"train"}
    assert len(catalog.runs.select("vision", "train")) == 4


def test_the_samples_lineage_leads_from_the_data_to_the_export(catalog: Catalog, sample_store: Path) -> None:
    apply(catalog, *observe(sample_store))
    graph = catalog.lineage.of("model", "resnet50", 3, 3)
    names = {node.node_id: node.metadata["name"] for node in graph.nodes}
    assert {(names[edge.source], edge.edge_type, names[edge.target]) for edge in graph.edges} == {
        ("prep", "produces", "cifar-mini"),
        ("cifar-mini", "uses", "train"),
        ("train", "produces", "resnet50"),
        ("resnet50", "uses", "export"),
        ("export", "produces", "train-code"),
        ("export", "produces", "imagenet-ref"),
        ("export", "produces", "resnet50"),
    }
    assert set(states(graph).values()) == {"present"}


def test_the_best_metric_is_what_the_summary_names(catalog: Catalog) -> None:
    apply(catalog, *a_run(summary={"best_metric_name": "acc", "best_metric_value": 1, "n": 2}))
    run = catalog.runs.find("r1")
    assert (run.best_metric_name, run.best_metric_value) == ("acc", 1.0)
    assert run.summary == {"best_metric_name": "acc", "best_metric_value": 1, "n": 2}


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b'"0.9"', b"true", b"1" + b"0" * 400, b"[1]"])
def test_a_best_metric_that_is_no_number_is_none(catalog: Catalog, value: bytes) -> None:
    apply(catalog, *a_run(summary=b'{"best_metric_value": %s, "best_metric_name": 3}' % value))
    run = catalog.runs.find("r1")
    assert (run.best_metric_name, run.best_metric_value) == (None, None)


def test_a_run_without_records_is_a_run(catalog: Catalog) -> None:
    apply(catalog, directory(RUN), plain_file(f"{RUN}/logs.txt", mtime_ns=5 * 10**9))
    (run,) = catalog.runs.select()
    assert (run.id, run.project, run.name, run.status) == ("r1", "vision", "train", "unknown")
    assert (run.created_at, run.pid, run.summary, run.artifacts_used_count) == (5.0, None, None, 0)


def test_a_file_among_the_runs_is_no_run(catalog: Catalog) -> None:
    apply(catalog, plain_file("vision/train/runs/notes.txt"), plain_file("sweeps/s1/x"))
    assert catalog.runs.select() == []
    assert catalog.runs.projects() == []


@pytest.mark.parametrize("broken", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a":' * 150 + b"1" + b"}" * 150])
def test_a_record_that_cannot_be_read_costs_itself_and_a_problem(catalog: Catalog, broken: bytes) -> None:
    problems = apply(catalog, *a_run(meta={"pid": 7}, status={"status": "running"}, summary=broken)).problems
    assert len(problems) == 1
    assert problems[0].startswith(f"{RUN}/summary.json: ")
    run = catalog.runs.find("r1")
    assert (run.pid, run.status, run.summary) == (7, "running", None)
    assert catalog.problems() == problems


def test_an_entry_that_cannot_be_used_costs_itself_and_a_problem(catalog: Catalog) -> None:
    uses = [("model", "net", 1), ("model", "../net", 1), ("model", "net", 0)]
    problems = apply(catalog, *a_run(used=uses)).problems
    assert [problem.split(" is left out")[0] for problem in problems] == [
        f"{RUN}/artifacts_used.json: entry {n} of artifacts" for n in (2, 3)
    ]
    assert catalog.runs.find("r1").artifacts_used_count == 1


def test_a_run_in_the_recycle_bin_is_not_shown_until_it_comes_back(catalog: Catalog) -> None:
    apply(catalog, *a_run(), document(f"{RUN}/.deleted", {}))
    assert catalog.runs.select() == []
    assert catalog.runs.projects() == []
    with pytest.raises(NotFound, match="no run 'r1'"):
        catalog.runs.find("r1")
    apply(catalog, gone=(f"{RUN}/.deleted",))
    assert [run.id for run in catalog.runs.select()] == ["r1"]


def test_a_run_that_is_gone_leaves_nothing(catalog: Catalog) -> None:
    apply(catalog, *a_run(used=[("model", "net", 1)]), *a_model("net"))
    apply(catalog, gone=(RUN, f"{RUN}/artifacts_used.json"))
    assert catalog.runs.select() == []
    assert states(catalog.lineage.of("model", "net", 1, 3)) == {"net:v1": "present"}


def test_runs_of_old_stores_belong_to_what_their_records_say(catalog: Catalog) -> None:
    apply(catalog, *a_run("runs/old", meta={"project": "p", "name": "n"}), *a_run("runs/older"))
    assert {(run.id, run.project, run.name) for run in catalog.runs.select()} == {("old", "p", "n"), ("older", "", "")}
    assert catalog.runs.projects() == ["p"]
    assert catalog.runs.names("p") == ["n"]
    assert [run.id for run in catalog.runs.select("p", "n")] == ["old"]


def test_the_folder_says_what_a_run_belongs_to(catalog: Catalog) -> None:
    apply(catalog, *a_run(meta={"id": "x", "project": "other", "name": "other"}))
    run = catalog.runs.find("r1")
    assert (run.project, run.name) == ("vision", "train")


def test_an_id_in_two_projects_is_listed_twice_and_means_the_newest(catalog: Catalog) -> None:
    apply(catalog, *a_run(meta={"created_at": 1.0}), *a_run("copy/train/runs/r1", meta={"created_at": 2.0}))
    assert [run.project for run in catalog.runs.select()] == ["copy", "vision"]
    assert catalog.runs.find("r1").project == "copy"


def test_a_large_summary_comes_with_the_run_but_not_with_the_list(catalog: Catalog) -> None:
    summary = {"text": "x" * LISTED_SUMMARY}
    apply(catalog, *a_run(summary=summary))
    assert catalog.runs.select()[0].summary is None
    assert catalog.runs.find("r1").summary == summary


def test_a_runs_artifacts_are_what_the_store_says_of_them_else_what_the_run_noted(catalog: Catalog) -> None:
    used = {
        "artifacts": [
            {"type": "model", "name": "net", "version": 1, "used_at": 3.0, "size_bytes": 1},
            {"type": "model", "name": "gone", "version": 4, "used_at": 4.0, "size_bytes": 5},
        ]
    }
    net = index({1: "ready"}, {"best": 1, "latest": 1})
    metadata = document("artifacts/model/net/v1/metadata.json", {"description": "a net"}, token=b"2")
    apply(
        catalog,
        *a_run(artifacts_used=used),
        *a_version("artifacts/model/net/v1"),
        document("artifacts/model/net/versions.json", net),
        metadata,
    )
    found = catalog.runs.artifacts(catalog.runs.find("r1"))
    assert found.created == []
    assert [(a.name, a.version, a.size_bytes, a.created_at, a.description, a.aliases) for a in found.used] == [
        ("net", 1, 7, 1.5, "a net", ["best", "latest"]),
        ("gone", 4, 5, 4.0, None, []),
    ]


def test_a_version_that_the_run_lists_twice_counts_once_as_it_stands_first(catalog: Catalog) -> None:
    entry = {"type": "model", "name": "net", "version": 1}
    apply(catalog, *a_run(artifacts_used={"artifacts": [entry | {"used_at": 3.0}, entry | {"used_at": 4.0}]}))
    run = catalog.runs.find("r1")
    assert run.artifacts_used_count == 1
    assert [artifact.created_at for artifact in catalog.runs.artifacts(run).used] == [3.0]


def test_the_run_that_a_version_names_counts_where_the_run_does_not_list_it(catalog: Catalog) -> None:
    apply(catalog, *a_run(used=[("dataset", "signs", 1)]), *a_model("net", "r1"), *a_model("signs", type="dataset"))
    expected = {"run:r1 produces net:v1", "signs:v1 uses run:r1"}
    assert arrows(catalog.lineage.of("model", "net", 1, 3)) == expected
    assert arrows(catalog.lineage.of("dataset", "signs", 1, 3)) == expected
    (edge,) = [edge for edge in catalog.lineage.of("model", "net", 1, 3).edges if edge.edge_type == "produces"]
    assert edge.created_at == 7.0


def test_of_runs_with_one_id_the_one_that_lists_the_version_produced_it(catalog: Catalog) -> None:
    copy = a_run("copy/train/runs/r1", meta={"created_at": 2e9}, used=[("dataset", "signs", 1)])
    apply(
        catalog, *a_run(created=[("model", "net", 1)]), *copy, *a_model("net", "r1"), *a_model("signs", "", "dataset")
    )
    assert [node.metadata["project"] for node in catalog.lineage.of("model", "net", 1, 3).nodes[1:]] == ["vision"]
    assert "net:v1" not in states(catalog.lineage.of("dataset", "signs", 1, 3))


def test_of_runs_with_one_id_none_of_which_lists_the_version_the_newest_produced_it(catalog: Catalog) -> None:
    runs = (("a", 1.0), ("b", 3.0), ("c", 2.0))
    for project, created_at in runs:
        apply(catalog, *a_run(f"{project}/train/runs/r1", meta={"created_at": created_at}))
    apply(catalog, *a_model("net", "r1"))
    assert [node.metadata["project"] for node in catalog.lineage.of("model", "net", 1, 3).nodes[1:]] == ["b"]


def test_a_run_that_is_not_there_is_a_missing_node(catalog: Catalog) -> None:
    apply(catalog, *a_model("net", "long-gone"))
    graph = catalog.lineage.of("model", "net", 1, 3)
    assert states(graph) == {"net:v1": "present", "run:long-gone": "missing"}
    assert arrows(graph) == {"run:long-gone produces net:v1"}


def test_lineage_goes_on_through_what_is_deleted_or_missing(catalog: Catalog) -> None:
    apply(
        catalog,
        *a_run(used=[("dataset", "never-synced", 3)], created=[("model", "net", 1)]),
        document(f"{RUN}/.deleted", {}),
        *a_model("net"),
        document("artifacts/model/net/v1/.deleted", {}),
        *a_run("vision/export/runs/r2", used=[("model", "net", 1)], created=[("model", "small", 1)]),
        *a_model("small"),
    )
    assert states(catalog.lineage.of("model", "small", 1, 3)) == {
        "small:v1": "present",
        "run:r2": "present",
        "net:v1": "deleted",
        "run:r1": "deleted",
        "never-synced:v3": "missing",
    }


def test_an_entry_without_a_time_has_that_of_its_run(catalog: Catalog) -> None:
    apply(catalog, *a_run(meta={"created_at": 9.0}, used=[("model", "net", 1)]), *a_model("net"))
    assert [edge.created_at for edge in catalog.lineage.of("model", "net", 1, 3).edges] == [9.0]


def test_sizes_that_nobody_can_have_do_not_break_the_totals(catalog: Catalog) -> None:
    for name in ("a", "b", "c"):
        record = index({1: "ready"})
        record["versions"][0]["size_bytes"] = 2**62
        folder = f"artifacts/model/{name}"
        apply(catalog, document(f"{folder}/versions.json", record), *a_version(f"{folder}/v1"))
    totals = catalog.totals_by_type()["model"]
    assert (totals.artifacts, totals.versions, totals.files, totals.bytes > 2**62) == (3, 3, 3, True)


QUESTIONS: dict[str, tuple[Callable[[Catalog], object], int]] = {
    "runs": (lambda catalog: catalog.runs.select(), 1),
    "runs of a name": (lambda catalog: catalog.runs.select("p", "n0"), 1),
    "run": (lambda catalog: catalog.runs.find("r7"), 1),
    "artifacts of a run": (lambda catalog: catalog.runs.artifacts(catalog.runs.find("r7")), 5),
    "projects": (lambda catalog: catalog.runs.projects(), 1),
    "names": (lambda catalog: catalog.runs.names("p"), 1),
    "lineage": (lambda catalog: catalog.lineage.of("model", "m0", 1, 10), 30),
    "artifacts": (lambda catalog: catalog.artifacts.all(), 4),
    "versions": (lambda catalog: catalog.artifacts.versions(catalog.artifacts.find("m7")), 3),
    "metadata": (lambda catalog: catalog.artifacts.metadata(catalog.artifacts.find("m7"), 1), 3),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_takes_as_many_statements_in_a_large_store_as_in_a_small_one(
    question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, most = QUESTIONS[question]
    counts = []
    for runs in (10, 40):
        folder = tmp_path / str(runs)
        folder.mkdir()
        Catalog.open(folder / "index.db").close()
        catalog, statements = _traced(folder / "index.db", monkeypatch)
        everything = [item for n in range(runs) for item in _run_of_a_web(n)]
        apply(catalog, *everything)
        statements.clear()
        assert ask(catalog)
        counts.append(len(statements))
        catalog.close()
    assert counts[0] == counts[1] <= most


def _run_of_a_web(n: int) -> list[Observed]:
    """Run n made model n: from the one before it, and from the first one that is as far from the beginning; nothing is
    further than three steps. So a larger store has wider steps, and no more of them."""
    step = n % 4
    used = [("model", f"m{n - 1}", 1), ("model", f"m{step - 1}", 1)] if step else []
    return [*a_run(f"p/n{n % 3}/runs/r{n}", created=[("model", f"m{n}", 1)], used=used), *a_model(f"m{n}", f"r{n}")]


def _traced(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Catalog, list[str]]:
    """A catalog and the statements that its connections execute from now on."""
    statements: list[str] = []
    connect = database._connect

    def traced(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(statements.append)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(database, "_connect", traced)
        catalog = Catalog.open(path)
        catalog.runs.projects()  # its reader stays in the pool
    return catalog, statements

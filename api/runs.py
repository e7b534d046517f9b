"""Runs and projects, from the catalog alone. A run's id that stands in two projects means the newest of them."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from runicornfs.api.calls import Asked, Call, call
from runicornfs.catalog.runs import RunArtifacts
from runicornfs.workspace.runs import RunDetail, RunEntry


class OfRun(BaseModel):
    id: str


class OfProject(BaseModel):
    project: str


class OfExperiment(OfProject):
    name: str


@dataclass(frozen=True, kw_only=True)
class ProjectsAnswer:
    projects: list[str]


@dataclass(frozen=True, kw_only=True)
class NamesAnswer:
    names: list[str]


def calls() -> list[Call]:
    project = "/api/projects/{project}"
    return [
        call("GET", "/api/runs", runs, answers=list[RunEntry]),
        call("GET", "/api/runs/{id}", run, parameters=OfRun, answers=RunDetail, refusals=(404,)),
        call("GET", "/api/runs/{id}/artifacts", artifacts, parameters=OfRun, answers=RunArtifacts, refusals=(404,)),
        call("GET", "/api/projects", projects, answers=ProjectsAnswer),
        call("GET", f"{project}/names", names, parameters=OfProject, answers=NamesAnswer),
        call("GET", f"{project}/names/{{name}}/runs", runs_of_name, parameters=OfExperiment, answers=list[RunEntry]),
    ]


def runs(asked: Asked[None, None]) -> list[RunEntry]:
    """Lists every run, newest first."""
    return asked.workspace.runs.select()


def run(asked: Asked[OfRun, None]) -> RunDetail:
    """Tells what is known of a run, and where its files lie."""
    return asked.workspace.runs.detail(asked.parameters.id)


def artifacts(asked: Asked[OfRun, None]) -> RunArtifacts:
    """Lists the versions that a run created and used."""
    return asked.workspace.runs.artifacts(asked.parameters.id)


def projects(asked: Asked[None, None]) -> ProjectsAnswer:
    """Lists the projects that have runs."""
    return ProjectsAnswer(projects=asked.workspace.runs.projects())


def names(asked: Asked[OfProject, None]) -> NamesAnswer:
    """Lists the experiments of a project; none of an unknown one."""
    return NamesAnswer(names=asked.workspace.runs.names(asked.parameters.project))


def runs_of_name(asked: Asked[OfExperiment, None]) -> list[RunEntry]:
    """Lists the runs of one experiment, newest first."""
    return asked.workspace.runs.select(asked.parameters.project, asked.parameters.name)

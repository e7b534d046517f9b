"""Every workload, in the order of the report."""

from __future__ import annotations

from scripts.benchmark.bench import Workload
from scripts.benchmark.workloads import (
    downloads,
    latency,
    lines,
    loads,
    readers,
    scale,
    sequential,
    sync,
    walks,
    warm,
)

WORKLOADS: tuple[Workload, ...] = (
    *lines.WORKLOADS,
    *sequential.WORKLOADS,
    *warm.WORKLOADS,
    *walks.WORKLOADS,
    *loads.WORKLOADS,
    *sync.WORKLOADS,
    *scale.WORKLOADS,
    *latency.WORKLOADS,
    *downloads.WORKLOADS,
    *readers.WORKLOADS,
)

"""What monitoring asks for, in Prometheus's text format."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.requests import Request
from starlette.responses import Response

from runicornfs.api.calls import CONTENTS, Call
from runicornfs.api.requests import workspace_of
from runicornfs.content.counters import WAIT_BOUNDS_S
from runicornfs.downloads.records import ACTIVE
from runicornfs.mount.session import Mount
from runicornfs.workspace.workspace import Workspace


def calls() -> list[Call]:
    return [Call("GET", "/metrics", metrics, answer=str, refusals=CONTENTS, media_type="text/plain")]


def metrics(request: Request) -> Response:
    """Answers what monitoring asks for, as Prometheus text: reads, bytes, waits, syncs, downloads, mounts."""
    registry = CollectorRegistry()
    registry.register(Numbers(workspace_of(request)))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class Numbers:
    """Reads everything at the moment when it is asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def collect(self) -> Iterator[Metric]:
        workspace = self._workspace
        cache, now = workspace.cache.status(), workspace.store.upkeep.state()
        yield _counter("reads_hit", "Reads that were answered from the cache", cache.hits)
        yield _counter("reads_missed", "Reads that waited for the server", cache.misses)
        yield _counter("bytes_served", "Bytes that programs have read", cache.bytes_served)
        yield _counter("bytes_fetched", "Bytes that came from the server", cache.bytes_fetched)
        yield _counter("evictions", "Contents that were evicted", cache.evictions)
        yield _counter("mismatches", "Contents that did not have their sha256", cache.mismatches)
        yield _gauge("hit_ratio", "Share of the reads that were answered from the cache", cache.hit_ratio)
        yield _gauge("cache_size_bytes", "Bytes that the cache holds", cache.size_bytes)
        yield _gauge("cache_limit_bytes", "Bytes that the cache may hold", cache.limit_bytes)
        yield _gauge("cache_files", "Contents of which something is cached", cache.files)
        yield _waits(cache.waits, cache.waited_s)
        yield _gauge("connected", "1 while the server is connected", now.connected)
        yield _counter("reconnects", "Connections that were made after one was lost", now.reconnects)
        yield _counter("syncs", "Syncs that ended well", now.syncs)
        yield _counter("sync_failures", "Syncs that failed", now.failures)
        if now.last_sync is not None:
            age = max(0.0, time.time() - now.last_sync)  # the clock may have been set back
            yield _gauge("sync_age_seconds", "Time since the last sync", age)
        yield _gauge("mounts", "Folders on which the store is mounted", len(workspace.mounts))
        yield _operations(workspace.mounts)
        tasks = [download.status for download in workspace.downloads.list()]
        yield _gauge("downloads_active", "Downloads that run or wait", sum(status in ACTIVE for status in tasks))
        yield _gauge("downloads_queued", "Downloads that wait for their turn", tasks.count("queued"))


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"runicornfs_{name}", help, value=value)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"runicornfs_{name}", help, value=value)


def _operations(mounts: list[Mount]) -> Metric:
    """What of the kernel's calls is answered from its own memory does not reach us, and is not counted."""
    counts: Counter[str] = Counter()
    for mount in mounts:
        counts.update(dict(mount.callbacks.counts))  # a copy: other threads count while this one adds
    help = "Calls of the kernel that reached the mounts"
    family = CounterMetricFamily("runicornfs_operations", help, labels=["operation"])
    for name, count in sorted(counts.items()):
        family.add_metric([name.partition("_fuse_")[0]], count)  # `getattr_fuse_3` is mfusepy's getattr for libfuse 3
    return family


def _waits(counts: list[int], seconds: float) -> Metric:
    """`counts`: of each bound those that waited no longer, and longer than the one before; the last has no bound."""
    buckets, total = [], 0
    for bound, count in zip([*map(str, WAIT_BOUNDS_S), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, total))
    help = "How long reads waited for the server"
    return HistogramMetricFamily("runicornfs_fetch_wait_seconds", help, buckets=buckets, sum_value=seconds)

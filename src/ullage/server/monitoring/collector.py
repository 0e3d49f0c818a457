"""The one module that knows prometheus-client: figures into its families, at each scrape.

Nothing is kept between two scrapes and nothing is registered globally: counters are the
registry's own (registry/tallies.py, counting.py), gauges are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ullage import __version__
from ullage.registry.tallies import ERASE_BOUNDS
from ullage.server.monitoring.counting import BOUNDS
from ullage.server.monitoring.sources import Sources
from ullage.usage.figures import Figures, figures_of
from ullage.usage.overview import Overview

_SHARED = " The same at every process on one database: use max, not sum."
# Counts that are kept in `Tallies`: name there, metric, help, labels.
_TALLIES = (
    ("pushed_bytes", "ullage_pushed_bytes", "Bytes of blobs and manifests that were pushed.", ()),
    ("pushes", "ullage_pushes", "Manifests that were pushed.", ("kind",)),
    (
        "pulls",
        "ullage_pulls",
        "Manifests that were pulled, by classes of pullers.",
        ("by", "class"),
    ),
    ("deleted", "ullage_deleted", "What was deleted, by what deleted it.", ("what", "by")),
    ("plans", "ullage_plans", "Plans, by what became of them.", ("outcome",)),
    ("planned_bytes", "ullage_planned_bytes", "Bytes that applied plans promised to free.", ()),
    (
        "shortfall_bytes",
        "ullage_plan_shortfall_bytes",
        "Bytes that applied plans promised and did not free, though all of their images went.",
        (),
    ),
    (
        "job_items",
        "ullage_job_items",
        "Tags and manifests that jobs dealt with: deleted, or kept because something had changed.",
        ("kind", "outcome"),
    ),
    ("attempts", "ullage_tombstone_attempts", "Attempts to erase bytes of deletions.", ()),
    ("logins", "ullage_logins", "Logins, by how and with which result.", ("method", "result")),
)


def exposition(sources: Sources, accept: str) -> tuple[str, bytes]:
    """(content type, text). Raises Unavailable."""
    metrics = CollectorRegistry(auto_describe=False)
    metrics.register(_Figures(sources))
    ProcessCollector(registry=metrics)
    encode, content_type = choose_encoder(accept)
    return content_type, encode(metrics)


class _Figures(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        """Nothing: it is registered for one scrape, beside the process's own figures."""
        return ()

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        registry = sources.registry
        found = figures_of(registry, sources.repositories)
        now = registry.now()
        info = {
            "version": __version__,
            "database": registry.db.dialect,
            "storage": type(registry.blobs).__module__.split(".")[2],
        }
        yield InfoMetricFamily("ullage", "What this process is.", value=info)
        yield from _requests(sources)
        yield from _tallied(sources)
        yield from _contents(found)
        yield from _waiting(found, now)
        if found.overview is not None:
            yield from _overview(found.overview, sources.repositories)
        free = registry.blobs.free_bytes()
        if free is not None:
            yield _gauge("ullage_store_free_bytes", "Room left in the store.", free)
        yield from _process(sources)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*map(str, bounds), "+Inf"]
    return [*zip(names, map(float, accumulate(counts)), strict=True)]


def _requests(sources: Sources) -> Iterator[Metric]:
    active = GaugeMetricFamily(
        "http_server_active_requests",
        "Requests that are being answered.",
        labels=("http_request_method", "url_scheme"),
    )
    for method, scheme, number in sources.requests.active():
        active.add_metric((method, scheme), number)
    yield active
    durations = HistogramMetricFamily(
        "http_server_request_duration_seconds",
        "How long requests took, from their head to the end of the answer.",
        labels=("http_request_method", "http_route", "http_response_status_code", "url_scheme"),
    )
    for each in sources.requests.served():
        labels = (each.method, each.route, str(each.status), each.scheme)
        durations.add_metric(labels, _buckets(BOUNDS, each.counts), each.seconds)
    yield durations
    yield CounterMetricFamily(
        "ullage_pulled_bytes",
        "Bytes of blobs and manifests in answers of this process. What nginx or the bucket sends "
        "is not among them.",
        value=sources.requests.sent_bytes(),
    )


def _tallied(sources: Sources) -> Iterator[Metric]:
    tallies = sources.registry.tallies
    for name, metric, text, labels in _TALLIES:
        counts = tallies.counts(name)
        family = CounterMetricFamily(metric, text, labels=labels)
        for values, number in sorted(counts.items() if labels or counts else [((), 0)]):
            family.add_metric(values, number)
        yield family
    if tallies.findings is not None:
        findings = GaugeMetricFamily(
            "ullage_check_findings",
            "What the last check that this process made left unmended, by invariant.",
            labels=("kind",),
        )
        for invariant, number in sorted(tallies.findings.items()):
            findings.add_metric((invariant,), number)
        yield findings
    objects, seconds = tallies.erased()
    erased = HistogramMetricFamily(
        "ullage_erase_delay_seconds",
        "From a deletion to the moment at which its bytes were off the store, by object.",
    )
    erased.add_metric((), _buckets(ERASE_BOUNDS, objects), seconds)
    yield erased


def _contents(found: Figures) -> Iterator[Metric]:
    counted = found.counters
    yield _gauge("ullage_blobs", "Blobs stored." + _SHARED, counted["blob_count"])
    yield _gauge(
        "ullage_manifests",
        "Manifests, over all repositories." + _SHARED,
        counted["manifest_count"],
    )
    yield CounterMetricFamily(
        "ullage_freed_bytes",
        "Bytes taken off the store since the registry was made." + _SHARED,
        value=counted["reclaimed_bytes"],
    )


def _waiting(found: Figures, now: datetime) -> Iterator[Metric]:
    def age(since: datetime | None) -> float:
        return 0.0 if since is None else max((now - since).total_seconds(), 0.0)

    yield _gauge(
        "ullage_tombstones", "Objects that are deleted and not erased." + _SHARED, found.tombstones
    )
    yield _gauge(
        "ullage_tombstone_oldest_seconds",
        "How long the oldest of them has been due, beyond its read grace." + _SHARED,
        age(found.tombstone_due),
    )
    yield _gauge(
        "ullage_reviews", "Links that wait for the end of a lease." + _SHARED, found.reviews
    )
    yield _gauge("ullage_uploads", "Open upload sessions.", found.uploads)
    yield _gauge(
        "ullage_upload_oldest_seconds",
        "Age of the oldest upload session that has bytes.",
        age(found.upload_began),
    )
    yield _gauge(
        "ullage_restorable_operations",
        "Deletions that can be taken back." + _SHARED,
        found.operations,
    )
    jobs = GaugeMetricFamily(
        "ullage_jobs", "Jobs of the last days." + _SHARED, labels=("kind", "state")
    )
    for kind, state, number in found.jobs:
        jobs.add_metric((kind, state), number)
    yield jobs
    if found.last_retention is not None:
        yield _gauge(
            "ullage_retention_last_success_timestamp_seconds",
            "When the retention rules last came to an end, within the last days." + _SHARED,
            found.last_retention.timestamp(),
        )


def _overview(found: Overview, repositories: int) -> Iterator[Metric]:
    head = found.head
    sums = head.registry
    disk = GaugeMetricFamily(
        "ullage_disk_bytes",
        "Every byte of the store by what it is, as it was counted last." + _SHARED,
        labels=("state",),
    )
    for state, size in (
        ("tagged", sums.tagged_bytes),
        ("untagged", sums.untagged_bytes),
        ("leased", sums.leased_bytes),
        ("restorable", sums.soft_deleted_bytes),
        ("uploading", sums.uploading_bytes),
        ("pending", sums.pending_bytes),
    ):
        disk.add_metric((state,), size)
    yield disk
    yield _gauge(
        "ullage_overview_timestamp_seconds",
        "A moment at which ullage_disk_bytes, _tags and _repositories were exact." + _SHARED,
        found.as_of.timestamp(),
    )
    yield _gauge(
        "ullage_restorable_bytes",
        "Bytes of blobs that only restorable deletions need." + _SHARED,
        sums.soft_deleted_bytes,
    )
    yield _gauge("ullage_tags", "Tags." + _SHARED, head.tag_count)
    yield _gauge("ullage_repositories", "Repositories." + _SHARED, head.repository_count)
    if repositories:
        largest = GaugeMetricFamily(
            "ullage_repository_bytes",
            "Fair shares of the largest repositories, and of all others together." + _SHARED,
            labels=("repository",),
        )
        named = [line for line in found.lines if line.name is not None and not line.operation]
        for line in named:
            largest.add_metric((str(line.name),), line.fair_share_bytes)
        stored = sums.disk_bytes - sums.uploading_bytes - sums.pending_bytes
        rest = stored - sum(line.fair_share_bytes for line in named)
        # No repository has this name: it begins with a character that names cannot have.
        largest.add_metric(("_other",), rest)
        yield largest


def _process(sources: Sources) -> Iterator[Metric]:
    rounds = sources.registry.rounds
    at = GaugeMetricFamily(
        "ullage_worker_round_timestamp_seconds",
        "When each thread of the worker last came round.",
        labels=("round",),
    )
    errors = CounterMetricFamily(
        "ullage_worker_errors", "Pieces of its work that failed.", labels=("round",)
    )
    now = time.time()
    for name, age in rounds.ages().items():
        at.add_metric((name,), now - age)
    for name, number in rounds.errors().items():
        errors.add_metric((name,), number)
    yield at
    yield errors
    busy = GaugeMetricFamily(
        "ullage_threads_busy", "Threads that are at work for requests.", labels=("pool",)
    )
    queued = GaugeMetricFamily(
        "ullage_thread_queue", "Pieces of work that wait for a thread.", labels=("pool",)
    )
    for name, ask in sources.pools.items():
        at_work, waiting = ask()
        busy.add_metric((name,), at_work)
        queued.add_metric((name,), waiting)
    yield busy
    yield queued
    caches = CounterMetricFamily(
        "ullage_cache_requests", "Looks into caches.", labels=("cache", "result")
    )
    for name, ask in sources.caches.items():
        hits, misses = ask()
        caches.add_metric((name, "hit"), hits)
        caches.add_metric((name, "miss"), misses)
    yield caches

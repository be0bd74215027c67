"""Exporter: evenmoe's metrics on the `/metrics` of vLLM's HTTP server."""

from __future__ import annotations

from collections.abc import Iterable
from functools import wraps
from itertools import chain

from prometheus_client import REGISTRY, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from evenmoe.serving.observation.collector import MoECollector
from evenmoe.serving.observation.source import SpoolSource
from evenmoe.serving.observation.spool import Spool

ENGINE = "vllm"
_collectors: list[MoECollector] = []


def export_metrics(spool: Spool) -> None:
    """Show what the engine's processes write into the spool wherever this process shows vLLM's metrics.

    For every process: only that of the HTTP server is ever asked. Nothing is shown before a worker has written its
    configuration, so never in an engine without one. A second call does nothing.
    """
    if _collectors:
        return
    collector = MoECollector(SpoolSource(spool, ENGINE))
    _collectors.append(collector)
    REGISTRY.register(collector)
    _join_servers_that_share_counts(collector)


def _join_servers_that_share_counts(collector: MoECollector) -> None:
    """Follow the sums over several HTTP servers with our metrics.

    Such servers show a registry that is made anew for every scrape, of a MultiProcessCollector alone: nothing can be
    registered there. Each of them shows the same of ours, as all read one spool.
    """
    of_all_servers = MultiProcessCollector.collect

    @wraps(of_all_servers)
    def collect(self: MultiProcessCollector) -> Iterable[Metric]:
        return chain(of_all_servers(self), collector.collect())  # type: ignore[no-untyped-call]

    MultiProcessCollector.collect = collect  # type: ignore[method-assign]

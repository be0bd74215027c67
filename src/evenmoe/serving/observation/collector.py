"""Collector: a source's snapshots as Prometheus metrics.

Shape letters: L MoE layers, D devices, S stages.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector

from evenmoe.serving.config import ServingConfig
from evenmoe.serving.observation import names
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from evenmoe.serving.observation.names import METRICS, STAGES, Metric
from evenmoe.serving.observation.scheduling_snapshot import Histogram, SchedulingSnapshot
from evenmoe.serving.observation.source import Source
from evenmoe.version import __version__

logger = logging.getLogger(__name__)


class MoECollector(Collector):
    """Shows a source's metrics in a Prometheus registry; nothing at all where evenmoe is not configured.

    A source that fails costs its own metrics, never those of the engine in the same registry: the failure is logged.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterator[Family]:
        """Every metric without samples, so that a registry sees names that are taken."""
        return (_family(metric) for metric in METRICS)

    def collect(self) -> Iterator[Family]:
        """The metrics as of now."""
        try:
            families = list(_families(self._source))
        except Exception:
            logger.exception("metrics of evenmoe could not be read")
            return iter(())
        return iter(families)


def metrics_page(source: Source) -> bytes:
    """The body of a `/metrics` that shows a source alone, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(MoECollector(source))
    return generate_latest(registry)


def _families(source: Source) -> Iterator[Family]:
    config = source.config()
    if config is None or not config.metrics.enabled:
        return
    loads, scheduling = source.loads(), source.scheduling()
    if loads is not None:
        yield from _of_loads(loads)
    yield _family(names.LEAST_REQUESTS, [((), config.metrics.least_requests)])
    if scheduling is not None:
        yield from _of_scheduling(scheduling)
    yield _family(names.CONFIG, [(_config_labels(config, source.engine, scheduling), 1)])


def _of_loads(snapshot: LoadsSnapshot) -> Iterator[Family]:
    loads, counts = snapshot.loads, snapshot.loads.total
    asked_L, ran_L = counts.before_LE.sum(-1), counts.after_LE.sum(-1)
    yield _family(names.EXPERT_PAIRS, _by_device(snapshot.before_LD, snapshot.after_LD))
    yield _family(names.EVEN_DEVICE_PAIRS, _by_layer(asked_L / snapshot.num_devices))
    yield _family(
        names.EVEN_EXPERT_PAIRS, _by_stage(asked_L / loads.num_experts_L, ran_L / loads.num_experts_L)
    )
    if loads.peaks is not None:
        peaks = loads.peaks
        factors = zip(STAGES, (loads.straggler_factor_before, loads.straggler_factor), strict=True)
        yield _family(names.BUSIEST_DEVICE_PAIRS, _by_stage(peaks.device_before_L, peaks.device_after_L))
        yield _family(names.BUSIEST_EXPERT_PAIRS, _by_stage(peaks.expert_before_L, peaks.expert_after_L))
        yield _family(names.STRAGGLER_FACTOR, (((stage,), factor) for stage, factor in factors))
    yield _family(names.PAIRS_ASKED, _by_layer(asked_L))
    yield _family(names.PAIRS_KEPT, _by_layer(counts.kept_L))
    yield _family(names.LAYER_TOKENS, _by_layer(counts.tokens_L))
    yield _family(names.TOKENS_WITHOUT_EXPERT, _by_layer(counts.tokens_without_expert_L))
    yield _family(names.ROUTED_TOKENS, [((), snapshot.num_tokens)])
    yield _family(names.ROUTED_STEPS, [((), snapshot.num_steps)])
    yield _family(names.ROUTED_REQUESTS, [((), snapshot.num_requests)])
    experts = enumerate(zip(loads.layers, loads.num_experts_L, strict=True))
    yield _family(names.LAYER_EXPERTS, (((str(layer), name), num) for layer, (name, num) in experts))


def _of_scheduling(snapshot: SchedulingSnapshot) -> Iterator[Family]:
    yield _family(names.REQUESTS_WAITING, [((), snapshot.num_waiting)])
    yield _family(names.REQUESTS_RUNNING, [((), snapshot.num_running)])
    yield _family(names.REQUESTS_ADMITTED, [((), snapshot.num_admitted)])
    yield _histogram_family(names.PASSED_OVER, snapshot.passed_over)
    yield _histogram_family(names.SCHEDULING_SECONDS, snapshot.scheduling_s)
    errors = snapshot.prediction_error.items()
    yield _family(names.PREDICTION_ERROR, (((predictor,), error) for predictor, error in errors))
    yield _family(names.FEEDBACK_COMPARISONS, [((), snapshot.num_feedback)])
    yield _family(names.FEEDBACK_UNALIGNED, [((), snapshot.num_unaligned)])


def _config_labels(
    config: ServingConfig, engine: str, scheduling: SchedulingSnapshot | None
) -> tuple[str, ...]:
    """The values of CONFIG's labels. What an engine's own scheduler does with our settings is nothing."""
    routing = config.routing
    return (
        __version__,
        engine,
        routing.policy,
        format(routing.gamma, "g"),
        routing.phases,
        str(routing.num_devices),
        "none" if scheduling is None else scheduling.strategy,
        "none" if scheduling is None else config.scheduling.predictor,
    )


Values = Iterable[tuple[tuple[str, ...], float]]
"""Values of labels, each with its sample."""


def _by_layer(values_L: Iterable[Any]) -> Values:
    return (((str(layer),), value) for layer, value in enumerate(values_L))


def _by_stage(asked_L: Iterable[Any], ran_L: Iterable[Any]) -> Values:
    for stage, values_L in zip(STAGES, (asked_L, ran_L), strict=True):
        yield from (((str(layer), stage), value) for layer, value in enumerate(values_L))


def _by_device(asked_LD: Iterable[Any], ran_LD: Iterable[Any]) -> Values:
    for stage, table_LD in zip(STAGES, (asked_LD, ran_LD), strict=True):
        for layer, values_D in enumerate(table_LD):
            yield from (((str(layer), str(device), stage), value) for device, value in enumerate(values_D))


def _family(metric: Metric, values: Values = ()) -> Family:
    family = Family(metric.family, metric.help, metric.kind)
    for labels, value in values:
        family.add_sample(metric.name, dict(zip(metric.labels, labels, strict=True)), float(value))
    return family


def _histogram_family(metric: Metric, histogram: Histogram) -> Family:
    family = _family(metric)
    bounds = chain(histogram.bounds, [float("inf")])
    for bound, count in zip(bounds, accumulate(histogram.counts), strict=True):
        le = "+Inf" if math.isinf(bound) else repr(float(bound))
        family.add_sample(f"{metric.name}_bucket", {"le": le}, count)
    family.add_sample(f"{metric.name}_count", {}, sum(histogram.counts))
    family.add_sample(f"{metric.name}_sum", {}, histogram.sum)
    return family

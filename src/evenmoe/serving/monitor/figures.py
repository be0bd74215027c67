"""ServerFigures: what happened in a server between two scrapes, by evenmoe's own definitions of load.

Shape letters: L MoE layers, D devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenmoe.loads import drop_rate, ratio_of_sums
from evenmoe.serving.monitor.change import Change
from evenmoe.serving.monitor.scrape import Scrape, ScrapeError
from evenmoe.serving.observation import names

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadFigures:
    """What was routed: sums over all counted steps of the time, as asked for and as it ran.

    layers: names. num_experts_L: E of each. asked_LD, ran_LD: pairs of each device. busiest_..., even_...: sums over
    steps, whose ratio is the straggler factor of a layer. without_L: tokens of which no expert ran.
    """

    layers: tuple[str, ...]
    num_experts_L: NDArray[np.int64]
    num_requests: int
    num_tokens: int
    num_steps: int
    asked_LD: Floats
    ran_LD: Floats
    busiest_asked_L: Floats
    busiest_ran_L: Floats
    even_L: Floats
    busiest_expert_asked_L: Floats
    busiest_expert_ran_L: Floats
    even_expert_asked_L: Floats
    even_expert_ran_L: Floats
    pairs_L: Floats
    kept_L: Floats
    tokens_L: Floats
    without_L: Floats

    def as_dict(self) -> dict[str, Any]:
        """The figures as data: the rates, and everything they are made of."""
        rates = (
            "straggler_factor_asked",
            "straggler_factor",
            "expert_peak_to_mean_asked",
            "expert_peak_to_mean",
            "drop_rate",
            "tokens_without_expert",
        )
        body: dict[str, Any] = {name: getattr(self, name) for name in rates}
        for field in fields(self):
            value = getattr(self, field.name)
            body[field.name] = value if isinstance(value, int) else np.asarray(value).tolist()
        return body

    @property
    def straggler_factor_asked(self) -> float:
        """Had nothing been dropped."""
        return ratio_of_sums(self.busiest_asked_L, self.even_L)

    @property
    def straggler_factor(self) -> float:
        """As it ran: how many times longer the MoE layers take than with an even load of all asked pairs."""
        return ratio_of_sums(self.busiest_ran_L, self.even_L)

    @property
    def expert_peak_to_mean_asked(self) -> float:
        """Busiest expert over the mean expert, as asked for."""
        return ratio_of_sums(self.busiest_expert_asked_L, self.even_expert_asked_L)

    @property
    def expert_peak_to_mean(self) -> float:
        """Busiest expert over the mean expert, as it ran."""
        return ratio_of_sums(self.busiest_expert_ran_L, self.even_expert_ran_L)

    @property
    def drop_rate(self) -> float:
        """Share of top-k assignments that did not run."""
        return drop_rate(self.pairs_L, self.kept_L)

    @property
    def tokens_without_expert(self) -> float:
        """Share of tokens of which no expert ran, averaged over layers."""
        return float(self.without_L.sum()) / max(float(self.tokens_L.sum()), 1.0)


@dataclass(frozen=True, kw_only=True)
class SchedulingFigures:
    """What the scheduler did. Means are None where nothing was admitted or decided."""

    num_waiting: int
    num_running: int
    num_admitted: int
    mean_passed_over: float | None
    mean_scheduling_ms: float | None
    p99_scheduling_ms: float | None
    prediction_error: Mapping[str, float]
    num_feedback: int
    num_unaligned: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerFigures:
    """What happened in `seconds`; None: since the server's start.

    config: what the server was started with. least_requests: how many further requests its sums are over, at least.
    loads: None where it told none in between. scheduling: None where its scheduler is not evenmoe's.
    restarted: the server's counts began anew in between, so that the figures are since then.
    """

    seconds: float | None
    config: Mapping[str, str]
    least_requests: int
    loads: LoadFigures | None
    scheduling: SchedulingFigures | None
    restarted: bool

    def as_dict(self) -> dict[str, Any]:
        """The figures as data."""
        return {
            "seconds": self.seconds,
            "config": dict(self.config),
            "least_requests": self.least_requests,
            "restarted": self.restarted,
            "loads": None if self.loads is None else self.loads.as_dict(),
            "scheduling": None if self.scheduling is None else asdict(self.scheduling),
        }


def figures_between(before: Scrape | None, after: Scrape) -> ServerFigures:
    """What happened between two scrapes of a server, or since its start without a `before`.

    Raises ScrapeError where `after` is of a server without evenmoe.
    """
    if not after.is_of_evenmoe:
        raise ScrapeError(
            f"{after.url} shows metrics, but none of evenmoe: the server runs without it, or its metrics are off"
        )
    change = Change(before, after)
    return ServerFigures(
        seconds=change.seconds,
        config=next(labels for labels, _ in after.of(names.CONFIG)),
        least_requests=int(after.value(names.LEAST_REQUESTS) or 0),
        loads=_loads(change, after) if change.one(names.ROUTED_STEPS) else None,
        scheduling=_scheduling(change, after),
        restarted=change.restarted,
    )


def _loads(change: Change, after: Scrape) -> LoadFigures:
    devices = {int(labels["device"]) for labels, _ in after.of(names.EXPERT_PAIRS)}
    num_devices = max(devices, default=-1) + 1
    return LoadFigures(
        layers=change.layers,
        num_experts_L=change.num_experts_L,
        num_requests=int(change.one(names.ROUTED_REQUESTS)),
        num_tokens=int(change.one(names.ROUTED_TOKENS)),
        num_steps=int(change.one(names.ROUTED_STEPS)),
        asked_LD=change.by_device(names.EXPERT_PAIRS, num_devices, stage="asked"),
        ran_LD=change.by_device(names.EXPERT_PAIRS, num_devices, stage="ran"),
        busiest_asked_L=change.by_layer(names.BUSIEST_DEVICE_PAIRS, stage="asked"),
        busiest_ran_L=change.by_layer(names.BUSIEST_DEVICE_PAIRS, stage="ran"),
        even_L=change.by_layer(names.EVEN_DEVICE_PAIRS),
        busiest_expert_asked_L=change.by_layer(names.BUSIEST_EXPERT_PAIRS, stage="asked"),
        busiest_expert_ran_L=change.by_layer(names.BUSIEST_EXPERT_PAIRS, stage="ran"),
        even_expert_asked_L=change.by_layer(names.EVEN_EXPERT_PAIRS, stage="asked"),
        even_expert_ran_L=change.by_layer(names.EVEN_EXPERT_PAIRS, stage="ran"),
        pairs_L=change.by_layer(names.PAIRS_ASKED),
        kept_L=change.by_layer(names.PAIRS_KEPT),
        tokens_L=change.by_layer(names.LAYER_TOKENS),
        without_L=change.by_layer(names.TOKENS_WITHOUT_EXPERT),
    )


def _scheduling(change: Change, after: Scrape) -> SchedulingFigures | None:
    waiting = after.value(names.REQUESTS_WAITING)
    if waiting is None:
        return None
    mean_s, p99_s = change.mean(names.SCHEDULING_SECONDS), change.quantile(names.SCHEDULING_SECONDS, 0.99)
    return SchedulingFigures(
        num_waiting=int(waiting),
        num_running=int(after.value(names.REQUESTS_RUNNING) or 0),
        num_admitted=int(change.one(names.REQUESTS_ADMITTED)),
        mean_passed_over=change.mean(names.PASSED_OVER),
        mean_scheduling_ms=None if mean_s is None else 1000 * mean_s,
        p99_scheduling_ms=None if p99_s is None else 1000 * p99_s,
        prediction_error={labels["predictor"]: value for labels, value in after.of(names.PREDICTION_ERROR)},
        num_feedback=int(change.one(names.FEEDBACK_COMPARISONS)),
        num_unaligned=int(change.one(names.FEEDBACK_UNALIGNED)),
    )

"""simulate: one run of a workload through a scheduler and a machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from evenmoe.errors import ConfigError
from evenmoe.scheduling import SchedulerConfig
from evenmoe.simulation.continuous import Continuous
from evenmoe.simulation.engine import Engine
from evenmoe.simulation.execution import Execution
from evenmoe.simulation.metrics import Meter, RunMetrics
from evenmoe.simulation.request import Workload
from evenmoe.simulation.static import Static

MAX_WAITING = 50_000


def simulate(
    workload: Workload,
    execution: Execution,
    scheduler: SchedulerConfig,
    *,
    batching: Static | Continuous = Static(),  # noqa: B008
    seed: int = 0,
    num_requests: int | None = None,
    warmup: float = 0.0,
    max_seconds: float | None = None,
    max_waiting: int = MAX_WAITING,
    progress: Callable[[int], None] | None = None,
) -> RunMetrics:
    """Run the requests of `workload` through the queue and the machine; the same arguments give the same result.

    scheduler: its `num_layers` is the execution's; strategies that draw do so from its seed plus `seed`.
    num_requests: how many requests at most; None: as many as the workload has. warmup: share of num_requests whose
    latencies, and the time before the first of the others, are cut off.
    max_seconds: simulated time after which the run ends, whoever is unfinished. max_waiting: the run ends as overloaded
    when more requests wait.
    progress: told how many requests are finished, now and then.
    Raises ConfigError for settings that cannot act, and where no counted request finishes.
    """
    _check(num_requests, warmup, max_seconds, max_waiting)
    meter = Meter(int(warmup * (num_requests or 0)))
    requests = workload.requests(seed)
    engine = Engine(
        requests if num_requests is None else islice(requests, num_requests),
        execution,
        replace(scheduler, seed=scheduler.seed + seed),
        meter,
        max_waiting=max_waiting,
        progress=progress,
    )
    ended = engine.run(batching.serve(engine), batching.submitter(engine), max_seconds)
    return meter.result(engine.env.now, ended, batching.settled(scheduler))


def _check(num_requests: int | None, warmup: float, max_seconds: float | None, max_waiting: int) -> None:
    if num_requests is not None and num_requests < 1:
        raise ConfigError("num_requests", num_requests, "at least 1, or None")
    if not 0 <= warmup < 1:
        raise ConfigError("warmup", warmup, "a share from 0 to under 1")
    if warmup and num_requests is None:
        raise ConfigError("warmup", warmup, "0 without num_requests: it is a share of them")
    if max_seconds is not None and not (math.isfinite(max_seconds) and max_seconds > 0):
        raise ConfigError("max_seconds", max_seconds, "a finite number above 0, or None")
    if max_waiting < 1:
        raise ConfigError("max_waiting", max_waiting, "at least 1")

"""A live study: the same queue of real prompts served under each strategy, and the simulator's forecast of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evenmoe.errors import ConfigError, check_choice
from evenmoe.live.clock import Clock, WallClock
from evenmoe.live.engine import Engine
from evenmoe.live.execution import MeasuredExecution, peak_pairs
from evenmoe.live.forecast import forecast
from evenmoe.live.prompts import Prompts
from evenmoe.live.results import LiveResult, fit_of_run, measured_metrics, prediction_cosines
from evenmoe.live.serving import LiveRequest, LiveRun, serve
from evenmoe.live.timing import BatchTime
from evenmoe.live.traffic import Predictor, foreseen_requests, make_requests
from evenmoe.live.warmup import warm_up
from evenmoe.placement import Placement
from evenmoe.scheduling import STRATEGIES, SchedulerConfig
from evenmoe.simulation.checks import check_int, check_number
from evenmoe.simulation.request import Request
from evenmoe.simulation.workloads.arrivals import Bursty

OnProgress = Callable[[str, int, int], None]
"""What is going on, how much of it is done, of how much."""


_WARMUP_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """What is served, how fast it comes, and how batches are picked.

    strategies: each serves the same arrivals, one after the other.
    share: mean arrival rate as a share of what full batches can serve, measured in the warm-up; or rate_per_s itself.
    burst_requests: mean requests of a burst on one topic. scheduler: its strategy and layers are set for each run.
    Raises ConfigError.
    """

    strategies: tuple[str, ...] = ("fcfs", "auto", "peak_excess")
    num_requests: int = 400
    share: float = 0.9
    rate_per_s: float | None = None
    burst_requests: float = 32.0
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.strategies or len(set(self.strategies)) < len(self.strategies):
            raise ConfigError("strategy", list(self.strategies), "one or more, each once")
        for strategy in self.strategies:
            check_choice("strategy", strategy, STRATEGIES)
        check_int("requests", self.num_requests, 1)
        check_number("share", self.share, 0.0, above=True)
        if self.rate_per_s is not None:
            check_number("rate", self.rate_per_s, 0.0, above=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveResults:
    """A study: the machine as the warm-up found it, the rate that was used, and each strategy's result.

    capacity_per_s: requests that full batches can serve, by the warm-up. interrupted: the last result is of a part, or
    strategies are missing.
    """

    batch_time: BatchTime
    capacity_per_s: float
    rate_per_s: float
    results: tuple[LiveResult, ...]
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "warmup": {
                "batch_fixed_s": self.batch_time.fixed_s,
                "batch_per_token_s": self.batch_time.per_token_s,
                "batch_per_peak_pair_s": self.batch_time.per_peak_pair_s,
                "capacity_requests_s": self.capacity_per_s,
            },
            "rate_requests_s": self.rate_per_s,
            "interrupted": self.interrupted,
            "rows": [result.as_dict() for result in self.results],
        }


def run_live(
    settings: LiveSettings,
    engine: Engine,
    prompts: Prompts,
    predictor: Predictor,
    placement: Placement,
    *,
    waits_for_busiest: bool = False,
    new_clock: Callable[[], Clock] = WallClock,
    on_progress: OnProgress = lambda what, done, total: None,
) -> LiveResults:
    """Warm up, then serve the same arrivals under each strategy, and simulate each.

    A fifth of each topic's prompts is for the warm-up, which is all that the simulator knows.
    waits_for_busiest: whether the experts are on processes of their own, so that a batch's time depends on the busiest.
    Ctrl-C after the warm-up ends the study, with what was finished. Raises ConfigError, ShapeError.
    """
    batch_size = settings.scheduler.max_batch_size
    first, rest = prompts.split(_WARMUP_SHARE)
    known = warm_up(
        first,
        engine,
        new_clock(),
        max_batch_size=batch_size,
        peak_pairs=(lambda load_LE: peak_pairs(load_LE, placement)) if waits_for_busiest else None,
        on_progress=lambda done, total: on_progress("warming up", done, total),
    )
    execution = MeasuredExecution(batch_time=known.batch_time, placement=placement)
    capacity = batch_size / known.full_batch_s
    rate = settings.rate_per_s or settings.share * capacity
    arrivals = Bursty(rate_per_s=rate, burst_requests=settings.burst_requests)
    requests = make_requests(arrivals, settings.num_requests, rest, predictor, placement, settings.seed)
    foreseen = foreseen_requests(requests, known, predictor, placement)
    results: list[LiveResult] = []
    for strategy in settings.strategies:
        config = replace(settings.scheduler, strategy=strategy)
        run = serve(
            requests,
            engine,
            execution,
            config,
            new_clock,
            lambda done, strategy=strategy: on_progress(strategy, done, len(requests)),  # type: ignore[misc]
        )
        if run.batches:
            results.append(_result(requests, foreseen, run, execution, config))
        if run.interrupted:
            break
    return LiveResults(
        batch_time=known.batch_time,
        capacity_per_s=capacity,
        rate_per_s=rate,
        results=tuple(results),
        interrupted=len(results) < len(settings.strategies) or results[-1].interrupted,
    )


def _result(
    requests: Sequence[LiveRequest],
    foreseen: Sequence[Request],
    run: LiveRun,
    execution: MeasuredExecution,
    config: SchedulerConfig,
) -> LiveResult:
    own, foretold_s = fit_of_run(requests, run, execution)
    whole = not run.interrupted
    return LiveResult(
        strategy=run.strategy,
        measured=measured_metrics(requests, run, execution),
        forecast=forecast(foreseen, execution, config) if whole else None,
        refitted=forecast(foreseen, replace(execution, batch_time=own), config) if whole else None,
        cosine_L=prediction_cosines(requests, run),
        batch_time=own,
        batch_s=float(np.mean([batch.seconds for batch in run.batches])),
        foretold_batch_s=float(np.mean(foretold_s)),
        batch_requests=float(np.mean([len(batch.numbers) for batch in run.batches])),
        waiting=float(np.mean([batch.waiting for batch in run.batches])),
        interrupted=run.interrupted,
    )

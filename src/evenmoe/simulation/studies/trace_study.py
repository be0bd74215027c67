"""A trace study: real arrivals and real expert loads under several strategies, each beside fcfs on the same requests.

Shape letters: G topics, P prompts, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from evenmoe.errors import ConfigError, check_choice
from evenmoe.scheduling import STRATEGIES, SchedulerConfig
from evenmoe.simulation.checks import check_number
from evenmoe.simulation.continuous import Continuous
from evenmoe.simulation.drawn import DrawnWorkload
from evenmoe.simulation.execution import Execution
from evenmoe.simulation.metrics import RunMetrics
from evenmoe.simulation.request import Floats
from evenmoe.simulation.simulate import simulate
from evenmoe.simulation.static import Static
from evenmoe.simulation.studies.intervals import spread
from evenmoe.simulation.studies.journal import Journal, Row
from evenmoe.simulation.studies.study import Announce, Cell, grid, run_cells
from evenmoe.simulation.studies.trace_results import (
    BASELINE,
    VARIANTS,
    Rows,
    TraceResults,
    Variant,
    advice_on,
    rows_of,
    strategy_line,
)
from evenmoe.simulation.workloads.arrivals import DEFAULT_BURST_REQUESTS, Replayed
from evenmoe.simulation.workloads.lengths import Fixed, RequestLengths
from evenmoe.simulation.workloads.load_sources import DomainLoadsSource, PromptLoads
from evenmoe.simulation.workloads.traces import Trace
from evenmoe.simulation.workloads.workload import SimulatedWorkload

_ALL_AT_ONCE_PER_S = 1e6
"""A rate at which all requests wait from the start, so that every batch is full."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceStudy:
    """What is simulated.

    trace: the requests, in their own time. loads: what they ask of the experts, by topic.
    topic_run, by_session: how topics are drawn for a trace that names none, see Replayed.
    lengths: instead of the trace's, of one length each. strategies: compared with fcfs, which is always run.
    seeds: each draws topics and loads anew; the times are the trace's. warmup: share of the requests not counted.
    share: arrival rate as a share of what fcfs can serve; or rate_per_s itself. Raises ConfigError.
    """

    trace: Trace
    loads: DomainLoadsSource | PromptLoads
    execution: Execution
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    batching: Static | Continuous = field(default_factory=Static)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    lengths: RequestLengths = field(default_factory=RequestLengths)
    topic_run: float = DEFAULT_BURST_REQUESTS
    by_session: bool = False
    warmup: float = 0.1
    share: float | None = 0.9
    rate_per_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("strategies", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(name, list(values), "one or more, each once")
        for strategy in self.strategies:
            check_choice("strategies", strategy, STRATEGIES)
        if set(self.strategies) == {BASELINE}:
            raise ConfigError("strategies", list(self.strategies), f"at least one beside {BASELINE}")
        if (self.share is None) == (self.rate_per_s is None):
            raise ConfigError("share", self.share, "given, or rate_per_s given instead")
        for name in ("share", "rate_per_s"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0.0, above=True)
        self.workload(1.0)

    @property
    def all_strategies(self) -> tuple[str, ...]:
        """fcfs, then the others."""
        return (BASELINE, *(name for name in self.strategies if name != BASELINE))

    def workload(self, rate_per_s: float, variant: str = "as is") -> SimulatedWorkload:
        """The requests at this mean rate; variant: of VARIANTS."""
        names_topics = self.trace.topic_N is not None
        arrivals = Replayed(
            trace=self.trace.scaled(rate_per_s=rate_per_s),
            topic_run=1.0 if names_topics or self.by_session else self.topic_run,
            by_session=self.by_session,
        )
        return SimulatedWorkload(
            arrivals=arrivals,
            loads=alike(self.loads) if variant == "same topics" else self.loads,
            lengths=self.lengths if variant == "as is" else self._mean_lengths(),
        )

    def _mean_lengths(self) -> RequestLengths:
        """Every request as long as the mean of the trace's, or as `lengths` says where it says anything."""
        prompt, output = (
            Fixed(max(round(float(tokens.mean())), 1))
            for tokens in (self.trace.prompt_tokens, self.trace.output_tokens)
        )
        return RequestLengths(prompt=self.lengths.prompt or prompt, output=self.lengths.output or output)


@dataclass(frozen=True, kw_only=True)
class RunTraceCells:
    """Runs cells of one workload, whose pattern is one of VARIANTS; at _ALL_AT_ONCE_PER_S nothing is cut off."""

    study: TraceStudy

    def __call__(self, cells: Sequence[Cell]) -> list[Row]:
        """A row for each cell, in order."""
        study, first = self.study, cells[0]
        number = len(study.trace)
        workload = DrawnWorkload.of(study.workload(first.rate_per_s, first.pattern), first.seed, number)
        return [asdict(cell) | self._run(workload, cell, number).as_dict() for cell in cells]

    def _run(self, workload: DrawnWorkload, cell: Cell, number: int) -> RunMetrics:
        study = self.study
        return simulate(
            workload,
            study.execution,
            replace(study.scheduler, strategy=cell.strategy),
            batching=study.batching,
            seed=cell.seed,
            num_requests=number,
            warmup=0.0 if cell.rate_per_s == _ALL_AT_ONCE_PER_S else study.warmup,
            max_waiting=number + 1,
        )


def run_trace(
    study: TraceStudy, *, explain: bool = True, jobs: int | None = None, announce: Announce | None = None
) -> TraceResults:
    """Find out what each strategy can serve, then run each at the rate asked for.

    explain: all of it with requests that are alike too, which says what of a gain is due to the experts.
    jobs: processes; None: one for each core. Raises ConfigError.
    """
    variants = VARIANTS if explain else VARIANTS[:1]
    strategies = study.all_strategies
    per_run = len(strategies) * len(study.seeds)
    done = 0

    def run(variant: Variant, rate_per_s: float) -> list[Row]:
        nonlocal done
        before = done
        rows = run_cells(
            grid([variant], [rate_per_s], study.seeds, strategies),
            RunTraceCells(study=study),
            journal=journal,
            jobs=jobs,
            announce=lambda more, _: (
                announce(before + more, 2 * per_run * len(variants)) if announce else None
            ),
        )
        done += per_run
        return rows

    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "cells.jsonl", {})
        saturated = {variant: run(variant, _ALL_AT_ONCE_PER_S) for variant in variants}
        capacity = {variant: _capacity_per_s(rows) for variant, rows in saturated.items()}
        share = study.share
        if share is None:
            assert study.rate_per_s is not None
            share = study.rate_per_s / capacity["as is"]
        timed = {variant: run(variant, share * capacity[variant]) for variant in variants}
    rows = Rows(timed=timed, saturated=saturated)
    lines = tuple(strategy_line(strategy, rows) for strategy in strategies)
    rate = share * capacity["as is"]
    return TraceResults(
        own_rate_per_s=study.trace.rate_per_s,
        rate_per_s=rate,
        capacity_per_s=capacity["as is"],
        num_requests=len(study.trace),
        lines=lines,
        advice=advice_on(lines, rate, _taken_at_a_time(study)),
    )


def alike(source: DomainLoadsSource | PromptLoads) -> DomainLoadsSource | PromptLoads:
    """The same source where every topic, or every prompt, has the mean load of all; its noise stays."""
    if isinstance(source, DomainLoadsSource):
        return replace(source, expected_GLE=_mean_of_all(source.expected_GLE))
    return replace(source, expected_PLE=_mean_of_all(source.expected_PLE))


def _mean_of_all(expected: Floats) -> Floats:
    return np.broadcast_to(expected.mean(0), expected.shape)


def _capacity_per_s(rows: Sequence[Row]) -> float:
    return spread([row["throughput_requests_s"] for row in rows_of(rows, BASELINE)]).mean


def _taken_at_a_time(study: TraceStudy) -> int:
    """Requests that leave the queue together: a batch, or, in continuous batching, one as soon as there is a place."""
    return study.scheduler.max_batch_size if isinstance(study.batching, Static) else 1

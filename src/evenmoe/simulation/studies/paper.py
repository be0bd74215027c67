"""Paper: CAPS's study as a configuration, and how one of its cells runs.

What is published are the schedulers' settings, rates, seeds and number of requests, and results. The workload is not:
the one here has the imbalance that the results imply, found by runs/caps_fit.py (see docs/caps_study.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from evenmoe.errors import ConfigError, check_choice
from evenmoe.scheduling import STRATEGIES, SchedulerConfig
from evenmoe.simulation.checks import check_int, check_number
from evenmoe.simulation.cv import CvExecution
from evenmoe.simulation.drawn import DrawnWorkload
from evenmoe.simulation.simulate import simulate
from evenmoe.simulation.studies.journal import Row
from evenmoe.simulation.studies.published import PATTERNS
from evenmoe.simulation.studies.study import Cell, grid
from evenmoe.simulation.workloads.arrivals import Arrivals, Bursty, Poisson
from evenmoe.simulation.workloads.lengths import Fixed, LogNormal, RequestLengths
from evenmoe.simulation.workloads.load_noise import LoadNoise
from evenmoe.simulation.workloads.load_sources import SyntheticTopics
from evenmoe.simulation.workloads.workload import SimulatedWorkload

BASELINE = "fcfs"
GRID = ("seeds", "rates_per_s", "patterns", "strategies")
QUANTILES = tuple(range(0, 101, 2))
"""Percentiles of latency that a row keeps, for distributions."""


@dataclass(frozen=True, kw_only=True)
class PaperWorkload:
    """Synthetic requests: topics that prefer experts, bursts that share a topic.

    num_topics, concentration, request_noise, burst_requests: as of SyntheticTopics, LoadNoise and Bursty; those four
        were fitted.
    burst_intensity: rate inside a burst over the mean rate.
    prompt_tokens, prompt_sigma: mean and spread of log-normal prompt lengths. output_tokens: of every answer.
    Raises ConfigError.
    """

    num_topics: int = 16
    num_experts: int = 60
    top_k: int = 4
    concentration: float = 0.3
    request_noise: float = 0.1
    burst_requests: float = 35.0
    burst_intensity: float = 1.25
    prompt_tokens: float = 256.0
    prompt_sigma: float = 0.25
    output_tokens: int = 32

    def made(self, pattern: str, rate_per_s: float) -> SimulatedWorkload:
        """The stream of requests, without end, of one pattern at one rate."""
        check_choice("pattern", pattern, PATTERNS)
        arrivals: Arrivals = Poisson(rate_per_s=rate_per_s)
        if pattern == "bursty":
            arrivals = Bursty(
                rate_per_s=rate_per_s, burst_requests=self.burst_requests, intensity=self.burst_intensity
            )
        return SimulatedWorkload(
            arrivals=arrivals,
            loads=SyntheticTopics(
                num_topics=self.num_topics,
                num_experts=self.num_experts,
                top_k=self.top_k,
                concentration=self.concentration,
                noise=LoadNoise(request=self.request_noise),
            ),
            lengths=RequestLengths(
                prompt=LogNormal(self.prompt_tokens, self.prompt_sigma), output=Fixed(self.output_tokens)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """The study: its grid, its workload, its machine, its scheduler.

    The machine takes `prefill_s` + `decode_s` * (output tokens - 1) times 1 + CV * sensitivity for a batch: the sum is
    what the published results imply, how it divides is ours. The scheduler's strategy and seed are those of each cell;
    it has no bound on passing over, as CAPS has none.
    strategies: `fcfs` must be among them, all gains are over it.
    Raises ConfigError.
    """

    requests: int = 3000
    seeds: tuple[int, ...] = (42, 123, 456, 789)
    rates_per_s: tuple[float, ...] = (150.0, 200.0, 250.0, 300.0)
    patterns: tuple[str, ...] = PATTERNS
    strategies: tuple[str, ...] = STRATEGIES
    workload: PaperWorkload = field(default_factory=PaperWorkload)
    sensitivity: float = 0.46
    prefill_s: float = 0.00716
    decode_s: float = 0.001
    scheduler: SchedulerConfig = field(default_factory=lambda: SchedulerConfig(max_passed_over=1000))

    def __post_init__(self) -> None:
        check_int("requests", self.requests, 1)
        for seed in self.seeds:
            check_int("seeds", seed, 0)
        for rate in self.rates_per_s:
            check_number("rates", rate, 0.0, above=True)
        for name, known in (("patterns", PATTERNS), ("strategies", STRATEGIES)):
            for value in getattr(self, name):
                check_choice(name, value, known)
        for name in ("seeds", "rates_per_s", "patterns", "strategies"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(name, values, "at least one, and none twice")
        if BASELINE not in self.strategies:
            raise ConfigError("strategies", self.strategies, f"with {BASELINE}: gains are over it")

    @property
    def execution(self) -> CvExecution:
        """The machine."""
        return CvExecution(sensitivity=self.sensitivity, prefill_s=self.prefill_s, decode_s=self.decode_s)

    def capacity_per_s(self, imbalance: float) -> float:
        """Requests per second of full batches one after another, of this mean imbalance."""
        even_s = self.prefill_s + self.decode_s * (self.workload.output_tokens - 1)
        return self.scheduler.max_batch_size / (even_s * imbalance)

    def cells(self) -> list[Cell]:
        """The grid."""
        return grid(self.patterns, self.rates_per_s, self.seeds, self.strategies)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data; the scheduler's strategy and seed are those of each cell, so they are left out."""
        body = asdict(self)
        del body["scheduler"]["strategy"], body["scheduler"]["seed"]
        return body

    def without_grid(self) -> dict[str, Any]:
        """What the result of a cell depends on: all but which cells there are."""
        return {key: value for key, value in self.as_dict().items() if key not in GRID}


@dataclass(frozen=True, kw_only=True)
class RunPaperCells:
    """Runs cells of one workload: the requests are drawn once, each strategy serves them. Its rows are RunMetrics as
    plain data, the cell, and `latency_quantiles_s` at QUANTILES."""

    config: PaperConfig
    requests: int
    warmup: float = 0.0

    def __call__(self, cells: Sequence[Cell]) -> list[Row]:
        """A row for each cell, in order."""
        first = cells[0]
        stream = self.config.workload.made(first.pattern, first.rate_per_s)
        workload = DrawnWorkload.of(stream, first.seed, self.requests)
        return [self._row(workload, cell) for cell in cells]

    def _row(self, workload: DrawnWorkload, cell: Cell) -> Row:
        metrics = simulate(
            workload,
            self.config.execution,
            replace(self.config.scheduler, strategy=cell.strategy),
            seed=cell.seed,
            num_requests=self.requests,
            warmup=self.warmup,
        )
        quantiles = np.percentile(metrics.latency_s, QUANTILES)
        return (
            asdict(cell)
            | metrics.as_dict()
            | {"latency_quantiles_s": [round(value, 6) for value in quantiles.tolist()]}
        )

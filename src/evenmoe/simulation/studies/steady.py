"""Steady state: what scheduling brings a machine that keeps up, at shares of the load that fcfs can serve.

A run above capacity measures how long it is. Here the rate is under fcfs's own capacity, the run is long, and its
beginning is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evenmoe.errors import ConfigError, check_choice
from evenmoe.scheduling import STRATEGIES
from evenmoe.simulation.checks import check_int, check_number
from evenmoe.simulation.studies.intervals import Spread, paired_gain, spread
from evenmoe.simulation.studies.journal import Journal, Row
from evenmoe.simulation.studies.paper import BASELINE, PaperConfig, RunPaperCells
from evenmoe.simulation.studies.study import Announce, Cell, grid, run_cells

_ALL_AT_ONCE_PER_S = 1e6
"""A rate at which all requests wait from the start, so that every batch is full and the machine never idle."""


@dataclass(frozen=True, kw_only=True)
class SteadyConfig:
    """Shares of fcfs's capacity, and how long is run at each.

    warmup: share of the requests at the beginning whose latency is not counted. Raises ConfigError.
    """

    shares: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)
    requests: int = 10_000
    warmup: float = 0.1
    strategies: tuple[str, ...] = (BASELINE, "greedy_variance", "peak_excess", "auto")

    def __post_init__(self) -> None:
        check_int("steady requests", self.requests, 100)
        for share in self.shares:
            check_number("steady shares", share, 0.0, above=True)
        if not 0 <= self.warmup < 1:
            raise ConfigError("steady warmup", self.warmup, "a share from 0 to under 1")
        for strategy in self.strategies:
            check_choice("steady strategies", strategy, STRATEGIES)
        if BASELINE not in self.strategies:
            raise ConfigError("steady strategies", self.strategies, f"with {BASELINE}: gains are over it")

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SteadyLine:
    """One strategy at one share of fcfs's capacity. Gains over fcfs are paired by seed; None for fcfs itself."""

    pattern: str
    share: float
    rate_per_s: float
    strategy: str
    p50_s: float
    p99_s: float
    imbalance: float
    queue_depth: float
    p50_gain: Spread | None
    p99_gain: Spread | None


def capacity_per_s(rows: Sequence[Row]) -> float:
    """Requests per second of runs that were never idle: the mean over seeds."""
    return spread([row["throughput_requests_s"] for row in rows]).mean


def capacity_cells(config: PaperConfig) -> list[Cell]:
    """fcfs with all requests waiting from the start, for each pattern and seed."""
    return grid(config.patterns, [_ALL_AT_ONCE_PER_S], config.seeds, [BASELINE])


def run_steady(
    config: PaperConfig,
    steady: SteadyConfig,
    *,
    journal: Journal,
    jobs: int | None = None,
    announce: Announce | None = None,
) -> dict[str, Any]:
    """Find fcfs's capacity for each pattern, then run every strategy at its shares; the result is plain data.

    config: of the workload, the machine, the scheduler and the seeds; its rates, requests and strategies do not count.
    Raises ConfigError.
    """
    saturated = run_cells(
        capacity_cells(config),
        RunPaperCells(config=config, requests=steady.requests),
        journal=journal,
        jobs=jobs,
    )
    capacity = {
        pattern: capacity_per_s([row for row in saturated if row["pattern"] == pattern])
        for pattern in config.patterns
    }
    cells = [
        cell
        for pattern in config.patterns
        for cell in grid(
            [pattern], [share * capacity[pattern] for share in steady.shares], config.seeds, steady.strategies
        )
    ]
    run = RunPaperCells(config=config, requests=steady.requests, warmup=steady.warmup)
    rows = run_cells(cells, run, journal=journal, jobs=jobs, announce=announce)
    return {
        "config": steady.as_dict(),
        "capacity_per_s": capacity,
        "lines": [asdict(line) for line in steady_lines(steady, capacity, rows)],
    }


def steady_lines(
    steady: SteadyConfig, capacity: Mapping[str, float], rows: Sequence[Row]
) -> list[SteadyLine]:
    """Means and paired gains by pattern, share and strategy."""
    by: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        by.setdefault((row["pattern"], row["rate_per_s"], row["strategy"]), []).append(row)
    return [
        _line(share, by[pattern, share * per_s, strategy], by[pattern, share * per_s, BASELINE])
        for pattern, per_s in capacity.items()
        for share in steady.shares
        for strategy in steady.strategies
    ]


def _line(share: float, rows: Sequence[Row], baseline: Sequence[Row]) -> SteadyLine:
    first = rows[0]

    def mean(field: str) -> float:
        return spread([row[field] for row in rows]).mean

    def gain(field: str) -> Spread | None:
        if first["strategy"] == BASELINE:
            return None
        return paired_gain([row[field] for row in rows], [row[field] for row in baseline])

    return SteadyLine(
        pattern=first["pattern"],
        share=share,
        rate_per_s=first["rate_per_s"],
        strategy=first["strategy"],
        p50_s=mean("latency_p50_s"),
        p99_s=mean("latency_p99_s"),
        imbalance=mean("imbalance"),
        queue_depth=mean("queue_depth_mean"),
        p50_gain=gain("latency_p50_s"),
        p99_gain=gain("latency_p99_s"),
    )

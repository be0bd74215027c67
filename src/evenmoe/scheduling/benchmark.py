"""Benchmark: how long a decision takes, every strategy beside fcfs in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.scheduling.selecting import STRATEGIES, select
from evenmoe.scheduling.window import Floats, Window

_TOPICS = 5
_MOST_WINDOWS = 64


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size of the problem: a batch of a window of vectors of num_layers * entries."""

    batch_size: int
    window: int
    entries: int
    num_layers: int = 1

    @property
    def length(self) -> int:
        """Entries of a load vector, over all layers."""
        return self.num_layers * self.entries


SMALL = Case(batch_size=8, window=32, entries=60)
LARGE = Case(batch_size=64, window=1024, entries=64, num_layers=16)
GROWTH = (
    *(Case(batch_size=8, window=window, entries=60) for window in (16, 64, 128, 512)),
    *(Case(batch_size=8, window=32, entries=entries) for entries in (8, 256, 1024)),
)


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One measured line. `ratio_to_fcfs` compares the medians of this run."""

    strategy: str
    batch_size: int
    window: int
    entries: int
    num_layers: int
    median_ms: float
    best_ms: float
    cpu_ms: float
    """Mean CPU time, which other programs on the machine disturb less."""
    ratio_to_fcfs: float


def bench_scheduler(
    cases: Sequence[Case] = (SMALL, *GROWTH, LARGE),
    strategies: Sequence[str] = STRATEGIES,
    repeats: int = 50,
    seed: int = 0,
    on_case: Callable[[Case], None] = lambda case: None,
) -> list[BenchRow]:
    """Time `repeats` decisions of each strategy, as a queue in use makes them, in milliseconds of wall time.

    Between two decisions the picked requests leave and as many new ones come; the window keeps its products, and
    those of the new ones are part of the decision that first needs them. Strategies take turns, and
    `fcfs` is always one of them.
    Raises ConfigError for counts below 1, or no more requests in the window than in a batch.
    """
    if repeats < 1:
        raise ConfigError("repeats", repeats, "at least 1")
    rows: list[BenchRow] = []
    for case in cases:
        if case.window <= case.batch_size:
            raise ConfigError("window", case.window, f"more than the batch size, {case.batch_size}")
        on_case(case)
        rows += _rows(case, tuple(dict.fromkeys(["fcfs", *strategies])), repeats, seed)
    return rows


def bursty_loads(num_requests: int, case: Case, rng: np.random.Generator) -> Floats:
    """[N, L * X]: log-normal topics in bursts of 32 on average, each request its topic times exp(0.2 z)."""
    topic_GX = np.exp(rng.standard_normal((_TOPICS, case.length)))
    drawn_N = rng.integers(_TOPICS, size=num_requests)
    starts_N = rng.random(num_requests) < 1 / 32
    starts_N[0] = True
    last_start_N = np.maximum.accumulate(np.where(starts_N, np.arange(num_requests), 0))
    return topic_GX[drawn_N[last_start_N]] * np.exp(0.2 * rng.standard_normal((num_requests, case.length)))


def _rows(case: Case, strategies: tuple[str, ...], repeats: int, seed: int) -> list[BenchRow]:
    rng = np.random.default_rng(seed)
    num_rounds = repeats + 2  # the first two warm up
    num_requests = min(case.window + num_rounds * case.batch_size, _MOST_WINDOWS * case.window)
    loads_NX = bursty_loads(num_requests, case, rng)
    windows = {name: Window(case.length, num_layers=case.num_layers) for name in strategies}
    for window in windows.values():
        window.add(loads_NX[: case.window - case.batch_size])
    wall_ms: dict[str, list[float]] = {name: [] for name in strategies}
    cpu_ms: dict[str, list[float]] = {name: [] for name in strategies}
    for number in range(num_rounds):
        start = (case.window + number * case.batch_size) % (num_requests - case.batch_size + 1)
        new_NX = loads_NX[start : start + case.batch_size]
        for name, window in windows.items():
            window.add(new_NX)
            cpu, wall = time.process_time(), time.perf_counter()  # reading the CPU's clock takes longer
            picked = select(name, window, case.batch_size, rng=rng)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            cpu_ms[name].append(cpu * 1000)
            wall_ms[name].append(wall * 1000)
            window.remove(picked)
    reference = median(wall_ms["fcfs"][2:])
    return [
        BenchRow(
            strategy=name,
            batch_size=case.batch_size,
            window=case.window,
            entries=case.entries,
            num_layers=case.num_layers,
            median_ms=median(wall_ms[name][2:]),
            best_ms=min(wall_ms[name][2:]),
            cpu_ms=sum(cpu_ms[name][2:]) / repeats,
            ratio_to_fcfs=median(wall_ms[name][2:]) / reference,
        )
        for name in strategies
    ]

"""Benchmark: what admission adds to an engine's step, every strategy beside fcfs in the same run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Protocol

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.serving.admission.admission import Admission
from evenmoe.serving.admission.shape import Shape
from evenmoe.serving.admission.workload import Prompt, even_snapshot, prompts, write_prior
from evenmoe.serving.config import RoutingConfig, SchedulingConfig

OBSERVED_EVERY = 20
"""Steps from one snapshot of loads to the next: a second of an engine with steps of 50 ms."""

STRATEGIES = ("fcfs", "auto", "greedy_variance", "peak_excess")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and an engine that is kept busy: as many requests come as begin to run."""

    name: str
    shape: Shape
    num_devices: int = 1
    waiting: int = 256
    running: int = 64
    step_tokens: int = 2048
    mean_tokens: int = 200
    mean_new_tokens: int = 100


CASES = (
    Case(name="bundled:text", shape=Shape(num_layers=4, num_experts=32, top_k=4)),
    Case(name="short answers", shape=Shape(num_layers=4, num_experts=32, top_k=4), mean_new_tokens=16),
    Case(name="OLMoE, experts", shape=Shape(num_layers=16, num_experts=64, top_k=8)),
    Case(name="OLMoE, 8 devices", shape=Shape(num_layers=16, num_experts=64, top_k=8), num_devices=8),
)


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One measured line: CPU time that the scheduling of a step took, all of it, in milliseconds.

    added_ms: the mean of it over that of fcfs without a predictor, which is what an engine does without evenmoe.
    """

    case: str
    strategy: str
    mean_ms: float
    median_ms: float
    p99_ms: float
    added_ms: float


class Engine(Protocol):
    """Something that schedules steps."""

    def step(self, new: Sequence[Prompt], observed: bool) -> float:
        """Take in requests, and decide on a step; seconds that the scheduling took. `observed`: loads were counted."""

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""


class AdmissionEngine:
    """Admission alone, in an engine whose steps run at once."""

    def __init__(self, case: Case, config: SchedulingConfig) -> None:
        self._case = case
        self._admission = Admission(
            config,
            routing=RoutingConfig(num_devices=case.num_devices),
            shape=case.shape,
            most_of_one=case.step_tokens,
        )
        self._left: dict[int, int] = {}  # new tokens that each running request still makes
        self._new_tokens: dict[int, int] = {}
        self._prompt: dict[int, int] = {}
        self._num_tokens = self._num_submitted = 0

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self._admission)

    def step(self, new: Sequence[Prompt], observed: bool) -> float:
        """See Engine."""
        for key in [key for key, left in self._left.items() if not left]:
            del self._left[key]
            self._admission.finished(key)
        snapshot = even_snapshot(self._case.shape, self._num_tokens) if observed else None
        start = time.thread_time()
        if snapshot is not None:
            self._admission.observe(snapshot)
        for prompt in new:
            self._admission.submit(self._num_submitted, prompt.ids)
            self._new_tokens[self._num_submitted] = prompt.new_tokens
            self._prompt[self._num_submitted] = len(prompt.ids)
            self._num_submitted += 1
        parts = [(key, 1) for key in self._left]
        joined = self._joining(parts)
        self._admission.admitted([key for key, _ in joined])
        self._admission.handed_out(parts + joined)
        seconds = time.thread_time() - start
        self._num_tokens += len(parts) + sum(tokens for _, tokens in joined)
        for key in self._left:
            self._left[key] -= 1
        for key, _ in joined:
            self._left[key] = self._new_tokens.pop(key)
        return seconds

    def _joining(self, parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Who joins, with how many tokens; a prompt that does not fit whole waits for the next step."""
        joined: list[tuple[int, int]] = []
        room, left = self._case.running - len(parts), self._case.step_tokens - len(parts)
        order = self._admission.order(room=room, most_tokens=left, running=lambda: parts)
        while room and left > 0:
            key = next(order, None)
            if not isinstance(key, int) or self._prompt[key] > left:
                break
            joined.append((key, self._prompt.pop(key)))
            room, left = room - 1, left - joined[-1][1]
        return joined


def bench_admission(
    cases: Sequence[Case] = CASES,
    strategies: Sequence[str] = STRATEGIES,
    steps: int = 300,
    seed: int = 0,
    engine_of: Callable[[Case, SchedulingConfig], Engine] = AdmissionEngine,
    on_case: Callable[[Case], None] = lambda case: None,
) -> list[BenchRow]:
    """Time `steps` steps of each strategy, with a token prior and feedback, and of fcfs without a predictor.

    Strategies take turns, step by step. Predictions of new requests are part of the step that they come before.
    Raises ConfigError for steps below 2.
    """
    if steps < 2:
        raise ConfigError("steps", steps, "at least 2")
    rows: list[BenchRow] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            on_case(case)
            rows += _rows(case, strategies, steps, seed, Path(folder), engine_of)
    return rows


def _rows(
    case: Case,
    strategies: Sequence[str],
    steps: int,
    seed: int,
    folder: Path,
    engine_of: Callable[[Case, SchedulingConfig], Engine],
) -> list[BenchRow]:
    prior = write_prior(case.shape, folder, seed)
    configs = {"none": SchedulingConfig(strategy="fcfs")}
    for strategy in strategies:
        configs[strategy] = SchedulingConfig(strategy=strategy, predictor="token-prior", prior=prior)
    engines = {name: engine_of(case, config) for name, config in configs.items()}
    sources = {
        name: prompts(
            np.random.default_rng(seed), mean_tokens=case.mean_tokens, mean_new_tokens=case.mean_new_tokens
        )
        for name in engines
    }
    warm_up = 2 * case.mean_new_tokens  # by then requests end at all times
    took: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(warm_up + steps):
        for name, engine in engines.items():
            new = [next(sources[name]) for _ in range(case.waiting - engine.num_waiting)]
            took[name].append(engine.step(new, number % OBSERVED_EVERY == 0))
    least = mean(took["none"][warm_up:])
    return [_row(case, name, [1e3 * s for s in times[warm_up:]], 1e3 * least) for name, times in took.items()]


def _row(case: Case, name: str, times_ms: list[float], least_ms: float) -> BenchRow:
    return BenchRow(
        case=case.name,
        strategy="fcfs, no predictor" if name == "none" else name,
        mean_ms=mean(times_ms),
        median_ms=median(times_ms),
        p99_ms=quantiles(times_ms, n=100, method="inclusive")[98],
        added_ms=mean(times_ms) - least_ms,
    )

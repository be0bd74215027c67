"""How many requests per second the simulator serves, of the machine it runs on."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from evenmoe.costs import SHAPES, read_machine
from evenmoe.errors import ConfigError, check_choice
from evenmoe.scheduling import STRATEGIES, SchedulerConfig
from evenmoe.simulation.continuous import Continuous
from evenmoe.simulation.cv import CvExecution
from evenmoe.simulation.execution import Execution
from evenmoe.simulation.layer_costs import MachineCosts
from evenmoe.simulation.metrics import RunMetrics
from evenmoe.simulation.simulate import simulate
from evenmoe.simulation.static import Static
from evenmoe.simulation.straggler import StragglerExecution
from evenmoe.simulation.workloads.arrivals import Bursty
from evenmoe.simulation.workloads.lengths import Fixed, Geometric, LogNormal, RequestLengths
from evenmoe.simulation.workloads.load_sources import SyntheticTopics
from evenmoe.simulation.workloads.workload import SimulatedWorkload

BenchModel = Literal["static/cv", "static/straggler", "continuous/straggler"]
BENCH_MODELS: Final[tuple[BenchModel, ...]] = get_args(BenchModel)

_STATUS = Path("/proc/self/status")
_WARM_UP = 100
_DEVICES = 8
_LOADS = 3
"""Layers whose loads are known, of OLMoE's 16."""


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One run. Times are this process's; simulated_s is the time of the run itself.

    peak_mb: the most resident memory of the process so far, in 10^6 bytes.
    """

    model: BenchModel
    strategy: str
    requests: int
    wall_s: float
    cpu_s: float
    requests_per_wall_s: float
    requests_per_cpu_s: float
    cpu_us_per_request: float
    ratio_to_fcfs: float
    simulated_s: float
    utilisation: float
    overloaded: bool
    peak_mb: float


@dataclass(frozen=True, kw_only=True)
class _Case:
    workload: SimulatedWorkload
    execution: Execution
    batching: Static | Continuous


def bench_simulator(
    models: Sequence[str],
    strategies: Sequence[str],
    num_requests: int,
    seed: int,
    on_run: Callable[[str, str], None] = lambda model, strategy: None,
    progress: Callable[[int], None] | None = None,
) -> list[BenchRow]:
    """Run every strategy on every model once, fcfs first; what requests cost to make is part of it.

    on_run: told before each run. progress: told the requests that a run has finished.
    Raises ConfigError for an unknown model or strategy, or fewer than 1 request.
    """
    for model in models:
        check_choice("model", model, BENCH_MODELS)
    for strategy in strategies:
        check_choice("strategy", strategy, STRATEGIES)
    if num_requests < 1:
        raise ConfigError("requests", num_requests, "at least 1")
    rows: list[BenchRow] = []
    for model in models:
        case, reference_s = _case(model), 0.0
        _run(case, "fcfs", min(num_requests, _WARM_UP), seed)
        for strategy in dict.fromkeys(["fcfs", *strategies]):
            on_run(model, strategy)
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            found = _run(case, strategy, num_requests, seed, progress)
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            reference_s = reference_s or cpu_s
            rows.append(
                BenchRow(
                    model=model,  # type: ignore[arg-type]
                    strategy=strategy,
                    requests=found.finished,
                    wall_s=wall_s,
                    cpu_s=cpu_s,
                    requests_per_wall_s=found.finished / wall_s,
                    requests_per_cpu_s=found.finished / cpu_s,
                    cpu_us_per_request=cpu_s / found.finished * 1e6,
                    ratio_to_fcfs=cpu_s / reference_s,
                    simulated_s=found.seconds,
                    utilisation=found.utilisation,
                    overloaded=found.overloaded,
                    peak_mb=peak_mb(),
                )
            )
    return rows


def _run(
    case: _Case,
    strategy: str,
    num_requests: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> RunMetrics:
    return simulate(
        case.workload,
        case.execution,
        SchedulerConfig(strategy=strategy),
        batching=case.batching,
        seed=seed,
        num_requests=num_requests,
        progress=progress,
    )


def _case(model: str) -> _Case:
    """A load at which requests queue but do not pile up: bursts on one topic at a good half of what is served."""
    if model == "static/cv":
        return _Case(
            workload=SimulatedWorkload(
                arrivals=Bursty(rate_per_s=100.0),
                loads=SyntheticTopics(),
                lengths=RequestLengths(prompt=Fixed(128), output=Fixed(32)),
            ),
            execution=CvExecution(prefill_s=0.01, decode_s=0.0004),
            batching=Static(),
        )
    shape = SHAPES["olmoe"]
    is_static = model == "static/straggler"
    return _Case(
        workload=SimulatedWorkload(
            arrivals=Bursty(rate_per_s=8.0 if is_static else 80.0),
            loads=SyntheticTopics(
                num_experts=shape.num_experts, top_k=shape.top_k, num_layers=_LOADS, concentration=1.0
            ),
            lengths=RequestLengths(prompt=LogNormal(256, 0.8), output=Geometric(64)),
        ),
        execution=StragglerExecution(
            shape,
            num_loads=_LOADS,
            num_devices=_DEVICES,
            costs=MachineCosts(machine=read_machine("h100-node"), shape=shape),
        ),
        batching=Static() if is_static else Continuous(),
    )


def peak_mb() -> float:
    """The most resident memory that this process has had, in 10^6 bytes."""
    if (
        _STATUS.exists()
    ):  # what getrusage says on Linux is at least what the process that started this one had
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

"""measure: what one rank of a calibration does, all ranks at the same time. torch; see `evenmoe.costs.calibrate`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evenmoe.costs.plan import CalibrationConfig, ShapePlan, plan_shape
from evenmoe.costs.rounds import Clock, Clocks, median_times
from evenmoe.costs.shape import LayerShape
from evenmoe.routing import POLICIES, make_policy
from evenmoe.routing.policy import Policy

if TYPE_CHECKING:
    from evenmoe.costs.workbench import ExpertsBench, LayerBench, SharedBench
    from evenmoe.parallel import Group

Progress = Callable[[str, int, int], None]
Job = Callable[[], Mapping[tuple[object, ...], float]]
_OPTIONS: dict[str, dict[str, float]] = {"threshold_drop": {"threshold": 0.05}}
GAMMA = 1.0
_BARRIERS = 20
_FITTED, _HELDOUT = 0.85, 0.15
"""Shares of a shape's time."""


@dataclass(frozen=True, kw_only=True)
class ShapeTimes:
    """One rank's median times in ms of one shape, by what was timed.

    knots: by (tokens per expert, experts touched), whole calls; single: by experts touched, one token each; shared: by
    tokens; phases: by (policy, tokens, phase); barrier_ms; heldout_ms: of each load vector. pairs: by (policy, tokens),
    the pairs per expert that this rank's tokens ran.
    """

    knots: dict[tuple[int, int], float]
    single: dict[int, float]
    shared: dict[int, float]
    phases: dict[tuple[str, int, str], float]
    pairs: dict[tuple[str, int], list[int]]
    barrier_ms: float
    heldout: tuple[tuple[tuple[int, ...], float], ...]


class _Together:
    """The ranks of a group as a meeting."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def barrier(self) -> None:
        self._group.barrier()

    def slowest(self, seconds: float) -> float:
        value = torch.tensor([seconds], dtype=torch.float64)
        self._group.all_reduce(value, "max")
        return float(value)


def measure(
    group: Group, progress: Progress, config: CalibrationConfig, clocks: Clocks | None = None
) -> list[ShapeTimes]:
    """Time every shape of the configuration on this rank; collective, a worker of `evenmoe.parallel.launch`."""
    torch.set_num_threads(config.threads)
    clocks = clocks or Clocks.for_threads(config.threads)
    times = []
    for index, shape in enumerate(config.shapes):
        plan = plan_shape(shape, config, group.rank)
        times.append(_measure_shape(group, progress, config, shape, plan, index, clocks))
        gc.collect()
    return times


def _measure_shape(
    group: Group,
    progress: Progress,
    config: CalibrationConfig,
    shape: LayerShape,
    plan: ShapePlan,
    index: int,
    clocks: Clocks,
) -> ShapeTimes:
    from evenmoe.costs.workbench import ExpertsBench, LayerBench, SharedBench

    progress(f"{shape.name}: setting up", index, len(config.shapes))
    experts = ExpertsBench(shape, plan, config, clocks)
    layer = LayerBench(shape, plan, config, clocks, group)
    shared = SharedBench(shape, plan, config, clocks) if plan.shared else None
    pairs: dict[tuple[str, int], list[int]] = {}
    fitted = _expert_jobs(experts, plan) | _shared_jobs(shared, plan) | _layer_jobs(layer, plan, pairs)
    fitted["barrier"] = lambda: {("barrier",): _barrier_ms(group, clocks.wall)}
    experts.time_ms([1] * plan.num_experts)  # touch the weights once

    def run(jobs: dict[str, Job], share: float) -> dict[tuple[object, ...], float]:
        return median_times(
            jobs,
            meeting=_Together(group),
            clock=clocks.wall,
            budget_s=config.budget_s / len(config.shapes) * share,
            least_rounds=config.least_rounds,
            most_rounds=config.most_rounds,
            on_job=lambda name, jobs_run: progress(
                f"{shape.name}: {name}, round {jobs_run // len(jobs) + 1}", index, len(config.shapes)
            ),
        )

    found = run(fitted, _FITTED) | run(_heldout_jobs(experts, plan), _HELDOUT)
    progress(f"{shape.name}: done", index + 1, len(config.shapes))
    return ShapeTimes(
        knots={(n, m): found["knot", n, m] for n, m in plan.knots},
        single={m: found["single", m] for m in plan.single},
        shared={n: found["shared", n] for n in plan.shared},
        phases={key[1:]: value for key, value in found.items() if key[0] == "phase"},  # type: ignore[misc]
        pairs=pairs,
        barrier_ms=found["barrier",],
        heldout=tuple((vector, found["heldout", i]) for i, vector in enumerate(plan.heldout)),
    )


def calibrated_policies() -> dict[str, Policy]:
    """Return every policy that needs no images, with the settings that its cost is measured with, by name."""
    found = {}
    for name, policy in POLICIES.items():
        capped = "gamma" in policy.__dataclass_fields__  # type: ignore[attr-defined]
        made = make_policy(name, **_OPTIONS.get(name, {}), **({"gamma": GAMMA} if capped else {}))
        if not made.needs_images:
            found[name] = made
    return found


def _expert_jobs(experts: ExpertsBench, plan: ShapePlan) -> dict[str, Job]:
    def knot(n: int, m: int) -> Job:
        return lambda: {("knot", n, m): experts.time_ms([n] * m)}

    def single(m: int) -> Job:
        return lambda: {("single", m): experts.time_ms([1] * m)}

    jobs = {f"{m} experts with {n} tokens each": knot(n, m) for n, m in plan.knots}
    return jobs | {f"{m} experts with a token each": single(m) for m in plan.single}


def _shared_jobs(shared: SharedBench | None, plan: ShapePlan) -> dict[str, Job]:
    def job(bench: SharedBench, n: int) -> Job:
        return lambda: {("shared", n): bench.time_ms(n)}

    return {f"shared experts, {n} tokens": job(shared, n) for n in plan.shared} if shared else {}


def _heldout_jobs(experts: ExpertsBench, plan: ShapePlan) -> dict[str, Job]:
    def job(index: int, vector: tuple[int, ...]) -> Job:
        return lambda: {("heldout", index): experts.time_ms(vector)}

    return {f"held-out load {index}": job(index, vector) for index, vector in enumerate(plan.heldout)}


def _layer_jobs(
    layer: LayerBench, plan: ShapePlan, pairs: dict[tuple[str, int], list[int]]
) -> dict[str, Job]:
    def job(name: str, policy: Policy, tokens: int) -> Job:
        def run() -> Mapping[tuple[object, ...], float]:
            phases, pairs[name, tokens] = layer.phases(policy, tokens)
            return {("phase", name, tokens, phase): time_ms for phase, time_ms in phases.items()}

        return run

    return {
        f"{name}, {tokens} tokens": job(name, policy, tokens)
        for name, policy in calibrated_policies().items()
        for tokens in plan.layer_tokens
    }


def _barrier_ms(group: Group, clock: Clock) -> float:
    start = clock()
    for _ in range(_BARRIERS):
        group.barrier()
    return (clock() - start) * 1000.0 / _BARRIERS

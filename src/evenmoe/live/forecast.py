"""Forecast: the simulator on a live run's arrivals. Shape letters: L layers, E experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evenmoe.live.execution import MeasuredExecution
from evenmoe.scheduling import SchedulerConfig
from evenmoe.simulation.metrics import RunMetrics
from evenmoe.simulation.request import Request
from evenmoe.simulation.simulate import simulate


@dataclass(frozen=True, eq=False)
class _Recorded:
    """The requests of a live run as a workload, with the predicted load as the true one."""

    recorded: Sequence[Request]
    topics: tuple[str, ...]
    num_layers: int
    num_experts: int
    top_k: float

    def requests(self, seed: int) -> Iterator[Request]:
        return iter(self.recorded)


def forecast(
    foreseen: Sequence[Request], execution: MeasuredExecution, config: SchedulerConfig
) -> RunMetrics:
    """What the simulator says of these requests, with the same scheduler and the fitted batch time."""
    placement = execution.placement
    load_LE = foreseen[0].load_X.reshape(placement.num_layers, -1)
    recorded = _Recorded(
        recorded=foreseen,
        topics=("all",),
        num_layers=placement.num_layers,
        num_experts=load_LE.shape[1],
        top_k=float(load_LE.sum(-1).max()),
    )
    return simulate(recorded, execution, config)

"""Results of live runs: what was measured, in the simulator's own metrics, beside what the simulator foretold.

Shape letters: B requests of a batch, L layers, E experts, X = L*E.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.live.execution import MeasuredExecution, padded_tokens
from evenmoe.live.serving import LiveRequest, LiveRun
from evenmoe.live.timing import BatchTime, fit_batch_time
from evenmoe.simulation.metrics import Ending, Meter, RunMetrics
from evenmoe.simulation.request import Floats

COMPARED = ("latency_p50_s", "latency_p99_s", "throughput_requests_s", "straggler_factor")
"""Metrics whose forecast is held against the measurement."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveResult:
    """One strategy's run.

    measured: of the real run. forecast: of a simulation of the same arrivals with what was known before the run, and
    refitted: of one with this run's own mean batch times, which takes the machine's drift out; None where the run was
    interrupted.
    cosine_L: by layer, mean over requests of the cosine of predicted and true expert load.
    batch_time: fitted to this run's batches.
    batch_s, foretold_batch_s, batch_requests, waiting: means over batches: the seconds that it took, and should have by
        the warm-up, its requests, and how many waited when it was picked.
    """

    strategy: str
    measured: RunMetrics
    forecast: RunMetrics | None
    refitted: RunMetrics | None
    cosine_L: tuple[float, ...]
    batch_time: BatchTime
    batch_s: float
    foretold_batch_s: float
    batch_requests: float
    waiting: float
    interrupted: bool

    @property
    def prediction_cosine(self) -> float:
        """Mean of `cosine_L`."""
        return float(np.mean(self.cosine_L))

    @property
    def drift(self) -> float:
        """How much longer batches took than the warm-up foretold, as a share of that."""
        return self.batch_s / self.foretold_batch_s - 1

    def errors(self) -> dict[str, float] | None:
        """Forecast over measurement, less 1, of each of COMPARED; None without a forecast."""
        return self._errors(self.forecast)

    def refitted_errors(self) -> dict[str, float] | None:
        """The same with this run's own batch times."""
        return self._errors(self.refitted)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "strategy": self.strategy,
            "interrupted": self.interrupted,
            "measured": self.measured.as_dict(),
            "forecast": None if self.forecast is None else self.forecast.as_dict(),
            "refitted": None if self.refitted is None else self.refitted.as_dict(),
            "forecast_errors": self.errors(),
            "refitted_errors": self.refitted_errors(),
            "prediction_cosine": self.prediction_cosine,
            "prediction_cosine_by_layer": list(self.cosine_L),
            "batch_fixed_s": self.batch_time.fixed_s,
            "batch_per_token_s": self.batch_time.per_token_s,
            "batch_per_peak_pair_s": self.batch_time.per_peak_pair_s,
            "batch_mean_s": self.batch_s,
            "batch_mean_foretold_s": self.foretold_batch_s,
            "batch_mean_requests": self.batch_requests,
            "waiting_mean": self.waiting,
        }

    def _errors(self, simulated: RunMetrics | None) -> dict[str, float] | None:
        if simulated is None:
            return None
        return {name: getattr(simulated, name) / getattr(self.measured, name) - 1 for name in COMPARED}


def measured_metrics(
    requests: Sequence[LiveRequest], run: LiveRun, execution: MeasuredExecution
) -> RunMetrics:
    """What a live run came to, taken down as the simulator does. Raises ConfigError where no batch finished."""
    if not run.batches:
        raise ConfigError("batches", 0, "at least one that finished")
    meter = Meter()
    num_arrived = 0

    def arrive_until(now_s: float) -> None:
        nonlocal num_arrived
        while num_arrived < len(requests) and requests[num_arrived].request.arrived_s <= now_s:
            meter.arrived(requests[num_arrived].request, requests[num_arrived].request.arrived_s)
            num_arrived += 1

    for batch in run.batches:
        arrive_until(batch.started_s)
        meter.taken(len(batch.numbers), batch.started_s)
        arrive_until(batch.finished_s)
        load_X = batch.load_BLE.sum(0).reshape(-1).astype(np.float64)
        meter.ran(execution.cost(batch.seconds, load_X), batch.finished_s)
        for number, passed_over in zip(batch.numbers, batch.passed_over, strict=True):
            meter.finished(
                requests[number].request, passed_over, batch.started_s, batch.finished_s, batch.finished_s
            )
    ended: Ending = "max_seconds" if run.interrupted else "all finished"
    return meter.result(run.batches[-1].finished_s, ended, settled=len(requests))


def prediction_cosines(requests: Sequence[LiveRequest], run: LiveRun) -> tuple[float, ...]:
    """By layer, mean over requests of the cosine of predicted and true expert load."""
    predicted_NLE, true_NLE = [], []
    for batch in run.batches:
        for number, load_LE in zip(batch.numbers, batch.load_BLE, strict=True):
            predicted_NLE.append(requests[number].request.predicted_X.reshape(load_LE.shape))
            true_NLE.append(load_LE.astype(np.float64))
    return tuple(_cosine(np.array(predicted_NLE), np.array(true_NLE)).mean(0).tolist())


def fit_of_run(
    requests: Sequence[LiveRequest], run: LiveRun, execution: MeasuredExecution
) -> tuple[BatchTime, list[float]]:
    """The batch time fitted to a run's own batches, and the seconds of each that `execution` foretells."""
    tokens = [
        padded_tokens([len(requests[number].ids_T) for number in batch.numbers]) for batch in run.batches
    ]
    peaks = [
        execution.peak_pairs(batch.load_BLE.sum(0).reshape(-1).astype(np.float64)) for batch in run.batches
    ]
    depends = execution.batch_time.per_peak_pair_s > 0
    own = fit_batch_time(tokens, [batch.seconds for batch in run.batches], peaks if depends else None)
    return own, [execution.batch_time.seconds(*batch) for batch in zip(tokens, peaks, strict=True)]


def _cosine(first: Floats, second: Floats) -> Floats:
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.asarray((first * second).sum(-1) / np.where(lengths > 0, lengths, 1.0))

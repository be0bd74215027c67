"""LayerResults: what timing one layer brought, as data; tables and figures are drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median_low
from typing import Any

from evenmoe.bench.emulated import EmulatedPasses
from evenmoe.bench.job import LayerJob, Mode, Setting
from evenmoe.bench.phases import LayerRecord, mean_phases, to_ms
from evenmoe.bench.routed import RoutedLayer
from evenmoe.costs import LayerPrediction


@dataclass(frozen=True, kw_only=True)
class DeviceRow:
    """One device (or rank) of one row: its tokens, its pairs, and where its time went, in milliseconds."""

    device: int
    tokens: int
    pairs_asked: int
    """Top-k pairs of its tokens."""
    pairs_sent: int
    """Pairs of its tokens that run, on whichever device."""
    pairs_run: int
    """Pairs that its experts run."""
    experts_hit: int
    wall_ms: dict[str, float]
    cpu_ms: dict[str, float]
    """Empty where nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One policy at one gamma. Times in milliseconds.

    layer_ms: the layer's time in the median, layer_ms_best: at best, passes_ms: in every pass. speedup: the baseline's
    layer_ms over this one's; speedup_best: the same of layer_ms_best, which a busy machine disturbs less.
    load_speedup: what the loads alone promise, the baseline's busiest device's pairs over this one's.
    predicted_*: by the cost model, None without a machine; predicted_error: predicted over measured, minus 1.
    pairs_kept: share of the top-k pairs that run; pairs_run: all pairs that run over T * K. peak_to_mean: busiest
    expert over the mean. straggler_factor: busiest device over the even load T * K / D.
    phases_busiest: of the device that waits least; phases_mean: over devices. They sum to layer_ms; those of real ranks
    to within what a barrier takes to let all of them go.
    """

    policy: str
    name: str
    gamma: float | None
    options: dict[str, Any]
    layer_ms: float
    layer_ms_best: float
    passes_ms: list[float]
    speedup: float
    speedup_best: float
    load_speedup: float
    predicted_ms: float | None
    predicted_speedup: float | None
    predicted_error: float | None
    pairs_kept: float
    pairs_run: float
    peak_to_mean: float
    straggler_factor: float
    busiest_device: int
    phases_busiest: dict[str, float]
    phases_mean: dict[str, float]
    devices: list[DeviceRow]


@dataclass(frozen=True, kw_only=True)
class LayerResults:
    """All rows of one run, the baseline first, and the resolved configuration."""

    mode: Mode
    config: dict[str, Any]
    rows: list[LayerRow]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Timed:
    """What a mode says of one setting: where each device's time goes, in milliseconds, and the layer's times."""

    layer_ms: float
    best_ms: float
    passes_ms: list[float]
    wall_D: list[dict[str, float]]
    cpu_D: list[dict[str, float]]

    @classmethod
    def of_passes(cls, passes: Sequence[Sequence[LayerRecord]]) -> Timed:
        """From real ranks: a pass takes as long as its slowest rank; the phases are those of the median pass."""
        times = [max(record.wall_ns for record in records_D) / 1e6 for records_D in passes]
        middle = median_low(times)
        return cls._of(passes[times.index(middle)], middle, min(times), times)

    @classmethod
    def of_emulated(cls, emulated: EmulatedPasses) -> Timed:
        """From emulated devices: the phases are those of the medians."""
        times = [records_D[0].wall_ns / 1e6 for records_D in emulated.passes]
        middle, best = emulated.median_D[0].wall_ns / 1e6, emulated.best_D[0].wall_ns / 1e6
        return cls._of(emulated.median_D, middle, best, times)

    @classmethod
    def of_prediction(cls, prediction: LayerPrediction) -> Timed:
        """From the cost model, where nothing is run."""
        layer_ms, num_devices = float(prediction.layer_ms), prediction.phases["wait"].shape[0]
        wall_D = [
            {str(phase): float(ms_D[device]) for phase, ms_D in prediction.phases.items()}
            for device in range(num_devices)
        ]
        return cls(layer_ms=layer_ms, best_ms=layer_ms, passes_ms=[], wall_D=wall_D, cpu_D=[{}] * num_devices)

    @classmethod
    def _of(
        cls, shown_D: Sequence[LayerRecord], layer_ms: float, best_ms: float, passes_ms: list[float]
    ) -> Timed:
        return cls(
            layer_ms=layer_ms,
            best_ms=best_ms,
            passes_ms=passes_ms,
            wall_D=[to_ms(record.by_phase()) for record in shown_D],
            cpu_D=[to_ms(record.by_phase("cpu")) for record in shown_D],
        )


def make_rows(
    job: LayerJob,
    routed: Sequence[RoutedLayer],
    timed: Sequence[Timed],
    predicted: Sequence[LayerPrediction] | None,
) -> list[LayerRow]:
    """Return a row for each setting, the baseline first."""
    predicted_ms = [None] * len(timed) if predicted is None else [float(p.layer_ms) for p in predicted]
    return [
        _row(
            setting,
            (routed[0], routed[index]),
            (timed[0], timed[index]),
            (predicted_ms[0], predicted_ms[index]),
        )
        for index, setting in enumerate(job.settings)
    ]


def _row(
    setting: Setting,
    layers: tuple[RoutedLayer, RoutedLayer],
    times: tuple[Timed, Timed],
    predictions_ms: tuple[float | None, float | None],
) -> LayerRow:
    (baseline, layer), (baseline_timed, timed) = layers, times
    first_ms, predicted_ms = predictions_ms
    busiest = min(range(len(timed.wall_D)), key=lambda device: timed.wall_D[device]["wait"])
    return LayerRow(
        policy=setting.label,
        name=setting.policy.name,
        gamma=setting.gamma,
        options=setting.policy.describe(),
        layer_ms=timed.layer_ms,
        layer_ms_best=timed.best_ms,
        passes_ms=timed.passes_ms,
        speedup=baseline_timed.layer_ms / timed.layer_ms,
        speedup_best=baseline_timed.best_ms / timed.best_ms,
        load_speedup=float(baseline.load_D.max() / max(layer.load_D.max(), 1)),
        predicted_ms=predicted_ms,
        predicted_speedup=None if first_ms is None or predicted_ms is None else first_ms / predicted_ms,
        predicted_error=None if predicted_ms is None else predicted_ms / timed.layer_ms - 1,
        pairs_kept=layer.pairs_kept,
        pairs_run=layer.pairs_run,
        peak_to_mean=layer.peak_to_mean,
        straggler_factor=layer.straggler_factor,
        busiest_device=busiest,
        phases_busiest=timed.wall_D[busiest],
        phases_mean=mean_phases(timed.wall_D),
        devices=_device_rows(layer, timed),
    )


def _device_rows(layer: RoutedLayer, timed: Timed) -> list[DeviceRow]:
    return [
        DeviceRow(
            device=device,
            tokens=int(layer.tokens_D[device]),
            pairs_asked=int(layer.before_DE[device].sum()),
            pairs_sent=int(layer.run_DE[device].sum()),
            pairs_run=int(layer.load_D[device]),
            experts_hit=int(layer.experts_hit_D[device]),
            wall_ms=timed.wall_D[device],
            cpu_ms=timed.cpu_D[device],
        )
        for device in range(len(timed.wall_D))
    ]

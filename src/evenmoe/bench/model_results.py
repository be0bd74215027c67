"""ModelResults: what timing a whole model brought, as data; tables and figures are drawn from it.

Shape letters: D devices, L MoE layers, E experts, C calls (forwards of one pass).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenmoe.bench.job import Setting
from evenmoe.bench.model_job import ModelJob, ModelMode, Part
from evenmoe.bench.model_pass import CallCounts, Ints
from evenmoe.bench.model_timed import TimedSetting, mean_ms
from evenmoe.bench.phases import LayerRecord, mean_phases, to_ms
from evenmoe.loads.metrics import straggler_factor
from evenmoe.placement import Placement


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One policy at one gamma, in the prefill or in a mean decode step. Times in milliseconds.

    total_ms: of one forward of all devices; low and high over the passes. moe_ms: of its MoE blocks, mean over devices;
    outside_ms: the rest. moe_share: moe_ms over total_ms. phases_mean: the MoE blocks' phases summed over layers, mean
    over devices; they sum to moe_ms.
    speedup: the baseline's total_ms over this one's. layer_speedup: the same of moe_ms. implied_speedup: the end-to-end
    speedup that the baseline's MoE share and the layer speedup imply, 1 / (1 - s + s / x): it differs from the measured
    one by what the time outside the MoE blocks differs. load_speedup: of the MoE layers, what the loads alone promise:
    busiest device's pairs, summed over layers and forwards.
    applied: share of the calls of layers in which the policy acted (see min_tokens of `evenmoe.attach`). pairs_kept,
    pairs_run, straggler_factor: as for one layer, over all of them.
    """

    part: Part
    policy: str
    name: str
    gamma: float | None
    options: dict[str, Any]
    total_ms: float
    total_ms_low: float
    total_ms_high: float
    moe_ms: float
    outside_ms: float
    moe_share: float
    speedup: float
    layer_speedup: float
    implied_speedup: float
    load_speedup: float
    applied: float
    pairs_kept: float
    pairs_run: float
    straggler_factor: float
    phases_mean: dict[str, float]
    phases_by_device: list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class ModelResults:
    """All rows of one run, the baseline first in each part, how the times came about, and the configuration."""

    mode: ModelMode
    composition: str
    config: dict[str, Any]
    rows: list[ModelRow]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return asdict(self)

    def part(self, part: Part) -> list[ModelRow]:
        """Return the rows of the prefill or of the decode steps."""
        return [row for row in self.rows if row.part == part]


def implied_speedup(moe_share: float, layer_speedup: float) -> float:
    """Return the end-to-end speedup where only the MoE layers' share of the time gets faster (Amdahl's law)."""
    return 1.0 / (1.0 - moe_share + moe_share / layer_speedup)


def make_model_rows(job: ModelJob, timed: Sequence[TimedSetting], placement: Placement) -> list[ModelRow]:
    """Return the rows of each part, a row for each setting."""
    rows = []
    for part, calls in job.parts.items():
        baseline: ModelRow | None = None
        first_peaks = 0.0
        for setting, one in zip(job.settings, timed, strict=True):
            load_CLD = _device_loads(one.counts_D, placement, calls)
            peaks = float(load_CLD.max(-1).sum())
            first_peaks = first_peaks if baseline is not None else peaks
            row = _row(part, setting, one, calls, load_CLD, baseline, first_peaks / max(peaks, 1.0))
            baseline = baseline or row
            rows.append(row)
    return rows


def _row(
    part: Part,
    setting: Setting,
    timed: TimedSetting,
    calls: range,
    load_CLD: NDArray[np.float64],
    baseline: ModelRow | None,
    load_speedup: float,
) -> ModelRow:
    shown = [timed.shown[call] for call in calls]
    devices = range(len(timed.counts_D))
    phases_D = [_phases([call.records_LD for call in shown], device) for device in devices]
    total_ms, moe_ms = mean_ms(shown), fmean(sum(phases.values()) for phases in phases_D)
    first_ms, first_moe_ms = (total_ms, moe_ms) if baseline is None else (baseline.total_ms, baseline.moe_ms)
    passes_ms = timed.pass_ms(calls)
    asked_CL = _asked(timed.counts_D, calls)
    return ModelRow(
        part=part,
        policy=setting.label,
        name=setting.policy.name,
        gamma=setting.gamma,
        options=setting.policy.describe(),
        total_ms=total_ms,
        total_ms_low=min(passes_ms),
        total_ms_high=max(passes_ms),
        moe_ms=moe_ms,
        outside_ms=total_ms - moe_ms,
        moe_share=moe_ms / total_ms,
        speedup=first_ms / total_ms,
        layer_speedup=first_moe_ms / moe_ms,
        implied_speedup=implied_speedup(first_moe_ms / first_ms, first_moe_ms / moe_ms),
        load_speedup=load_speedup,
        applied=fmean(float(counts.applied_CL[calls].mean()) for counts in timed.counts_D),
        pairs_kept=sum(int(counts.kept_CL[calls].sum()) for counts in timed.counts_D) / int(asked_CL.sum()),
        pairs_run=sum(int(counts.run_CLE[calls].sum()) for counts in timed.counts_D) / int(asked_CL.sum()),
        straggler_factor=straggler_factor(load_CLD, even=asked_CL / len(timed.counts_D)),
        phases_mean=mean_phases(phases_D),
        phases_by_device=phases_D,
    )


def _phases(records_CLD: Sequence[Sequence[Sequence[LayerRecord]]], device: int) -> dict[str, float]:
    """Milliseconds of each phase on a device, summed over layers, mean over forwards."""
    per_call = []
    for records_LD in records_CLD:
        layers = [to_ms(records_D[device].by_phase()) for records_D in records_LD]
        per_call.append({phase: sum(layer[phase] for layer in layers) for phase in layers[0]})
    return mean_phases(per_call)


def _asked(counts_D: Sequence[CallCounts], calls: range) -> Ints:
    """[C, L]: top-k pairs of all devices."""
    return np.asarray(np.sum([counts.asked_CLE[calls].sum(-1) for counts in counts_D], axis=0))


def _device_loads(counts_D: Sequence[CallCounts], placement: Placement, calls: range) -> NDArray[np.float64]:
    """[C, L, D]: pairs that each device's experts run; of copied experts every copy an even share."""
    run_CLE = np.sum([counts.run_CLE[calls] for counts in counts_D], axis=0)
    layers = [
        placement.device_load(run_CLE[:, layer, : placement.num_experts(layer)], layer)
        for layer in range(placement.num_layers)
    ]
    return np.stack(layers, axis=1)

"""Gathering: the loads of all ranks as one. Shape letters: L layers, S steps, E experts, D devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads import ExpertLoads, StepPeaks, sum_counts
from evenmoe.models.attached import Attached
from evenmoe.parallel.expert_parallel import ExpertParallel


def gather_loads(attached: Attached) -> ExpertLoads:
    """Return the loads of all ranks as one process would have counted them; the same on every rank.

    Counts are summed by tag. Peaks are those of the steps' loads summed over the ranks, so all ranks must have made the
    same forwards since attaching or `reset_loads`. In form "shared" every rank has counted the whole batch already.
    Collective. Raises ConfigError without `attach(parallel=...)`, ShapeError for ranks with different numbers of steps.
    """
    parallel = attached._session.parallel
    if not isinstance(parallel, ExpertParallel):
        raise ConfigError(
            "attached", "one process", "an attachment made with parallel=evenmoe.parallel.shard(...)"
        )
    loads = attached.loads
    if parallel.form == "shared" or parallel.num_devices == 1:
        return loads
    shares: list[ExpertLoads] = parallel.group.all_gather_objects(loads)
    tags = dict.fromkeys(tag for share in shares for tag in share.by_tag)
    return dataclasses.replace(
        loads,
        total=sum_counts([share.total for share in shares]),
        by_tag={
            tag: sum_counts([share.by_tag[tag] for share in shares if tag in share.by_tag]) for tag in tags
        },
        peaks=_peaks(attached, parallel, [share.peaks for share in shares]),
    )


def _peaks(attached: Attached, parallel: ExpertParallel, peaks: Sequence[StepPeaks | None]) -> StepPeaks:
    steps_DL = np.stack([peak.steps_L for peak in peaks if peak is not None])
    if (steps_DL != steps_DL[0]).any():
        raise ShapeError(f"ranks have counted different numbers of steps per layer: {steps_DL.tolist()}")
    columns = [_layer_peaks(attached, parallel, layer) for layer in range(steps_DL.shape[1])]
    expert_2L, device_2L = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    return StepPeaks(
        num_devices=parallel.num_devices,
        steps_L=steps_DL[0],
        expert_before_L=expert_2L[0],
        expert_after_L=expert_2L[1],
        device_before_L=device_2L[0],
        device_after_L=device_2L[1],
    )


def _layer_peaks(attached: Attached, parallel: ExpertParallel, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Return [2] twice, before and after: the busiest expert's and the busiest device's load, summed over the steps."""
    load_S2E = attached._session.recorder.step_loads(layer).to(parallel.group.device)
    if load_S2E.shape[0] == 0:
        return np.zeros(2), np.zeros(2)
    parallel.group.all_reduce(load_S2E)
    load = load_S2E.cpu().numpy().astype(np.float64)
    device_S2D = parallel.placement.device_load(load, layer)
    return load.max(-1).sum(0), device_S2D.max(-1).sum(0)

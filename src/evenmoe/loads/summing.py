"""Loads of several runs, or of several parts of one, as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from evenmoe.errors import ShapeError
from evenmoe.loads.expert_loads import ExpertLoads, LoadCounts, StepPeaks


def sum_counts(counts: Sequence[LoadCounts]) -> LoadCounts:
    """Add counts of the same layers and experts, in the given order."""
    tables = [count.arrays() for count in counts]
    return LoadCounts(**{name: np.sum([table[name] for table in tables], axis=0) for name in tables[0]})


def sum_loads(parts: Sequence[ExpertLoads]) -> ExpertLoads:
    """Add loads of the same model, one run after the other: counts by tag, and the peaks of all their steps.

    The same parts in the same order give the same bits. Raises ShapeError for none, and for other layers or devices.
    """
    if not parts:
        raise ShapeError("no loads to add")
    first = parts[0]
    for part in parts[1:]:
        if part.layers != first.layers or not np.array_equal(part.num_experts_L, first.num_experts_L):
            raise ShapeError("loads of different layers cannot be added")
    tags = dict.fromkeys(tag for part in parts for tag in part.by_tag)
    return dataclasses.replace(
        first,
        total=sum_counts([part.total for part in parts]),
        by_tag={tag: sum_counts([part.by_tag[tag] for part in parts if tag in part.by_tag]) for tag in tags},
        peaks=_sum_peaks([part.peaks for part in parts]),
    )


def _sum_peaks(peaks: Sequence[StepPeaks | None]) -> StepPeaks | None:
    known = [peak for peak in peaks if peak is not None]
    if len(known) < len(peaks):
        return None
    if len({peak.num_devices for peak in known}) > 1:
        raise ShapeError("loads of different numbers of devices cannot be added")
    names = [field.name for field in dataclasses.fields(StepPeaks) if field.name != "num_devices"]
    return StepPeaks(
        num_devices=known[0].num_devices,
        **{name: np.sum([getattr(peak, name) for peak in known], axis=0) for name in names},
    )

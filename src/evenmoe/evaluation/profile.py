"""Count a model's expert loads on text, changing nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from evenmoe.evaluation.quality import Progress, measure_quality
from evenmoe.evaluation.texts import Window
from evenmoe.loads import ExpertLoads
from evenmoe.models.attach import attach
from evenmoe.placement import Placement
from evenmoe.routing import Baseline


def profile_model(
    model: torch.nn.Module,
    batches: Sequence[Sequence[Window]],
    num_devices: int,
    placement: Placement | None = None,
    source: str = "",
    progress: Progress | None = None,
) -> ExpertLoads:
    """Loads of `model` over `batches`, in total and per domain; `source` is written into the file."""
    with attach(model, Baseline(), num_devices=num_devices, placement=placement) as attached:
        measure_quality(model, batches, attached, progress)
        return dataclasses.replace(attached.loads, source=source)

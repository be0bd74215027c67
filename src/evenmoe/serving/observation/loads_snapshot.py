"""LoadsSnapshot: everything that was routed up to a moment, as sums over many requests.

Shape letters: L MoE layers, E experts, D devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ShapeError
from evenmoe.loads import ExpertLoads

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadsSnapshot:
    """Counts since the start. Two of one server differ by at least `MetricsConfig.least_requests` requests, or by none.

    loads: counts, with the peaks of steps. before_LD, after_LD: pairs of each device's experts, before and after the
    policy (a copy of an expert takes an even share).
    num_steps: forwards. num_tokens: tokens of all steps, prompts' and new ones; what an engine's scheduler handed out
    up to some step has exactly as many, so that predictions and loads can be compared over the same tokens.
    num_requests: how many requests they are of, or fewer where the engine does not tell them apart for certain.
    """

    loads: ExpertLoads
    before_LD: Floats
    after_LD: Floats
    num_steps: int
    num_tokens: int
    num_requests: int

    def __post_init__(self) -> None:
        num_layers = len(self.loads.layers)
        for name in ("before_LD", "after_LD"):
            table = getattr(self, name)
            if table.ndim != 2 or table.shape[0] != num_layers:
                raise ShapeError(f"{name} has shape {table.shape}, not [{num_layers} layers, devices]")

    @property
    def num_devices(self) -> int:
        """D."""
        return int(self.before_LD.shape[1])

"""Execution: what a batch or one iteration costs.

Shape letters: B requests, L layers, E experts, X = L*E, V entries of what the scheduler sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evenmoe.simulation.request import Floats, Request

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one iteration of a batch costs, and how even it was.

    seconds: how long it takes. busy_share: mean over devices of the share of that time in which they compute, 0 to 1.
    imbalance: what the time is multiplied by, compared with an even load (cv: 1 + CV * sensitivity; straggler: the time
        over that of the same pairs, even, under 1 where few tokens touch fewer experts than an even load would).
    straggler_factor: peak over mean device load before dropping, averaged over layers (straggler: by load, as
        `evenmoe.loads.straggler_factor` has it; cv: of experts).
    pairs, dropped_pairs: (token, expert) pairs asked for, and those of them that the routing policy dropped.
    """

    seconds: float
    busy_share: float
    imbalance: float
    straggler_factor: float
    pairs: float
    dropped_pairs: float


class Execution(Protocol):
    """A machine that runs batches."""

    @property
    def num_view_layers(self) -> int:
        """How many layers one after the other a vector of `view` has: the scheduler's `num_layers`."""

    def view(self, request: Request) -> Floats:
        """[V]: predicted load of all tokens of the request, as the scheduler sees it: experts, or layers x devices."""

    def batch(self, requests: Sequence[Request]) -> tuple[StepCost, Floats, Floats]:
        """A static batch from its start to the end of its last request, alone on the machine.

        Returns the cost of it all, and by request [B] the seconds from its start to the first token, and to the last.
        """

    def step(self, requests: Sequence[Request], tokens_B: Ints) -> StepCost:
        """One iteration of continuous batching in which each request computes `tokens_B` of its tokens (at least 1)."""

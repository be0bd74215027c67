"""Threshold Drop: weak pairs are dropped, whatever the load (Cai, He et al. 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from evenmoe.errors import ConfigError
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.policy import Policy


@dataclass(frozen=True, kw_only=True, repr=False)
class ThresholdDrop(Policy):
    """Drops a chosen pair whose share of the token's chosen scores is under `threshold`.

    The scores of the top-k must not be negative (probabilities, not logits). Where all of a token's are 0, none is
    under a share of the others, and all are kept.
    """

    name: ClassVar[str] = "threshold_drop"

    threshold: float

    def __post_init__(self) -> None:
        if (
            isinstance(self.threshold, bool)
            or not isinstance(self.threshold, Real)
            or not 0 < self.threshold < 1
        ):
            raise ConfigError("threshold", self.threshold, "a number above 0 and below 1")
        object.__setattr__(self, "threshold", float(self.threshold))

    def _keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        chosen_scores_TE = torch.where(chosen_TE, scores_TE, 0).double()
        if bool((chosen_scores_TE < 0).any()):
            raise ConfigError(
                "scores_TE",
                float(chosen_scores_TE.min()),
                "at least 0 for threshold_drop (probabilities, not logits)",
            )
        least_T1 = self.threshold * chosen_scores_TE.sum(1, keepdim=True)
        return chosen_TE & ~(chosen_scores_TE < least_T1)

"""Baseline: the model's own top-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from evenmoe.routing.context import RoutingContext
from evenmoe.routing.policy import Policy


@dataclass(frozen=True, kw_only=True, repr=False)
class Baseline(Policy):
    """Every pair that the model chose runs."""

    name: ClassVar[str] = "baseline"

    def _keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        return chosen_TE.clone()

"""Expert Drop: the least-loaded experts are skipped in each forward (CAI's weak baseline)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import ClassVar, get_args

import torch
from torch import Tensor

from evenmoe.errors import ConfigError, check_choice
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.groups import Isolation, Scope, make_groups
from evenmoe.routing.policy import Policy, require


@dataclass(frozen=True, kw_only=True, repr=False)
class ExpertDrop(Policy):
    """Skips the `max(1, round(fraction * E))` least-loaded experts; of equal loads, the lower index is skipped.

    scope: "global" counts loads over the forward; "local" lets each source device skip experts of its own.
    isolation: "request" and "strict" count loads per request; there is nothing to lend, so the two are the same.
    Raises ConfigError for a fraction that is not between 0 and 1, or that would skip every expert.
    """

    name: ClassVar[str] = "expert_drop"

    fraction: float = 0.1
    scope: Scope = "global"
    isolation: Isolation = "batch"

    def __post_init__(self) -> None:
        if (
            isinstance(self.fraction, bool)
            or not isinstance(self.fraction, Real)
            or not 0 < self.fraction < 1
        ):
            raise ConfigError("fraction", self.fraction, "a number above 0 and below 1")
        object.__setattr__(self, "fraction", float(self.fraction))
        check_choice("scope", self.scope, get_args(Scope))
        check_choice("isolation", self.isolation, get_args(Isolation))

    def check_context(self, ctx: RoutingContext) -> None:
        if self.isolation != "batch":
            require(ctx, "request_of_token_T", "isolation", self.isolation)

    def _keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        num_tokens, num_experts = chosen_TE.shape
        num_skipped = max(1, round(Fraction(f"{self.fraction:.12g}") * num_experts))
        if num_skipped >= num_experts:
            raise ConfigError(
                "fraction", self.fraction, f"one that leaves at least one of {num_experts} experts"
            )
        groups = make_groups(ctx, self.scope, self.isolation, num_tokens, chosen_TE.device)
        load_GE = torch.zeros(
            groups.source_G.shape[0], num_experts, dtype=torch.long, device=chosen_TE.device
        )
        load_GE.index_add_(0, groups.group_T, chosen_TE.long())
        skipped_GE = torch.zeros_like(load_GE, dtype=torch.bool)
        skipped_GE.scatter_(1, load_GE.argsort(dim=1, stable=True)[:, :num_skipped], True)
        return chosen_TE & ~skipped_GE.index_select(0, groups.group_T)

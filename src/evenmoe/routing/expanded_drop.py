"""Expanded Drop: experts choose among the top-k and the local tokens (CAI, section 3.3, Algorithm 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from evenmoe.errors import ConfigError
from evenmoe.routing.capacity_policy import CapacityPolicy
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.locations import experts_by_token
from evenmoe.routing.pairs import count_chosen, list_pairs
from evenmoe.routing.priority import make_priority


@dataclass(frozen=True, kw_only=True, repr=False)
class ExpandedDrop(CapacityPolicy):
    """A token's candidates are its top-k and every expert on its own device; each expert keeps its best.

    A token may end with more than its top-k, and a top-k pair may lose to an outsider. On a single device every
    expert is local, and the policy is expert-choice routing; give the devices to get the paper's method.
    Raises ConfigError for gamma = inf, which would add every local expert to every token.
    """

    name: ClassVar[str] = "expanded_drop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.isinf(self.gamma):
            raise ConfigError(
                "gamma",
                self.gamma,
                "a finite number for expanded_drop: with unlimited capacity every token would get every expert "
                "on its device, which is not the model without limits; use baseline, token_drop or fill",
            )

    @property
    def needs_true_scores(self) -> bool:
        return True

    def _keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        num_tokens, num_experts = chosen_TE.shape
        candidate_TE = chosen_TE | experts_by_token(ctx, num_tokens, num_experts, chosen_TE.device)
        pairs = list_pairs(candidate_TE)
        bins = self._bins(count_chosen(chosen_TE), num_experts, ctx)
        priority = make_priority(pairs, scores_TE, "score", self.modality, bins.groups.position_T, ctx)
        return pairs.written_to(candidate_TE, self._best(bins.of(pairs), priority, bins))

"""Fill: Token Drop, then leftover local room goes to the tokens that lost an expert.

The paper claims for its Algorithm 2 that it fills unused capacity without displacing top-k pairs or raising the
total work; this policy does. Shape letters: T tokens, E experts, P pairs, X and Y bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evenmoe.routing.capacity_policy import CapacityPolicy
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.groups import Bins
from evenmoe.routing.locations import experts_by_token
from evenmoe.routing.matching import matched
from evenmoe.routing.pairs import Pairs, count_chosen, list_pairs
from evenmoe.routing.priority import make_priority
from evenmoe.routing.selection import best_of_bins


@dataclass(frozen=True, kw_only=True, repr=False)
class Fill(CapacityPolicy):
    """Token Drop by score, then substitutes: local experts with room left, for tokens that lost an expert.

    Substitutes are taken best score first (ties: token, then expert index), at most as many per token as it lost,
    so the work never exceeds the model's own. Every pair that Token Drop keeps is kept under isolation "batch" and
    "strict". Under "request", each request first fills its own capacity, and what is left over the requests
    is lent: to lost top-k pairs, then to substitutes. There, every pair that Token Drop keeps within a request's own
    capacity is kept, but a pair that Token Drop keeps in lent room may find that a substitute in the request's own
    room has taken its place in the total.
    """

    name: ClassVar[str] = "fill"

    @property
    def needs_true_scores(self) -> bool:
        return True

    def _keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        if math.isinf(self.gamma):
            return chosen_TE.clone()
        num_tokens, num_experts = chosen_TE.shape
        top_k = list_pairs(chosen_TE)
        chosen_T = top_k.count(num_tokens)
        bins = self._bins(chosen_T, num_experts, ctx)
        bin_P = bins.of(top_k)
        priority = make_priority(top_k, scores_TE, "score", self.modality, bins.groups.position_T, ctx)
        kept_P = best_of_bins(bin_P, priority, bins.limit_X)

        room = _Room(self, scores_TE, chosen_TE, chosen_T, ctx, bins)
        kept_TE = room.give_own(top_k.written_to(chosen_TE, kept_P), bin_P[kept_P])
        if self.isolation == "request":
            kept_TE = room.lend(kept_TE, to_top_k=True)
            kept_TE = room.lend(kept_TE, to_top_k=False)
        return kept_TE


@dataclass(frozen=True)
class _Room:
    """Gives what the bins have left to tokens that have fewer experts than the model chose for them."""

    policy: Fill
    scores_TE: Tensor
    chosen_TE: Tensor
    chosen_T: Tensor
    ctx: RoutingContext
    bins: Bins

    def give_own(self, kept_TE: Tensor, kept_bin_P: Tensor) -> Tensor:
        """Return `kept_TE` and the substitutes that fit the room of their own group."""
        bins = self.bins
        room_X = bins.limit_X - torch.bincount(kept_bin_P, minlength=bins.limit_X.shape[0])
        deficit_T = self.chosen_T - count_chosen(kept_TE)
        open_TE = bins.by_pair(room_X > 0)
        pairs = list_pairs((self._local_to(deficit_T > 0) & open_TE) > self.chosen_TE)
        return self._give(kept_TE, pairs, bins.of(pairs), room_X, deficit_T)

    def lend(self, kept_TE: Tensor, to_top_k: bool) -> Tensor:
        """Return `kept_TE` and the lost pairs, or the substitutes, that fit what all groups of a source leave."""
        bins = self.bins
        room_Y = bins.unused(bins.of(list_pairs(kept_TE)))
        deficit_T = self.chosen_T - count_chosen(kept_TE)
        in_need_T = deficit_T > 0
        wanted_TE = (
            self.chosen_TE & in_need_T[:, None] if to_top_k else self._local_to(in_need_T) > self.chosen_TE
        )
        pairs = list_pairs(wanted_TE > kept_TE)
        bin_P = bins.lending().index_select(0, bins.of(pairs))
        possible = (room_Y > 0).index_select(0, bin_P).nonzero().view(-1)
        return self._give(kept_TE, pairs.at(possible), bin_P.index_select(0, possible), room_Y, deficit_T)

    def _local_to(self, only_T: Tensor) -> Tensor:
        num_tokens, num_experts = self.scores_TE.shape
        return experts_by_token(self.ctx, num_tokens, num_experts, self.scores_TE.device, only_T)

    def _give(
        self, kept_TE: Tensor, pairs: Pairs, bin_P: Tensor, room_X: Tensor, deficit_T: Tensor
    ) -> Tensor:
        position_T = self.bins.groups.position_T
        priority = make_priority(pairs, self.scores_TE, "score", self.policy.modality, position_T, self.ctx)
        given = matched(pairs.token_P, bin_P, priority, room_X, deficit_T)
        return kept_TE.view(-1).index_fill_(0, pairs.flat_P.index_select(0, given), True).view_as(kept_TE)

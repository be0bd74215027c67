"""CapacityPolicy: what Token Drop, Expanded Drop and Fill share. Shape letters: T tokens, E experts, P pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Required, TypedDict, get_args

from torch import Tensor

from evenmoe.errors import check_choice
from evenmoe.routing.capacity import check_gamma
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.groups import (
    Bins,
    Isolation,
    Level,
    Scope,
    make_bins,
    make_groups,
)
from evenmoe.routing.policy import Policy, require
from evenmoe.routing.priority import Modality, Priority
from evenmoe.routing.selection import best_of_bins


class CapacityOptions(TypedDict, total=False):
    """The settings of a CapacityPolicy, as keyword arguments."""

    gamma: Required[float]
    scope: Scope
    level: Level
    isolation: Isolation
    modality: Modality


@dataclass(frozen=True, kw_only=True, repr=False)
class CapacityPolicy(Policy):
    """A policy that limits each bin (an expert, or a device) to the capacity of each group of tokens.

    gamma: capacity factor, see `evenmoe.routing.capacity`; inf means no limit.
    scope: "local" counts over the tokens of one source device, before the all-to-all; "global" over the batch.
    level: "expert" limits every expert; "device" the sum over the experts of a device.
    isolation: "batch": all tokens compete; "request": every request owns the capacity it would have alone (for
        its tokens on each device), and only unused room is lent; "strict": nothing is lent.
    modality: "image-first" drops image tokens before any text token, "text-first" the reverse.
    """

    gamma: float
    scope: Scope = "local"
    level: Level = "expert"
    isolation: Isolation = "batch"
    modality: Modality = "uniform"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", check_gamma(self.gamma))
        check_choice("scope", self.scope, get_args(Scope))
        check_choice("level", self.level, get_args(Level))
        check_choice("isolation", self.isolation, get_args(Isolation))
        check_choice("modality", self.modality, get_args(Modality))

    @property
    def has_capacity(self) -> bool:
        return True

    @property
    def needs_images(self) -> bool:
        return self.modality != "uniform"

    def check_context(self, ctx: RoutingContext) -> None:
        if self.isolation != "batch":
            require(ctx, "request_of_token_T", "isolation", self.isolation)
        if self.modality != "uniform":
            require(ctx, "image_T", "modality", self.modality)

    def _bins(self, chosen_T: Tensor, num_experts: int, ctx: RoutingContext) -> Bins:
        groups = make_groups(ctx, self.scope, self.isolation, chosen_T.shape[0], chosen_T.device)
        return make_bins(ctx, groups, self.level, self.gamma, chosen_T, num_experts)

    def _best(self, bin_P: Tensor, priority: Priority, bins: Bins) -> Tensor:
        """Return [P] bool: the pairs that win in their bin or, under isolation="request", get lent room."""
        kept_P = best_of_bins(bin_P, priority, bins.limit_X)
        if self.isolation != "request":
            return kept_P
        lost = (~kept_P).nonzero().view(-1)
        room_Y = bins.unused(bin_P[kept_P])
        lent_P = best_of_bins(
            bins.lending().index_select(0, bin_P.index_select(0, lost)), priority.at(lost), room_Y
        )
        return kept_P.index_copy_(0, lost, lent_P)

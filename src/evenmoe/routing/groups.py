"""Groups: which tokens compete with each other, and for what. Shape letters: T tokens, E experts, D devices.

G are the groups (source device x request), B the bins of a group (its experts, or their devices), X = G * B the bins
of all groups, and Y those of all source devices, between which requests lend.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from evenmoe.routing.capacity import limits
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.locations import copies_of_expert, device_of_pairs, device_of_token, number_within
from evenmoe.routing.pairs import Pairs

Scope = Literal["local", "global"]
Level = Literal["expert", "device"]
Isolation = Literal["batch", "request", "strict"]


@dataclass(frozen=True)
class Groups:
    """The group of each token, and the source device of each group."""

    group_T: Tensor
    source_G: Tensor
    num_sources: int
    unit_T: Tensor  # what tokens are numbered within: the source, or the request
    num_units: int

    @cached_property
    def position_T(self) -> Tensor:
        """[T]: the number of each token within its source device, or its request, from 0."""
        return number_within(self.unit_T, self.num_units)


@dataclass(frozen=True)
class Bins:
    """What a group's pairs compete for."""

    groups: Groups
    bin_E: Tensor | None  # the bin of each expert; None: every expert is its own
    limit_X: Tensor
    bin_TE: Tensor | None = None  # instead of bin_E where an expert's bin is that of the copy a token gets

    @property
    def num_bins(self) -> int:
        return self.limit_X.shape[0] // max(self.groups.source_G.shape[0], 1)

    def of(self, pairs: Pairs) -> Tensor:
        """Return [P]: the bin (X) of each pair."""
        group_T = self.groups.group_T
        if self.bin_TE is not None:
            return pairs.values(self.bin_TE) + (group_T * self.num_bins).index_select(0, pairs.token_P)
        if self.bin_E is None:
            # From token * E + expert to group * E + expert.
            moved_T = (group_T - torch.arange(group_T.shape[0], device=group_T.device)) * pairs.num_experts
            return pairs.flat_P + moved_T.index_select(0, pairs.token_P)
        bin_P = self.bin_E.index_select(0, pairs.expert_P)
        return bin_P + (group_T * self.num_bins).index_select(0, pairs.token_P)

    def by_pair(self, value_X: Tensor) -> Tensor:
        """Return [T, E]: the value of the bin of every pair."""
        group_T = self.groups.group_T
        if self.bin_TE is not None:
            return value_X[self.bin_TE + (group_T * self.num_bins)[:, None]]
        value_GB = value_X.view(-1, self.num_bins)
        value_GE = value_GB if self.bin_E is None else value_GB.index_select(1, self.bin_E)
        return value_GE.index_select(0, group_T)

    def lending(self) -> Tensor:
        """Return [X]: the lending bin (Y) of each bin, which is the same bin of all groups of a source device."""
        source_G, num_bins = self.groups.source_G, self.num_bins
        return (source_G[:, None] * num_bins + torch.arange(num_bins, device=source_G.device)).view(-1)

    def unused(self, kept_bin_P: Tensor, weight_P: Tensor | None = None) -> Tensor:
        """Return [Y]: the room that the kept pairs, by their bins (X) and weights (None: 1), leave to lend."""
        if weight_P is None:
            load_X = torch.bincount(kept_bin_P, minlength=self.limit_X.shape[0])
        else:
            load_X = torch.zeros_like(self.limit_X).index_add_(0, kept_bin_P, weight_P)
        left_X = self.limit_X - load_X
        left_Y = left_X.new_zeros(self.groups.num_sources * self.num_bins)
        return left_Y.index_add_(0, self.lending(), left_X)


def make_groups(
    ctx: RoutingContext, scope: Scope, isolation: Isolation, num_tokens: int, device: torch.device
) -> Groups:
    """Return the groups of a batch: source device (scope="local") x request (isolation other than "batch")."""
    if scope == "local":
        source_T, num_sources = device_of_token(ctx, num_tokens, device), ctx.num_devices
    else:
        source_T, num_sources = torch.zeros(num_tokens, dtype=torch.long, device=device), 1
    if isolation == "batch":
        return Groups(source_T, torch.arange(num_sources, device=device), num_sources, source_T, num_sources)
    assert ctx.request_of_token_T is not None
    requests, request_T = torch.unique(ctx.request_of_token_T.to(device, torch.long), return_inverse=True)
    groups, group_T = torch.unique(request_T * num_sources + source_T, return_inverse=True)
    return Groups(group_T, groups % num_sources, num_sources, request_T, requests.shape[0])


def make_bins(
    ctx: RoutingContext,
    groups: Groups,
    level: Level,
    gamma: float,
    chosen_T: Tensor,
    num_experts: int,
) -> Bins:
    """Return the bins of every group and their limits, given how many experts the model chose for each token."""
    pairs_G = chosen_T.new_zeros(groups.source_G.shape[0]).index_add_(0, groups.group_T, chosen_T)
    return bins_for(ctx, groups, level, gamma, pairs_G, num_experts)


def bins_for(
    ctx: RoutingContext, groups: Groups, level: Level, gamma: float, pairs_G: Tensor, num_experts: int
) -> Bins:
    """Return the bins of every group and their limits, given how many pairs each group has."""
    device, num_tokens = groups.group_T.device, groups.group_T.shape[0]
    copies_DE = copies_of_expert(ctx, num_experts, device)
    bin_E = bin_TE = None
    if level == "expert":
        copies_B = copies_DE.sum(0)
    else:
        copies_B = copies_DE.sum(1)
        if ctx.holds_DE is None:
            bin_E = copies_DE.long().argmax(0)
        else:
            bin_TE = device_of_pairs(ctx, num_tokens, num_experts, device)
    tokens_G = torch.bincount(groups.group_T, minlength=pairs_G.shape[0])
    num_copies = num_experts if ctx.holds_DE is None else int(copies_DE.sum())
    limit_GB = limits(gamma, pairs_G, tokens_G, copies_B, num_copies, num_tokens)
    return Bins(groups, bin_E, limit_GB.view(-1), bin_TE)

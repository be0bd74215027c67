"""Groups: which tokens compete with each other, and for what. Shape letters: T tokens, E experts, D devices.

G are the groups (source device x request), B the bins of a group (its experts, or their devices), X = G * B the bins
of all groups, and Y those of all source devices, between which requests lend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evenmoe.errors import ConfigError
from evenmoe.routing.capacity import limits
from evenmoe.routing.context import RoutingContext, contiguous_split
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
    position_T: Tensor  # the token's number within its isolation unit: the batch, or its request


@dataclass(frozen=True)
class Bins:
    """What a group's pairs compete for."""

    groups: Groups
    bin_E: Tensor | None  # the bin of each expert; None: every expert is its own
    limit_X: Tensor

    @property
    def num_bins(self) -> int:
        return self.limit_X.shape[0] // max(self.groups.source_G.shape[0], 1)

    def of(self, pairs: Pairs) -> Tensor:
        """Return [P]: the bin (X) of each pair."""
        group_T = self.groups.group_T
        if self.bin_E is None:
            # From token * E + expert to group * E + expert.
            moved_T = (group_T - torch.arange(group_T.shape[0], device=group_T.device)) * pairs.num_experts
            return pairs.flat_P + moved_T.index_select(0, pairs.token_P)
        bin_P = self.bin_E.index_select(0, pairs.expert_P)
        return bin_P + (group_T * self.num_bins).index_select(0, pairs.token_P)

    def by_expert(self, value_X: Tensor) -> Tensor:
        """Return [G, E]: the value of the bin of each expert in each group."""
        value_GB = value_X.view(-1, self.num_bins)
        return value_GB if self.bin_E is None else value_GB.index_select(1, self.bin_E)

    def lending(self) -> Tensor:
        """Return [X]: the lending bin (Y) of each bin, which is the same bin of all groups of a source device."""
        source_G, num_bins = self.groups.source_G, self.num_bins
        return (source_G[:, None] * num_bins + torch.arange(num_bins, device=source_G.device)).view(-1)

    def unused(self, kept_bin_P: Tensor) -> Tensor:
        """Return [Y]: the room that the kept pairs, given by their bins (X), leave to lend."""
        left_X = self.limit_X - torch.bincount(kept_bin_P, minlength=self.limit_X.shape[0])
        left_Y = left_X.new_zeros(self.groups.num_sources * self.num_bins)
        return left_Y.index_add_(0, self.lending(), left_X)


def device_of_token(ctx: RoutingContext, num_tokens: int, device: torch.device) -> Tensor:
    """Return [T]: the device of each token. Raises ConfigError if the tokens are too few to be shared out."""
    if ctx.device_of_token_T is not None:
        return ctx.device_of_token_T.to(device, torch.long)
    if ctx.num_devices > num_tokens:
        raise ConfigError(
            "num_devices",
            ctx.num_devices,
            f"at most the {num_tokens} real tokens, unless device_of_token_T is given",
        )
    return contiguous_split(num_tokens, ctx.num_devices).to(device)


def device_of_expert(ctx: RoutingContext, num_experts: int, device: torch.device) -> Tensor:
    """Return [E]: the device of each expert."""
    if ctx.device_of_expert_E is not None:
        return ctx.device_of_expert_E.to(device, torch.long)
    return contiguous_split(num_experts, ctx.num_devices).to(device)


def make_groups(
    ctx: RoutingContext, scope: Scope, isolation: Isolation, num_tokens: int, device: torch.device
) -> Groups:
    """Return the groups of a batch: source device (scope="local") x request (isolation other than "batch")."""
    index_T = torch.arange(num_tokens, device=device)
    if scope == "local":
        source_T, num_sources = device_of_token(ctx, num_tokens, device), ctx.num_devices
    else:
        source_T, num_sources = torch.zeros_like(index_T), 1
    if isolation == "batch":
        return Groups(source_T, torch.arange(num_sources, device=device), num_sources, index_T)
    assert ctx.request_of_token_T is not None
    _, request_T, tokens_R = torch.unique(
        ctx.request_of_token_T.to(device, torch.long), return_inverse=True, return_counts=True
    )
    groups, group_T = torch.unique(request_T * num_sources + source_T, return_inverse=True)
    by_request = request_T.argsort(stable=True)
    start_R = tokens_R.cumsum(0) - tokens_R
    position_T = torch.empty_like(index_T)
    position_T[by_request] = index_T - start_R[request_T[by_request]]
    return Groups(group_T, groups % num_sources, num_sources, position_T)


def make_bins(
    ctx: RoutingContext,
    groups: Groups,
    level: Level,
    gamma: float,
    chosen_T: Tensor,
    num_experts: int,
) -> Bins:
    """Return the bins of every group and their limits, given how many experts the model chose for each token."""
    device, num_groups = groups.group_T.device, groups.source_G.shape[0]
    if level == "expert":
        bin_E, experts_B = None, torch.ones(num_experts, dtype=torch.long, device=device)
    else:
        bin_E = device_of_expert(ctx, num_experts, device)
        experts_B = torch.bincount(bin_E, minlength=ctx.num_devices)
    tokens_G = torch.bincount(groups.group_T, minlength=num_groups)
    pairs_G = torch.zeros_like(tokens_G).index_add_(0, groups.group_T, chosen_T)
    limit_GB = limits(gamma, pairs_G, tokens_G, experts_B, num_experts, groups.group_T.shape[0])
    return Bins(groups, bin_E, limit_GB.view(-1))

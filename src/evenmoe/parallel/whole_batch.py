"""Whole batch: decisions that depend on the tokens of other ranks, made the same on all of them.

A policy with scope="global" counts over the batch of all ranks. Per layer that costs one all-reduce of counts: loads
[E or D], tokens [D] and one flag. If they show that no bin is over its capacity, nothing is dropped, and that is all.
Otherwise every rank gathers the scores (float32) and choices (1 byte) of all tokens, padded to the rank with the most,
D * T * E * 5 bytes, and each decides for the whole batch and takes its slice. Scope "local", policies without a scope,
isolation "strict" (a request is on one rank) and gamma = inf need no communication.

Shape letters: T this rank's real tokens, E experts, D devices (ranks), B bins.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evenmoe.routing import ExpertDrop, Fill, Policy, RoutingContext, TokenDrop
from evenmoe.routing.capacity import limits
from evenmoe.routing.locations import copies_of_expert, device_of_pair

if TYPE_CHECKING:
    from evenmoe.parallel.group import Group

Applies = Callable[[bool, int], bool]
"""Whether the policy acts, given whether the batch is in decode, and its number of real tokens."""


def decides_over_ranks(policy: Policy) -> bool:
    """Whether the policy's choice for a token depends on tokens of other ranks."""
    if getattr(policy, "scope", "local") != "global" or getattr(policy, "gamma", 1.0) == math.inf:
        return False
    isolation = getattr(policy, "isolation", "batch")
    return isolation == "batch" or (isolation == "request" and not isinstance(policy, ExpertDrop))


def keep_over_ranks(
    group: Group,
    policy: Policy,
    scores_TE: Tensor,
    chosen_TE: Tensor,
    ctx: RoutingContext,
    *,
    decode: bool,
    applies: Applies,
) -> Tensor | None:
    """Return [T, E] bool: this rank's part of what `policy.keep` gives for the batch of all ranks. Collective.

    The result is that of one process with the ranks' tokens one rank after the other. `applies(decode, tokens)` says
    whether the policy acts on a batch of so many real tokens; None is returned where it does not. The batch is in
    decode if all ranks that have real tokens are, so that ranks never disagree.
    """
    real = None if ctx.real_T is None else ctx.real_T.to(chosen_TE.device).nonzero().view(-1)
    own = _Part.of(scores_TE, chosen_TE, ctx, real)
    counts = _Counts.over_ranks(group, policy, own, ctx, decode)
    if not applies(counts.decode, sum(counts.tokens_D)):
        return None
    if _nothing_over(policy, counts, ctx, chosen_TE.shape[1]):
        return chosen_TE if real is None else _written(chosen_TE, real, own.chosen_TE)
    whole = own.of_all_ranks(group, counts.tokens_D)
    start = sum(counts.tokens_D[: group.rank])
    kept_TE = policy.keep(whole.scores_TE, whole.chosen_TE, whole.context(ctx, counts.tokens_D))
    kept_TE = kept_TE[start : start + counts.tokens_D[group.rank]]
    return kept_TE if real is None else _written(chosen_TE, real, kept_TE)


def _written(chosen_TE: Tensor, real: Tensor, kept_TE: Tensor) -> Tensor:
    return torch.zeros_like(chosen_TE).index_copy_(0, real, kept_TE)


@dataclass(frozen=True, eq=False)
class _Part:
    """What a policy is told about some real tokens."""

    scores_TE: Tensor
    chosen_TE: Tensor
    request_T: Tensor | None
    image_T: Tensor | None
    entropy_T: Tensor | None

    @staticmethod
    def of(scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext, real: Tensor | None) -> _Part:
        def taken(values: Tensor | None) -> Tensor | None:
            if values is None or real is None:
                return values
            return values.to(real.device).index_select(0, real)

        request_T, image_T = taken(ctx.request_of_token_T), taken(ctx.image_T)
        entropy_T = taken(ctx.entropy_T)
        return _Part(_some(taken(scores_TE)), _some(taken(chosen_TE)), request_T, image_T, entropy_T)

    def of_all_ranks(self, group: Group, tokens_D: list[int]) -> _Part:
        """Return the tokens of all ranks, one rank after the other."""
        most = max(tokens_D)

        def gathered(values: Tensor) -> Tensor:
            padded = values.new_zeros(most, *values.shape[1:])
            padded[: values.shape[0]] = values
            parts = group.all_gather(padded)
            return torch.cat([part[:num] for part, num in zip(parts, tokens_D, strict=True)])

        request_T = self.request_T
        if request_T is not None:  # a number that no other rank uses
            request_T = gathered(request_T.to(self.scores_TE.device, torch.long) + (group.rank << 32))
        image_T = None if self.image_T is None else gathered(self.image_T.to(torch.uint8)).bool()
        entropy_T = None if self.entropy_T is None else gathered(self.entropy_T)
        chosen_TE = gathered(self.chosen_TE.to(torch.uint8)).bool()
        return _Part(gathered(self.scores_TE), chosen_TE, request_T, image_T, entropy_T)

    def context(self, ctx: RoutingContext, tokens_D: list[int]) -> RoutingContext:
        """Return the context of all ranks' tokens, each on its rank."""
        device = self.scores_TE.device
        counts_D = torch.tensor(tokens_D, device=device)
        return dataclasses.replace(
            ctx,
            device_of_token_T=torch.arange(len(tokens_D), device=device).repeat_interleave(counts_D),
            real_T=None,
            request_of_token_T=self.request_T,
            image_T=self.image_T,
            entropy_T=self.entropy_T,
        )


def _some(values: Tensor | None) -> Tensor:
    assert values is not None
    return values


@dataclass(frozen=True, eq=False)
class _Counts:
    """Of all ranks: chosen pairs of each bin (experts, or devices), real tokens, and whether all are in decode."""

    load_B: Tensor
    tokens_D: list[int]
    decode: bool

    @staticmethod
    def over_ranks(group: Group, policy: Policy, own: _Part, ctx: RoutingContext, decode: bool) -> _Counts:
        load_B, num_tokens = _load(policy, own, ctx, group.rank), own.chosen_TE.shape[0]
        vector = load_B.new_zeros(load_B.shape[0] + group.world_size + 1)
        vector[: load_B.shape[0]] = load_B
        vector[load_B.shape[0] + group.rank] = num_tokens
        vector[-1] = int(num_tokens > 0 and not decode)
        group.all_reduce(vector)
        *tokens_D, num_in_prefill = vector[load_B.shape[0] :].tolist()
        return _Counts(vector[: load_B.shape[0]], tokens_D, num_in_prefill == 0)


def _load(policy: Policy, own: _Part, ctx: RoutingContext, rank: int) -> Tensor:
    if getattr(policy, "level", "expert") == "expert":
        return own.chosen_TE.sum(0)
    num_tokens, num_experts = own.chosen_TE.shape
    token_P, expert_P = own.chosen_TE.nonzero(as_tuple=True)
    placed = dataclasses.replace(
        ctx,
        device_of_token_T=torch.full((num_tokens,), rank, device=token_P.device),
        real_T=None,
        request_of_token_T=None,
        image_T=None,
        entropy_T=None,
    )
    device_P = device_of_pair(placed, token_P, expert_P, num_tokens, num_experts)
    return torch.bincount(device_P, minlength=ctx.num_devices)


def _nothing_over(policy: Policy, counts: _Counts, ctx: RoutingContext, num_experts: int) -> bool:
    """Whether the counts alone show that the policy keeps every chosen pair and adds none."""
    if not isinstance(policy, TokenDrop | Fill) or policy.isolation != "batch":
        return False
    copies_DE = copies_of_expert(ctx, num_experts, counts.load_B.device)
    copies_B = copies_DE.sum(0 if policy.level == "expert" else 1)
    num_copies = num_experts if ctx.holds_DE is None else int(copies_DE.sum())
    total = sum(counts.tokens_D)
    pairs_G, tokens_G = counts.load_B.sum()[None], counts.load_B.new_tensor([total])
    limit_GB = limits(policy.gamma, pairs_G, tokens_G, copies_B, num_copies, total)
    return bool((counts.load_B <= limit_GB[0]).all())

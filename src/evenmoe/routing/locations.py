"""Locations: which device each token is on, and which device holds, and runs, each expert.

Shape letters: T tokens, E experts, D devices, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evenmoe.errors import ConfigError
from evenmoe.routing.context import RoutingContext, contiguous_split


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


def copies_of_expert(ctx: RoutingContext, num_experts: int, device: torch.device) -> Tensor:
    """Return [D, E] bool: which devices hold a copy of each expert."""
    if ctx.holds_DE is not None:
        return ctx.holds_DE.to(device)
    if ctx.device_of_expert_E is not None:
        device_E = ctx.device_of_expert_E.to(device, torch.long)
    else:
        device_E = contiguous_split(num_experts, ctx.num_devices).to(device)
    return torch.arange(ctx.num_devices, device=device)[:, None] == device_E


def experts_by_token(
    ctx: RoutingContext, num_tokens: int, num_experts: int, device: torch.device, only_T: Tensor | None = None
) -> Tensor:
    """Return [T, E] bool: the experts on each token's own device; none for a token that is not in `only_T`."""
    held_DE = copies_of_expert(ctx, num_experts, device)
    row_T = device_of_token(ctx, num_tokens, device)
    if only_T is not None:
        held_DE = torch.cat([held_DE, held_DE.new_zeros(1, num_experts)])
        row_T = torch.where(only_T, row_T, ctx.num_devices)  # the row after the last holds nothing
    return held_DE.index_select(0, row_T)


def number_within(part_T: Tensor, num_parts: int) -> Tensor:
    """Return [T]: how many earlier tokens are in the same part, for parts numbered from 0."""
    by_part = part_T.argsort(stable=True)
    size_X = torch.bincount(part_T, minlength=num_parts)
    start_X = size_X.cumsum(0) - size_X
    number_T = torch.empty_like(part_T)
    number_T[by_part] = torch.arange(part_T.shape[0], device=part_T.device) - start_X[part_T[by_part]]
    return number_T


def device_of_pairs(ctx: RoutingContext, num_tokens: int, num_experts: int, device: torch.device) -> Tensor:
    """Return [T, E]: the device that would run each pair, by the rule of `device_of_pair`."""
    token_P = torch.arange(num_tokens, device=device).repeat_interleave(num_experts)
    expert_P = torch.arange(num_experts, device=device).repeat(num_tokens)
    return device_of_pair(ctx, token_P, expert_P, num_tokens, num_experts).view(num_tokens, num_experts)


def device_of_pair(
    ctx: RoutingContext, token_P: Tensor, expert_P: Tensor, num_tokens: int, num_experts: int
) -> Tensor:
    """Return [P]: the device that runs each pair of a real token.

    A pair stays on its token's device if that holds a copy of the expert. Otherwise the tokens of a device take the
    copies in turn: its n-th real token (from 0) goes to copy n mod R of the R in the order of their devices. So a
    pair's device depends on no other pair, and processes that hold the same tokens agree without a word.
    """
    device = token_P.device
    copies_DE = copies_of_expert(ctx, num_experts, device)
    if ctx.holds_DE is None:
        return copies_DE.long().argmax(0).index_select(0, expert_P)
    source_T, number_T = _numbered_sources(ctx, num_tokens, device)
    source_P, number_P = source_T.index_select(0, token_P), number_T.index_select(0, token_P)
    # The holders of each expert come first in its column, in the order of the devices.
    holders_RE = (~copies_DE).long().argsort(dim=0, stable=True)
    dealt_P = holders_RE[number_P % copies_DE.sum(0).index_select(0, expert_P), expert_P]
    return torch.where(copies_DE[source_P, expert_P], source_P, dealt_P)


def _numbered_sources(ctx: RoutingContext, num_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return [T] twice: the device of each token, and its number there among the real ones (padding: 0, 0)."""
    if ctx.real_T is None:
        source_T = device_of_token(ctx, num_tokens, device)
        return source_T, number_within(source_T, ctx.num_devices)
    real = ctx.real_T.to(device).nonzero().view(-1)
    if ctx.device_of_token_T is None:
        source_R = device_of_token(ctx, real.shape[0], device)
    else:
        source_R = ctx.device_of_token_T.to(device, torch.long).index_select(0, real)
    source_T, number_T = torch.zeros(2, num_tokens, dtype=torch.long, device=device)
    source_T[real], number_T[real] = source_R, number_within(source_R, ctx.num_devices)
    return source_T, number_T

"""Local experts: those on a token's own device. Shape letters: T tokens, E experts, D devices."""

from __future__ import annotations

import torch
from torch import Tensor

from evenmoe.routing.context import RoutingContext
from evenmoe.routing.groups import device_of_expert, device_of_token


def experts_by_token(
    ctx: RoutingContext, num_tokens: int, num_experts: int, device: torch.device, only_T: Tensor | None = None
) -> Tensor:
    """Return [T, E] bool: the experts on each token's own device; none for a token that is not in `only_T`."""
    held_DE = torch.arange(ctx.num_devices + 1, device=device)[:, None] == device_of_expert(
        ctx, num_experts, device
    )
    row_T = device_of_token(ctx, num_tokens, device)
    if only_T is not None:
        row_T = torch.where(only_T, row_T, ctx.num_devices)  # the row after the last holds nothing
    return held_DE.index_select(0, row_T)

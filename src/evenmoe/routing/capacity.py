"""Capacity of groups of tokens, on tensors; `evenmoe.loads.capacity` has the definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evenmoe.loads.capacity import capacity, ceil_share, check_gamma, exact_gamma

__all__ = ["capacity", "check_gamma", "limits"]

_INT64_ROOM = 2**62


def limits(
    gamma: float, pairs_G: Tensor, tokens_G: Tensor, copies_B: Tensor, num_copies: int, num_tokens: int
) -> Tensor:
    """Return [G, B]: the pairs that each bin (B: experts, or devices) takes from each group of tokens (G).

    `pairs_G` are the top-k pairs of each group, T*K when every token has K; `tokens_G` its tokens; `copies_B` the
    copies of experts behind each bin (1 for an expert without redundant copies); `num_copies` those of all experts,
    E where none has a second one; `num_tokens` the tokens of all groups. At least 1, at most copies * tokens.
    """
    most_GB = tokens_G[:, None] * copies_B
    if math.isinf(gamma):
        return most_GB
    exact = exact_gamma(gamma)
    share_GB = pairs_G[:, None] * copies_B
    # A bound that is known without reading a tensor's values, which would stall an accelerator.
    most_shared = num_tokens * num_copies * num_copies
    if exact.numerator * most_shared < _INT64_ROOM and exact.denominator * num_copies < _INT64_ROOM:
        limit_GB = ceil_share(exact, share_GB, num_copies)
    else:
        exact_limits = [
            [min(ceil_share(exact, share, num_copies), most) for share, most in zip(*rows, strict=True)]
            for rows in zip(share_GB.tolist(), most_GB.tolist(), strict=True)
        ]
        limit_GB = torch.tensor(exact_limits, device=pairs_G.device, dtype=torch.long).view_as(most_GB)
    return limit_GB.clamp(min=1).minimum(most_GB)

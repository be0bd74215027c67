"""Capacity: how many pairs an expert, or a device, may take.

`C = ceil(gamma * T * K / E)`, at least 1 and at most T (CAI, section 3.2, whose pseudo-code floors and
whose code ceils). The ceiling is exact: gamma is read as the decimal number that it prints as, at 12
significant digits, so that 1.1 * 10 is 11 and never, by rounding noise, 12.
"""

from __future__ import annotations

import math
from fractions import Fraction
from numbers import Integral, Real

import torch
from torch import Tensor

from evenmoe.errors import ConfigError

_INT64_ROOM = 2**62


def capacity(gamma: float, num_tokens: int, top_k: int, num_experts: int) -> int:
    """Return C, the pairs that one expert takes from `num_tokens` tokens; 0 if there are no tokens.

    Raises ConfigError for gamma <= 0 or NaN, a negative token count, or counts below 1 of the others.
    """
    gamma = check_gamma(gamma)
    for field, value, least in (
        ("num_tokens", num_tokens, 0),
        ("top_k", top_k, 1),
        ("num_experts", num_experts, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ConfigError(field, value, f"an integer of at least {least}")
    if math.isinf(gamma):
        return num_tokens
    exact = math.ceil(_exact(gamma) * num_tokens * top_k / num_experts)
    return min(max(exact, 1), num_tokens)


def check_gamma(gamma: object) -> float:
    """Return `gamma` as a float; an integer works like the float. Raises ConfigError for anything else."""
    allowed = "a number above 0 (inf means no limit)"
    if isinstance(gamma, bool) or not isinstance(gamma, Real):
        raise ConfigError("gamma", gamma, allowed)
    try:
        value = float(gamma)
    except OverflowError:  # an integer beyond every float
        value = math.inf if gamma > 0 else -math.inf  # type: ignore[operator]
    if not value > 0:
        raise ConfigError("gamma", gamma, allowed)
    return value


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
    exact = _exact(gamma)
    share_GB = pairs_G[:, None] * copies_B
    # A bound that is known without reading a tensor's values, which would stall an accelerator.
    most_shared = num_tokens * num_copies * num_copies
    if exact.numerator * most_shared < _INT64_ROOM and exact.denominator * num_copies < _INT64_ROOM:
        per = exact.denominator * num_copies
        limit_GB = (share_GB * exact.numerator + (per - 1)).div(per, rounding_mode="floor")
    else:
        exact_limits = [
            [min(math.ceil(exact * share / num_copies), most) for share, most in zip(*rows, strict=True)]
            for rows in zip(share_GB.tolist(), most_GB.tolist(), strict=True)
        ]
        limit_GB = torch.tensor(exact_limits, device=pairs_G.device, dtype=torch.long).view_as(most_GB)
    return limit_GB.clamp(min=1).minimum(most_GB)


def _exact(gamma: float) -> Fraction:
    return Fraction(f"{gamma:.12g}")

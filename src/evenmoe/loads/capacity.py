"""Capacity: how many pairs an expert may take. The one definition; no torch, no numpy.

`C = ceil(gamma * T * K / E)`, at least 1 and at most T (CAI, section 3.2, whose pseudo-code floors and
whose code ceils). The ceiling is exact: gamma is read as the decimal number that it prints as, at 12
significant digits, so that 1.1 * 10 is 11 and never, by rounding noise, 12.
"""

from __future__ import annotations

import math
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, TypeVar

from evenmoe.errors import ConfigError

Whole = TypeVar("Whole", bound=Any)


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
    return min(max(int(ceil_share(exact_gamma(gamma), num_tokens * top_k, num_experts)), 1), num_tokens)


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


def exact_gamma(gamma: float) -> Fraction:
    """Return a finite gamma as the decimal number that it prints as."""
    return Fraction(f"{gamma:.12g}")


def ceil_share(exact: Fraction, pairs: Whole, parts: int) -> Whole:
    """Return ceil(gamma * pairs / parts), exactly.

    pairs: an integer, or a tensor or array of integers small enough for their type once multiplied.
    """
    ceiling: Whole = -(-(pairs * exact.numerator) // (exact.denominator * parts))
    return ceiling

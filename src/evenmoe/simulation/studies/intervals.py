"""Spread over seeds: mean, standard deviation and the 95% interval of a mean, and of a gain paired by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from evenmoe.errors import ConfigError

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of one figure over seeds: its mean, standard deviation, and the interval in which the mean lies.

    std is the sample's, with n - 1. low and high are the ends of Student's 95% interval; None for a single seed.
    """

    mean: float
    std: float
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and 95% interval of independent values. Raises ConfigError where there are none."""
    number = len(values)
    if not number:
        raise ConfigError("values", list(values), "at least one")
    mean = math.fsum(values) / number
    if number == 1:
        return Spread(mean=mean, std=0.0, low=None, high=None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1))
    half = student_t(number - 1) * std / math.sqrt(number)
    return Spread(mean=mean, std=std, low=mean - half, high=mean + half)


def paired_gain(
    values: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool = False
) -> Spread:
    """How much better `values` are than `baseline` of the same seeds, each as a share of the baseline's.

    Of latencies 1 - value / baseline, and value / baseline - 1 where higher is better: positive is better.
    Raises ConfigError for lists of different lengths and for a baseline that is not above 0.
    """
    if len(values) != len(baseline):
        raise ConfigError(
            "values", len(values), f"as many as the baseline's {len(baseline)}: they are paired"
        )
    for value in baseline:
        if not value > 0:
            raise ConfigError("baseline", value, "above 0")
    sign = 1.0 if higher_is_better else -1.0
    return spread([sign * (value / base - 1.0) for value, base in zip(values, baseline, strict=True)])


@lru_cache
def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t that a Student-distributed number of so many degrees of freedom stays within, with this probability."""
    if freedom < 1:
        raise ConfigError("freedom", freedom, "at least 1")
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t): the finite series for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, is_odd = math.cos(angle), freedom % 2
    term = total = 0.0 if freedom == 1 else (cosine if is_odd else 1.0)
    for power in range(2 + is_odd, freedom - 1, 2):
        term *= cosine**2 * (power - 1) / power
        total += term
    sine = math.sin(angle) * total
    return 2 / math.pi * (angle + sine) if is_odd else sine

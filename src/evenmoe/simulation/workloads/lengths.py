"""How many tokens a prompt or an answer has: distributions over whole numbers of at least 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.simulation.checks import check_int, check_number

Ints = NDArray[np.int64]

MOST_TOKENS = 1_000_000_000
"""No length is above this, in a trace or drawn: far above any context, and far below what an integer holds."""


class Lengths(Protocol):
    """A distribution of lengths in tokens."""

    def draw(self, number: int, rng: np.random.Generator) -> Ints:
        """[number]: lengths, each from 1 to MOST_TOKENS."""


@dataclass(frozen=True)
class Fixed:
    """Always `tokens`."""

    tokens: int

    def __post_init__(self) -> None:
        _check_tokens("tokens", self.tokens)

    def draw(self, number: int, rng: np.random.Generator) -> Ints:
        """[number]: the same length; nothing is drawn."""
        return np.full(number, self.tokens, dtype=np.int64)


@dataclass(frozen=True)
class Uniform:
    """Each whole number from `least` to `most`, both included, alike."""

    least: int
    most: int

    def __post_init__(self) -> None:
        _check_tokens("least", self.least)
        _check_tokens("most", self.most)
        if self.most < self.least:
            raise ConfigError("most", self.most, f"at least least, {self.least}")

    def draw(self, number: int, rng: np.random.Generator) -> Ints:
        """[number]: uniform lengths."""
        return rng.integers(self.least, self.most, endpoint=True, size=number)


@dataclass(frozen=True)
class LogNormal:
    """exp of a normal number, rounded, no less than 1 and no more than `most`.

    mean: of the lengths (not of their logarithms), before rounding and before `most` cuts the tail.
    sigma: standard deviation of the logarithm; 1 puts two thirds of the lengths between 0.37 and 2.7 times the median.
    most: the longest there is, as a model's context.
    """

    mean: float
    sigma: float
    most: int = MOST_TOKENS

    def __post_init__(self) -> None:
        check_number("mean", self.mean, 1.0)
        check_number("sigma", self.sigma, 0.0)
        _check_tokens("most", self.most)

    def draw(self, number: int, rng: np.random.Generator) -> Ints:
        """[number]: log-normal lengths."""
        median_log = math.log(self.mean) - self.sigma**2 / 2
        drawn = np.exp(
            np.minimum(median_log + self.sigma * rng.standard_normal(number), math.log(MOST_TOKENS))
        )
        return np.clip(np.rint(drawn), 1, self.most).astype(np.int64)


@dataclass(frozen=True)
class Geometric:
    """1, 2, ...: after each token the text ends with probability 1 / mean."""

    mean: float

    def __post_init__(self) -> None:
        check_number("mean", self.mean, 1.0)

    def draw(self, number: int, rng: np.random.Generator) -> Ints:
        """[number]: geometric lengths."""
        return np.minimum(rng.geometric(1 / self.mean, number), MOST_TOKENS)


@dataclass(frozen=True, kw_only=True)
class RequestLengths:
    """Distributions of prompt and output tokens; None leaves them to the trace, or to the prompts."""

    prompt: Lengths | None = None
    output: Lengths | None = None


def _check_tokens(field: str, value: object) -> None:
    check_int(field, value, 1)
    if value > MOST_TOKENS:  # type: ignore[operator]
        raise ConfigError(field, value, f"at most {MOST_TOKENS}")

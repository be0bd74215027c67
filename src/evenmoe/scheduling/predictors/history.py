"""History: the running mean of observed loads, by topic or tenant. Shape letters: T tokens, L layers, E experts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError
from evenmoe.scheduling.predictors.predictor import as_ids, check_load

Floats = NDArray[np.float64]

_UNIFORM_TOKENS = 1.0
"""Tokens' worth of an even load that the mean over everything starts with."""

TOPIC_TOKENS = 64.0
"""Tokens' worth of the mean over everything that each topic starts with."""


@dataclass(eq=False)
class _Sum:
    pairs_LE: Floats
    tokens: float = 0.0

    def add(self, load_LE: Floats, tokens: float, decay: float) -> None:
        self.pairs_LE *= decay
        self.pairs_LE += load_LE
        self.tokens = decay * self.tokens + tokens

    def rate(self, before_LE: Floats, weight: float) -> Floats:
        """Pairs per token, where `before_LE` counts as `weight` tokens."""
        return np.asarray((self.pairs_LE + weight * before_LE) / (self.tokens + weight))


class History:
    """Predicts the mean load per token of a topic so far, times the prompt's tokens.

    A topic that was never observed, and None, take the mean over everything; before any observation the load is even.
    half_life_tokens: after so many further tokens an observation counts half; None: all count alike.
    Raises ConfigError for sizes below 1 and a half-life that is not above 0.
    """

    def __init__(
        self, num_layers: int, num_experts: int, top_k: int, *, half_life_tokens: float | None = None
    ) -> None:
        for name, value in (("num_layers", num_layers), ("num_experts", num_experts), ("top_k", top_k)):
            if value < 1:
                raise ConfigError(name, value, "at least 1")
        check_half_life(half_life_tokens)
        self.num_layers, self.num_experts, self.top_k = num_layers, num_experts, top_k
        self.half_life_tokens = half_life_tokens
        self._all = self._empty()
        self._by_topic: dict[str, _Sum] = {}

    def observe(self, num_tokens: int, load_LE: ArrayLike, topic: str | None = None) -> None:
        """Learn the load [L, E] of a prompt, or of several of one topic, of `num_tokens` tokens in all.

        Raises ShapeError and ConfigError for what is no load.
        """
        if num_tokens < 1:
            raise ConfigError("num_tokens", num_tokens, "at least 1")
        load = check_load(load_LE, self)
        decay = decay_of(num_tokens, self.half_life_tokens)
        self._all.add(load, num_tokens, decay)
        if topic is not None:
            self._by_topic.setdefault(topic, self._empty()).add(load, num_tokens, decay)

    def predict(self, ids_T: ArrayLike, topic: str | None = None) -> Floats:
        """[L, E]: expected pairs of the prompt; only the number of its tokens counts."""
        return self.rate(topic) * len(as_ids(ids_T))

    def rate(self, topic: str | None = None) -> Floats:
        """[L, E]: expected pairs per token."""
        even = np.full((self.num_layers, self.num_experts), self.top_k / self.num_experts)
        mean_LE = self._all.rate(even, _UNIFORM_TOKENS)
        known = self._by_topic.get(topic) if topic is not None else None
        return mean_LE if known is None else known.rate(mean_LE, TOPIC_TOKENS)

    def _empty(self) -> _Sum:
        return _Sum(np.zeros((self.num_layers, self.num_experts)))


def check_half_life(half_life_tokens: float | None) -> None:
    """Raise ConfigError unless it is None or a number above 0."""
    if half_life_tokens is not None and not 0 < half_life_tokens < float("inf"):
        raise ConfigError("half_life_tokens", half_life_tokens, "a number of tokens above 0, or None")


def decay_of(num_tokens: float, half_life_tokens: float | None) -> float:
    """By what earlier observations are multiplied when `num_tokens` more come."""
    return 1.0 if half_life_tokens is None else float(0.5 ** (num_tokens / half_life_tokens))

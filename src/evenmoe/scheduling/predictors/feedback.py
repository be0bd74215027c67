"""Feedback: observed loads correct a prediction while requests are served. Shape letters: L layers, E experts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError
from evenmoe.scheduling.predictors.accuracy import cosine
from evenmoe.scheduling.predictors.history import check_half_life, decay_of
from evenmoe.scheduling.predictors.predictor import Predictor, as_ids, check_load

Floats = NDArray[np.float64]

HALF_LIFE_TOKENS = 16384.0
_EVEN_TOKENS = 64.0
"""Tokens' worth of an even load that both sums of a factor start with, so that it starts at 1."""


@dataclass(eq=False)
class _Sums:
    """Predicted and observed pairs, older ones fading."""

    predicted_LE: Floats
    observed_LE: Floats
    tokens: float = field(default=0.0)

    def add(self, predicted_LE: Floats, observed_LE: Floats, tokens: float, decay: float) -> None:
        self.predicted_LE = decay * self.predicted_LE + predicted_LE
        self.observed_LE = decay * self.observed_LE + observed_LE
        self.tokens = decay * self.tokens + tokens

    def factor(self, start: float) -> Floats:
        return np.asarray((self.observed_LE + start) / (self.predicted_LE + start))


class Feedback:
    """A predictor whose predictions are multiplied, by expert and layer, by observed over predicted pairs so far.

    Both sums fade with `half_life_tokens`, so that the factors follow traffic that drifts. A topic has factors of its
    own, on top of those of all traffic. Each layer keeps the total that was predicted.

    Where the corrected predictions have lately been worse, by cosine, than the plain mean of what was observed,
    `trusted` is False and that mean is predicted instead.
    Raises ConfigError for a half-life that is not above 0.
    """

    def __init__(self, predictor: Predictor, *, half_life_tokens: float = HALF_LIFE_TOKENS) -> None:
        check_half_life(half_life_tokens)
        self.predictor, self.half_life_tokens = predictor, half_life_tokens
        self._all = self._empty()
        self._by_topic: dict[str, _Sums] = {}
        self._cosines = np.zeros(3)
        """Fading sums of the cosines of the plain prediction, the corrected one and the mean."""
        self._weight = 0.0

    @property
    def num_layers(self) -> int:
        """L."""
        return self.predictor.num_layers

    @property
    def num_experts(self) -> int:
        """E."""
        return self.predictor.num_experts

    @property
    def top_k(self) -> int:
        """K."""
        return self.predictor.top_k

    @property
    def trusted(self) -> bool:
        """Whether the corrected predictions have lately been at least as good as the mean."""
        return bool(self._cosines[1] >= self._cosines[2])

    @property
    def mean_LE(self) -> Floats:
        """[L, E]: observed pairs per token, of late; even before any."""
        even = self.top_k / self.num_experts
        return np.asarray((self._all.observed_LE + even) / (self._all.tokens + 1.0))

    @property
    def cosines(self) -> dict[str, float]:
        """Recent mean cosine with the observed loads: "predicted", "corrected", and "mean"; NaN before any."""
        recent = self._cosines / self._weight if self._weight else np.full(3, np.nan)
        return dict(zip(("predicted", "corrected", "mean"), recent.tolist(), strict=True))

    def predict(self, ids_T: ArrayLike, topic: str | None = None) -> Floats:
        """[L, E]: expected pairs of the prompt, corrected."""
        predicted_LE = self.predictor.predict(ids_T, topic)
        return self.correct(predicted_LE, topic) if self.trusted else self.mean_LE * len(as_ids(ids_T))

    def observe(self, ids_T: ArrayLike, load_LE: ArrayLike, topic: str | None = None) -> None:
        """Learn the true load [L, E] of a prompt. Raises ShapeError and ConfigError for what is no load."""
        self.update(self.predictor.predict(ids_T, topic), load_LE, len(as_ids(ids_T)), topic)

    def update(
        self, predicted_LE: Floats, load_LE: ArrayLike, num_tokens: int, topic: str | None = None
    ) -> None:
        """Learn from any load and what the plain predictor said of it: of a prompt, or the sums over a whole batch."""
        load = check_load(load_LE, self)
        if num_tokens < 1:
            raise ConfigError("num_tokens", num_tokens, "at least 1")
        decay = decay_of(num_tokens, self.half_life_tokens)
        guesses = (predicted_LE, self.correct(predicted_LE, topic), self.mean_LE * num_tokens)
        self._cosines = decay * self._cosines + [num_tokens * cosine(guess, load).mean() for guess in guesses]
        self._weight = decay * self._weight + num_tokens
        if topic is not None:
            changed_LE = predicted_LE * self._all.factor(self._start)
            self._by_topic.setdefault(topic, self._empty()).add(changed_LE, load, num_tokens, decay)
        self._all.add(predicted_LE, load, num_tokens, decay)

    def correct(self, predicted_LE: Floats, topic: str | None = None) -> Floats:
        """[L, E]: what the plain predictor says, corrected."""
        changed_LE = predicted_LE * self._all.factor(self._start)
        if topic in self._by_topic:
            changed_LE = changed_LE * self._by_topic[topic].factor(self._start)
        total_L, own_L = predicted_LE.sum(-1, keepdims=True), changed_LE.sum(-1, keepdims=True)
        return np.asarray(changed_LE * (total_L / np.where(own_L > 0, own_L, 1.0)))

    @property
    def _start(self) -> float:
        return _EVEN_TOKENS * self.top_k / self.num_experts

    def _empty(self) -> _Sums:
        shape = (self.num_layers, self.num_experts)
        return _Sums(np.zeros(shape), np.zeros(shape))

"""What makes one request's load differ from what is expected of its topic, and the prediction from the load.

Shape letters: N requests, L layers, E experts, K top-k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError, check_choice
from evenmoe.simulation.checks import check_number

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

Prediction = Literal["exact", "expected"]
PREDICTIONS: tuple[Prediction, ...] = ("exact", "expected")

_LEAST = 1e-12
"""Under this an expert counts as unused; a used one keeps at least this, so that every layer can sum to K."""


@dataclass(frozen=True, kw_only=True)
class LoadNoise:
    """How requests differ from what is expected of their topic (or domain, or prompt), and predictions from requests.

    request: each expert's expected load is multiplied by exp(request * z), z standard normal, drawn once per request
        and expert: what a text has of its own within its topic.
    alike_tokens: a prompt of T tokens is a sample: its counts vary as those of T / alike_tokens tokens that each choose
        K distinct experts independently. Above 1, tokens of one text choose alike; 0 is no sampling noise.
    The defaults of these two are about what the bundled model's held-out text shows (docs/workloads.md).
    prediction: what the scheduler is told: "exact", the load itself, or "expected", what is expected of the topic.
    prediction_error: each expert of that prediction is multiplied by exp(prediction_error * z); 0: left as it is.
        `noise_of_cosine` gives the value for a predictor of known accuracy.
    Raises ConfigError.
    """

    request: float = 0.25
    alike_tokens: float = 3.0
    prediction: Prediction = "exact"
    prediction_error: float = 0.0

    def __post_init__(self) -> None:
        for name in ("request", "alike_tokens", "prediction_error"):
            check_number(name, getattr(self, name), 0.0)
        check_choice("prediction", self.prediction, PREDICTIONS)

    def draw(
        self, expected_NLE: Floats, prompt_tokens_N: Ints, top_k: float, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """([N, L, E], [N, L, E]): loads and predictions, as expected pairs per token: each layer sums to `top_k`.

        Each setting draws from a generator of its own, so changing the prediction leaves the loads as they are.
        """
        request_rng, sample_rng, error_rng = rng.spawn(3)
        load_NLE = expected_NLE
        if self.request > 0:
            load_NLE = pairs_per_token(_scattered(load_NLE, self.request, request_rng), top_k)
        if self.alike_tokens > 0:
            load_NLE = _sampled(load_NLE, self.alike_tokens / prompt_tokens_N, top_k, sample_rng)
        predicted_NLE = load_NLE if self.prediction == "exact" else expected_NLE
        if self.prediction_error > 0:
            predicted_NLE = pairs_per_token(
                _scattered(predicted_NLE, self.prediction_error, error_rng), top_k
            )
        return load_NLE, predicted_NLE


def noise_of_cosine(cosine: float) -> float:
    """The log-normal noise after which a load vector of many experts has this cosine with itself before.

    E[v . v e] / sqrt(E[v . v] E[v e . v e]) with e = exp(s z) is exp(-s^2 / 2), whatever v is; noise that also has to
    keep each expert at or below one pair per token lies a little above that. Raises ConfigError.
    """
    check_number("cosine", cosine, 0.0, above=True)
    if cosine > 1:
        raise ConfigError("cosine", cosine, "at most 1")
    return math.sqrt(-2 * math.log(cosine))


def pairs_per_token(weight_LE: Floats, top_k: float) -> Floats:
    """[..., E]: in proportion to the weights, no expert above 1 (a token has it once); each row sums to `top_k`.

    At least `top_k` weights of each row must be above 0.
    """
    pairs = weight_LE * (top_k / weight_LE.sum(-1, keepdims=True))
    is_over = pairs.max(-1) > 1
    if is_over.any():
        pairs[is_over] = _capped(pairs[is_over], top_k)
    return np.asarray(pairs)


def _capped(pairs_NE: Floats, top_k: float) -> Floats:
    """Experts at or over 1 get 1 and the others share what is left, until none is over."""
    while (pairs_NE > 1).any():
        is_full = pairs_NE >= 1
        left_N = top_k - is_full.sum(-1)
        free_N = np.where(is_full, 0.0, pairs_NE).sum(-1)
        scale_N = np.divide(left_N, free_N, out=np.ones_like(free_N), where=free_N > 0)
        pairs_NE = np.where(is_full, 1.0, pairs_NE * scale_N[:, None])
    return pairs_NE


def _scattered(load_NLE: Floats, sigma: float, rng: np.random.Generator) -> Floats:
    factor = rng.standard_normal(load_NLE.shape)
    factor *= sigma
    np.exp(factor, out=factor)
    factor *= load_NLE
    return factor


def _sampled(expected_NLE: Floats, share_N: Floats, top_k: float, rng: np.random.Generator) -> Floats:
    """Mean pairs per token of a sample of 1 / share_N tokens, each of which has expert e with probability p_e.

    Counts of independent tokens have variance p (1 - p) a token and a fixed sum. That is a normal number for each
    expert, less a share of their sum in proportion to its variance v; v (1 - v / sum of v) = p (1 - p) is solved to
    second order (one expert has at most half of the sum, as the others must make up for it).
    Below 0 and above 1 is cut off, which matters where T p is small.
    """
    spread = expected_NLE * (1 - expected_NLE)
    total = np.maximum(spread.sum(-1, keepdims=True), _LEAST)
    variance = spread / np.maximum(1 - spread / total, 0.5)
    total = np.maximum(variance.sum(-1, keepdims=True), _LEAST)
    deviation = rng.standard_normal(expected_NLE.shape)
    deviation *= np.sqrt(variance)
    deviation -= variance * (deviation.sum(-1, keepdims=True) / total)
    deviation *= np.sqrt(share_N)[:, None, None]
    deviation += expected_NLE
    return pairs_per_token(np.clip(deviation, np.where(expected_NLE > 0, _LEAST, 0.0), 1.0), top_k)

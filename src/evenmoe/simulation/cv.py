"""CvExecution: CAPS's execution model. Shape letters: B requests, L layers, E experts, X = L*E."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.loads.metrics import coefficient_of_variation, peak_to_mean
from evenmoe.simulation.execution import Ints, StepCost
from evenmoe.simulation.request import Floats, Request


@dataclass(frozen=True, kw_only=True)
class CvExecution:
    """time = (prefill + decode) * (1 + CV(load) * sensitivity), CAPS's formula, on one device per expert.

    sensitivity: what unevenness costs; 0 makes every load cost the same.
    prefill = prefill_s + prefill_token_s * prompt tokens of the batch.
    decode = decode_s * (longest output - 1) + decode_token_s * output tokens of the batch, but the first of each.
    num_layers: L, of which a load vector is made.

    CV is the coefficient of variation of the batch's summed true load over the experts, the mean over layers. A request
    has its first token after prefill and its last after its share of the decode time, in proportion to its tokens.
    In continuous batching an iteration costs prefill_s once if any request computes several tokens (those are prefill
    tokens), and decode_s once if any computes a single one.
    Raises ConfigError for numbers that are negative or not finite, and for a batch that would cost no time at all.
    """

    sensitivity: float = 1.0
    prefill_s: float = 0.0
    prefill_token_s: float = 0.0
    decode_s: float = 0.0
    decode_token_s: float = 0.0
    num_layers: int = 1

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "num_layers" and not (math.isfinite(value) and value >= 0):
                raise ConfigError(one.name, value, "a finite number of at least 0")
        if self.num_layers < 1:
            raise ConfigError("num_layers", self.num_layers, "at least 1")
        if self.prefill_s + self.prefill_token_s == 0:
            raise ConfigError("prefill_s", 0.0, "above 0, or prefill_token_s: a batch takes time")

    @property
    def num_view_layers(self) -> int:
        """L: the scheduler sees experts, layer by layer."""
        return self.num_layers

    def view(self, request: Request) -> Floats:
        """[X]: the predicted pairs of all tokens, by expert."""
        return request.predicted_X * request.tokens

    def batch(self, requests: Sequence[Request]) -> tuple[StepCost, Floats, Floats]:
        """A static batch: its cost, and by request [B] the seconds to the first token, and to the last."""
        prompts = [request.prompt_tokens for request in requests]
        more = [request.output_tokens - 1 for request in requests]
        longest = max(more)
        prefill_s = self.prefill_s + self.prefill_token_s * sum(prompts)
        decode_s = self.decode_s * longest + self.decode_token_s * sum(more)
        tokens_B: Ints = np.add(prompts, more)
        cost = self._cost(prefill_s + decode_s, requests, tokens_B)
        first_s = prefill_s * cost.imbalance
        last_B = first_s + (tokens_B - prompts) * (decode_s * cost.imbalance / max(longest, 1))
        return cost, np.full(len(requests), first_s), np.asarray(last_B)

    def step(self, requests: Sequence[Request], tokens_B: Ints) -> StepCost:
        """One iteration of continuous batching."""
        is_prefill_B = tokens_B > 1
        num_prefill = int(is_prefill_B.sum())
        num_decode = len(requests) - num_prefill
        even_s = self.prefill_token_s * int(tokens_B[is_prefill_B].sum()) + self.decode_token_s * num_decode
        even_s += self.prefill_s * (num_prefill > 0) + self.decode_s * (num_decode > 0)
        return self._cost(even_s, requests, tokens_B)

    def _cost(self, even_s: float, requests: Sequence[Request], tokens_B: Ints) -> StepCost:
        load_BX = np.array([request.load_X for request in requests])
        load_LE = (tokens_B @ load_BX).reshape(self.num_layers, -1)
        imbalance = 1.0 + self.sensitivity * _mean(coefficient_of_variation(load_LE))
        return StepCost(
            seconds=even_s * imbalance,
            busy_share=1.0 / imbalance,
            imbalance=imbalance,
            straggler_factor=_mean(peak_to_mean(load_LE)),
            pairs=float(load_LE.sum()),
            dropped_pairs=0.0,
        )


def _mean(values_L: float | Floats) -> float:
    return float(np.add.reduce(values_L)) / len(values_L) if isinstance(values_L, np.ndarray) else values_L

"""MeasuredExecution: the machine that the simulator is given for a live run: its batch times, fitted in a warm-up.

Shape letters: B requests, L layers, E experts, X = L*E, D devices, V = L*D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.live.timing import BatchTime
from evenmoe.loads.metrics import peak_to_mean
from evenmoe.placement import Placement
from evenmoe.simulation.execution import Ints, StepCost
from evenmoe.simulation.request import Floats, Request


@dataclass(frozen=True, kw_only=True)
class MeasuredExecution:
    """Static batches of prompts, to the first new token of each.

    batch_time: the time of a batch. In one process it does not depend on how even the load is: that process runs all
    experts, whoever they belong to. placement: where the experts are, on real or virtual devices.
    """

    batch_time: BatchTime
    placement: Placement

    @property
    def num_view_layers(self) -> int:
        """L: the scheduler sees devices, layer by layer."""
        return self.placement.num_layers

    def view(self, request: Request) -> Floats:
        """[V]: the predicted pairs of the prompt, by layer and device."""
        return self.device_load(request.predicted_X * request.tokens).reshape(-1)

    def batch(self, requests: Sequence[Request]) -> tuple[StepCost, Floats, Floats]:
        """A batch: its cost, and by request [B] the seconds to the first token, and to the last, which it is."""
        tokens = padded_tokens([request.prompt_tokens for request in requests])
        load_X = np.sum([request.load_X * request.tokens for request in requests], axis=0)
        cost = self.cost(self.batch_time.seconds(tokens, self.peak_pairs(load_X)), load_X)
        seconds_B = np.full(len(requests), cost.seconds)
        return cost, seconds_B, seconds_B

    def step(self, requests: Sequence[Request], tokens_B: Ints) -> StepCost:
        """Refused: what was measured are whole batches."""
        raise ConfigError("batching", "continuous", "Static: a live run serves whole batches")

    def cost(self, seconds: float, load_X: Floats) -> StepCost:
        """What a batch that took `seconds` and asked for `load_X` pairs cost, and how even it was."""
        load_LD = self.device_load(load_X)
        pairs_L = load_LD.sum(-1)
        factor_L = np.asarray(peak_to_mean(load_LD))
        excess = float((load_LD.max(-1) - load_LD.mean(-1)).sum())
        waiting_share = min(self.batch_time.per_peak_pair_s * excess / seconds, 0.99) if seconds > 0 else 0.0
        return StepCost(
            seconds=seconds,
            busy_share=1.0 - waiting_share,
            imbalance=1.0 / (1.0 - waiting_share),
            straggler_factor=float(np.average(factor_L, weights=pairs_L)) if pairs_L.any() else 1.0,
            pairs=float(pairs_L.sum()),
            dropped_pairs=0.0,
        )

    def peak_pairs(self, load_X: Floats) -> float:
        """Pairs of the busiest device, summed over layers."""
        return peak_pairs(load_X.reshape(self.placement.num_layers, -1), self.placement)

    def device_load(self, load_X: Floats) -> Floats:
        """[L, D] pairs of each device."""
        return device_load(load_X.reshape(self.placement.num_layers, -1), self.placement)


def device_load(load_LE: NDArray[np.generic], placement: Placement) -> Floats:
    """[L, D] pairs of each device; where layers differ in their experts, the rest of [L, E] is padding."""
    return np.stack(
        [
            placement.device_load(load_E[: placement.num_experts(layer)], layer)
            for layer, load_E in enumerate(load_LE)
        ]
    )


def peak_pairs(load_LE: NDArray[np.generic], placement: Placement) -> float:
    """Pairs of the busiest device, summed over layers."""
    return float(device_load(load_LE, placement).max(-1).sum())


def padded_tokens(tokens_B: Sequence[int]) -> int:
    """Tokens of a batch with the padding to its longest prompt, which is what the model computes."""
    return len(tokens_B) * max(tokens_B)

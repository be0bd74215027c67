"""RoutedLayer: what a policy makes of drawn routing, as counts that the modes are checked against or predict from.

Shape letters: T tokens, E experts, D devices, P pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenmoe.bench.draws import DrawnRouting
from evenmoe.errors import ConfigError
from evenmoe.loads.metrics import peak_to_mean, straggler_factor
from evenmoe.placement import Placement
from evenmoe.routing import Policy, RoutingContext, device_of_pair
from evenmoe.routing.context import contiguous_split

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedLayer:
    """Pairs by where their token is (source device) and by where they run (target device).

    before_DE: pairs asked for, by source and expert. run_DDE: pairs that run, by source, target and expert.
    tokens_D: tokens of each source. kept: top-k pairs that run.
    """

    before_DE: Ints
    run_DDE: Ints
    tokens_D: Ints
    kept: int

    @property
    def asked(self) -> int:
        """Top-k pairs: T * K."""
        return int(self.before_DE.sum())

    @property
    def run_DE(self) -> Ints:
        """Pairs that run, by source device and expert."""
        return np.asarray(self.run_DDE.sum(1))

    @property
    def traffic_DD(self) -> Ints:
        """Pairs that run, by source and target device."""
        return np.asarray(self.run_DDE.sum(2))

    @property
    def load_D(self) -> Ints:
        """Pairs that each device runs."""
        return np.asarray(self.run_DDE.sum((0, 2)))

    @property
    def experts_hit_D(self) -> Ints:
        """Experts of each device that have any pair to run."""
        return np.asarray((self.run_DDE.sum(0) > 0).sum(1))

    @property
    def pairs_kept(self) -> float:
        """Share of the top-k pairs that run."""
        return self.kept / self.asked

    @property
    def pairs_run(self) -> float:
        """Pairs that run, substitutes included, over T * K."""
        return float(self.run_DDE.sum()) / self.asked

    @property
    def peak_to_mean(self) -> float:
        """Busiest expert over the mean expert, as it runs."""
        return float(peak_to_mean(self.run_DDE.sum((0, 1))))

    @property
    def straggler_factor(self) -> float:
        """Busiest device's pairs over the even load T * K / D."""
        return straggler_factor(self.load_D, even=np.float64(self.asked / self.load_D.shape[0]))


def contiguous_placement(num_experts: int, num_devices: int) -> Placement:
    """Return experts in contiguous shares, as even as possible. Raises ConfigError for more devices than experts."""
    if num_devices > num_experts:
        raise ConfigError("devices", num_devices, f"at most the {num_experts} experts, or give a placement")
    rows = contiguous_split(num_experts, num_devices).numpy()
    return Placement.of(rows, num_devices, method="contiguous")


def tokens_of_devices(num_tokens: int, num_devices: int) -> Ints:
    """Return [D]: tokens of each source device, as even as possible."""
    return np.bincount(contiguous_split(num_tokens, num_devices).numpy(), minlength=num_devices)


def route(policy: Policy, routing: DrawnRouting, placement: Placement, seed: int) -> RoutedLayer:
    """Apply `policy` to the whole layer: tokens in contiguous shares on the placement's devices, experts as placed."""
    num_tokens, num_experts = routing.logits_TE.shape
    num_devices = placement.num_devices
    source_T = contiguous_split(num_tokens, num_devices)
    holds_DE = torch.from_numpy(placement.holds(0))
    replicated = placement.num_copies(0) > num_experts
    context = RoutingContext(
        num_devices=num_devices,
        device_of_token_T=source_T,
        device_of_expert_E=None if replicated else torch.from_numpy(placement.device_of_expert(0)),
        holds_DE=holds_DE if replicated else None,
        request_of_token_T=source_T,  # each device's tokens are one request, as they are one row when timed
        seed=seed,
    )
    chosen_TE = torch.from_numpy(routing.chosen_TE)
    kept_TE = policy.keep(torch.from_numpy(routing.logits_TE).softmax(-1), chosen_TE, context)
    token_P, expert_P = kept_TE.nonzero(as_tuple=True)
    target_P = device_of_pair(context, token_P, expert_P, num_tokens, num_experts)
    source_P = source_T[token_P]
    asked_token_P, asked_expert_P = chosen_TE.nonzero(as_tuple=True)
    asked_flat_P = source_T[asked_token_P] * num_experts + asked_expert_P
    run_flat_P = (source_P * num_devices + target_P) * num_experts + expert_P
    return RoutedLayer(
        before_DE=_counts(asked_flat_P, (num_devices, num_experts)),
        run_DDE=_counts(run_flat_P, (num_devices, num_devices, num_experts)),
        tokens_D=tokens_of_devices(num_tokens, num_devices),
        kept=int((kept_TE & chosen_TE).sum()),
    )


def _counts(flat_P: Tensor, shape: tuple[int, ...]) -> Ints:
    counts = torch.bincount(flat_P, minlength=math.prod(shape))
    return np.asarray(counts.view(shape).numpy(), dtype=np.int64)

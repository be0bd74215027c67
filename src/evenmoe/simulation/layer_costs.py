"""What the MoE layers of a step cost: by a machine's calibrated costs, or by a formula of four numbers.

Shape letters: S steps, L layers, D devices (also as sources of tokens), E experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evenmoe.costs import Dtype, LayerShape, Machine, predict_layer
from evenmoe.costs.predict import pairs_exchanged
from evenmoe.errors import ConfigError
from evenmoe.simulation.request import Floats

MS_PER_S = 1000.0


class LayerCosts(Protocol):
    """The time of one layer, for many steps and layers at once."""

    def layer_s(
        self, load_SLDE: Floats, tokens_SD: Floats, holds_DE: NDArray[np.bool_], policy: str
    ) -> tuple[Floats, Floats]:
        """Return the seconds of each layer [S, L], and those that each device computes in it [S, L, D].

        load_SLDE: pairs that run by source device and expert; tokens_SD: of each source; holds_DE: who holds what;
        policy: the routing policy that decided, "baseline" for none.
        """


@dataclass(frozen=True, kw_only=True)
class MachineCosts:
    """Costs that were calibrated on a machine, or worked out from its datasheet: `evenmoe.costs.predict_layer`."""

    machine: Machine
    shape: LayerShape
    dtype: Dtype = "bfloat16"

    def layer_s(
        self, load_SLDE: Floats, tokens_SD: Floats, holds_DE: NDArray[np.bool_], policy: str
    ) -> tuple[Floats, Floats]:
        """See LayerCosts."""
        predicted = predict_layer(
            self.machine,
            self.shape,
            load_DE=load_SLDE,
            tokens_D=np.broadcast_to(tokens_SD[:, None], load_SLDE.shape[:-1]),
            placement_holds_DE=holds_DE,
            policy=policy,
            dtype=self.dtype,
        )
        phases = predicted.phases
        idle_SLD = phases["wait"] + phases["dispatch"] + phases["combine"]
        return predicted.layer_ms / MS_PER_S, (predicted.layer_ms[..., None] - idle_SLD) / MS_PER_S


@dataclass(frozen=True, kw_only=True)
class FormulaCosts:
    """Where no machine was calibrated: layer_s_fixed + the slowest device's experts + the exchange.

    A device's experts take expert_s for each expert that is active there, plus pair_s for each pair; an expected load
    under one pair is active for that share. The exchange takes exchange_pair_s for each pair of the device that sends
    or receives most, both ways together; one device alone exchanges nothing. A policy's decision is free.
    The defaults are round figures of the order that an OLMoE layer has in bfloat16 on an H100: 12.6 MB of weights per
    expert, 12.6 MFLOP per pair, 4 KB per row and direction, five launches of 20 us. They are no measurement.
    Raises ConfigError for numbers that are negative or not finite, or all zero.
    """

    layer_s_fixed: float = 1e-4
    expert_s: float = 5e-6
    pair_s: float = 2e-8
    exchange_pair_s: float = 2e-8

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(one.name, value, "a finite number of seconds of at least 0")
        if self.layer_s_fixed + self.expert_s + self.pair_s == 0:
            raise ConfigError("pair_s", self.pair_s, "above 0, or another cost: a layer takes time")

    def layer_s(
        self, load_SLDE: Floats, tokens_SD: Floats, holds_DE: NDArray[np.bool_], policy: str
    ) -> tuple[Floats, Floats]:
        """See LayerCosts."""
        load_SLE = load_SLDE.sum(2) / holds_DE.sum(0)
        time_SLE = self.expert_s * np.minimum(load_SLE, 1.0) + self.pair_s * load_SLE
        busy_SLD = self.layer_s_fixed + time_SLE @ holds_DE.T
        seconds_SL = busy_SLD.max(-1)
        if len(holds_DE) > 1:
            seconds_SL = seconds_SL + self.exchange_pair_s * pairs_exchanged(load_SLDE, holds_DE).max(-1)
        return seconds_SL, busy_SLD

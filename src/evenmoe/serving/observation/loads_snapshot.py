"""LoadsSnapshot: everything that was routed up to a moment, as sums over many requests.

Shape letters: L MoE layers, E experts (the most of any layer), D devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ShapeError
from evenmoe.loads import ExpertLoads, device_load
from evenmoe.placement import Placement

Floats = NDArray[np.float64]


class DeviceShares:
    """What each device gets of every expert's load, for a placement that many loads are asked about."""

    def __init__(self, placement: Placement) -> None:
        layers = range(placement.num_layers)
        most = max(placement.num_experts(layer) for layer in layers)
        self._share_LED = np.zeros((placement.num_layers, most, placement.num_devices))
        for layer in layers:
            alone_EE = np.eye(placement.num_experts(layer))
            self._share_LED[layer, : len(alone_EE)] = device_load(
                alone_EE, placement.holds(layer), placement.num_devices
            )

    def load(self, load_LE: NDArray[np.int64]) -> Floats:
        """Return [L, D], `evenmoe.loads.device_load` of each layer. Raises ShapeError for other layers or experts."""
        if load_LE.shape != self._share_LED.shape[:2]:
            raise ShapeError(f"loads are {load_LE.shape}; the placement is of {self._share_LED.shape[:2]}")
        return np.asarray((load_LE[:, None, :] @ self._share_LED)[:, 0, :])


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadsSnapshot:
    """Counts since the start. Two of one server differ by at least `MetricsConfig.least_requests` requests, or by none.

    loads: counts, with the peaks of steps. before_LD, after_LD: pairs of each device's experts, before and after the
    policy (a copy of an expert takes an even share).
    num_steps: forwards. num_tokens: tokens of all steps, prompts' and new ones; what an engine's scheduler handed out
    up to some step has exactly as many, so that predictions and loads can be compared over the same tokens.
    num_requests: how many requests they are of, or fewer where the engine does not tell them apart for certain.
    """

    loads: ExpertLoads
    before_LD: Floats
    after_LD: Floats
    num_steps: int
    num_tokens: int
    num_requests: int

    def __post_init__(self) -> None:
        num_layers = len(self.loads.layers)
        for name in ("before_LD", "after_LD"):
            table = getattr(self, name)
            if table.ndim != 2 or table.shape[0] != num_layers:
                raise ShapeError(f"{name} has shape {table.shape}, not [{num_layers} layers, devices]")

    @classmethod
    def of(
        cls,
        loads: ExpertLoads,
        placement: Placement | DeviceShares,
        *,
        num_steps: int,
        num_tokens: int,
        num_requests: int,
    ) -> LoadsSnapshot:
        """What a recorder has counted under a placement. Counts by tag are left out: a tag may be one request.

        Raises ShapeError for a placement of other layers or experts.
        """
        shares = placement if isinstance(placement, DeviceShares) else DeviceShares(placement)
        return cls(
            loads=replace(loads, by_tag={}),
            before_LD=shares.load(loads.total.before_LE),
            after_LD=shares.load(loads.total.after_LE),
            num_steps=num_steps,
            num_tokens=num_tokens,
            num_requests=num_requests,
        )

    @property
    def num_devices(self) -> int:
        """D."""
        return int(self.before_LD.shape[1])

"""Copies: the items to be packed onto devices. Shape letters: M copies, E experts, S scenarios, D devices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Copies:
    """Every copy of every expert with its share of the load, and gaps that make the copies divide by the devices.

    Two copies of one expert never share a device. A gap is a copy without load of an expert "E" that does not
    exist; as gaps do not share a device either, devices differ by at most one real copy.
    """

    num_experts: int
    num_devices: int
    expert_M: Ints
    """E where the copy is a gap."""
    load_MS: Floats
    """The copy's load in each scenario over the even load of a device."""

    @staticmethod
    def of(load_SE: Floats, count_E: Ints, num_devices: int) -> Copies:
        """`count_E` copies of each expert, by expert; gaps come last."""
        num_experts = load_SE.shape[1]
        expert_M = np.repeat(np.arange(num_experts), count_E)
        even = max(float(load_SE.sum(-1).mean()) / num_devices, np.finfo(np.float64).tiny)
        load_MS = (load_SE / count_E).T[expert_M] / even
        num_gaps = -len(expert_M) % num_devices
        return Copies(
            num_experts=num_experts,
            num_devices=num_devices,
            expert_M=np.concatenate([expert_M, np.full(num_gaps, num_experts)]),
            load_MS=np.concatenate([load_MS, np.zeros((num_gaps, load_SE.shape[0]))]),
        )

    @property
    def num_per_device(self) -> int:
        """Copies on each device, gaps included."""
        return len(self.expert_M) // self.num_devices

    @property
    def is_gap_M(self) -> NDArray[np.bool_]:
        """Whether each copy is a gap."""
        return np.asarray(self.expert_M == self.num_experts)

    def device_load(self, device_M: Ints) -> Floats:
        """[D, S]: load of each device over the even load."""
        load_DS = np.zeros((self.num_devices, self.load_MS.shape[1]))
        np.add.at(load_DS, device_M, self.load_MS)
        return load_DS

    def holders(self, device_M: Ints) -> list[list[int]]:
        """[E]: the devices of each expert, for `Placement.of`."""
        holders_E: list[list[int]] = [[] for _ in range(self.num_experts)]
        for expert, device in zip(self.expert_M.tolist(), device_M.tolist(), strict=True):
            if expert < self.num_experts:
                holders_E[expert].append(device)
        return holders_E

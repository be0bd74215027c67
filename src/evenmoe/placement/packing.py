"""Packing: copies put on devices one by one, each where it costs least. Shape letters as in copies.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evenmoe.placement.copies import Copies, Floats, Ints

Cost = Callable[[Floats, Floats], Floats]
"""(load_DS, load_S of the copy) -> [D], the cost of putting it on each device; the least wins, then the first."""


def least_loaded(load_DS: Floats, load_S: Floats) -> Floats:
    """[D]: the device's load so far. Heaviest copy first, this is the classic longest-processing-time rule."""
    return np.asarray(load_DS.mean(-1))


def pack(copies: Copies, cost: Cost) -> Ints:
    """[M]: the device of each copy, placed heaviest first (ties by number) where `cost` is least.

    Devices fill up evenly in number and never hold two copies of an expert.
    """
    packing = _Packing(copies)
    gaps = np.flatnonzero(copies.is_gap_M).tolist()
    for gap, device in zip(gaps, range(copies.num_devices - len(gaps), copies.num_devices), strict=True):
        packing.put(gap, device)
    weight_M = copies.load_MS.mean(-1)
    for item in np.argsort(-weight_M, kind="stable").tolist():
        if not copies.is_gap_M[item]:
            cost_D = cost(packing.load_DS, copies.load_MS[item])
            packing.put(item, packing.cheapest(item, cost_D))
    return packing.device_M


class _Packing:
    """What is where so far."""

    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        self.device_M = np.full(len(copies.expert_M), -1, dtype=np.int64)
        self.load_DS = np.zeros((copies.num_devices, copies.load_MS.shape[1]))
        self.holds_DE = np.zeros((copies.num_devices, copies.num_experts + 1), dtype=bool)

    @property
    def has_room_D(self) -> NDArray[np.bool_]:
        return np.asarray(self.holds_DE.sum(-1) < self.copies.num_per_device)

    def put(self, item: int, device: int) -> None:
        self.device_M[item] = device
        self.load_DS[device] += self.copies.load_MS[item]
        self.holds_DE[device, self.copies.expert_M[item]] = True

    def take(self, item: int) -> None:
        device = self.device_M[item]
        self.device_M[item] = -1
        self.load_DS[device] -= self.copies.load_MS[item]
        self.holds_DE[device, self.copies.expert_M[item]] = False

    def cheapest(self, item: int, cost_D: Floats) -> int:
        """The cheapest device that has room and no copy of the expert; where there is none, room is made."""
        lacks_D = ~self.holds_DE[:, self.copies.expert_M[item]]
        allowed_D = self.has_room_D & lacks_D
        if allowed_D.any():
            return int(np.argmin(np.where(allowed_D, cost_D, np.inf)))
        device = int(np.argmin(np.where(lacks_D, cost_D, np.inf)))
        self._make_room(device, int(np.argmax(self.has_room_D)))
        return device

    def _make_room(self, full: int, free: int) -> None:
        """Move the lightest copy that may go from `full` to `free`.

        There is one: `free` holds the expert that `full` lacks and no more copies, so `full` has one it lacks.
        """
        on_full = np.flatnonzero(self.device_M == full)
        movable = on_full[~self.holds_DE[free, self.copies.expert_M[on_full]]]
        item = movable[np.argmin(self.copies.load_MS[movable].mean(-1))]
        self.take(item)
        self.put(item, free)

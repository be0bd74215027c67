"""Local search: exchange copies between devices while the soft peak falls. Shape letters as in copies.py."""

from __future__ import annotations

import numpy as np

from evenmoe.placement.copies import Copies, Floats, Ints

_SQUARINGS = 4
"""The soft peak is the norm of power 2 ** _SQUARINGS = 16 over devices."""
_MAX_SWEEPS = 40
_LEAST_GAIN = 1e-9
_LEAST_SWEEP_GAIN = 1e-4


def soft_peak(load_DS: Floats) -> float:
    """Mean over scenarios of (mean over devices of load^16)^(1/16): 1 if even, towards the peak if not.

    `load_DS` [D, S] is load over the even load. The peak itself is blind to every device but the busiest, so a
    search on it stops early and leaves the others uneven.
    """
    return float(_root(_power(load_DS).mean(0)).mean())


def soft_peak_if_added(load_DS: Floats, load_S: Floats) -> Floats:
    """[D]: the soft peak if a copy of `load_S` came to each device.

    Where the busiest device hides the others (their powers vanish beside its own), the least overlap decides.
    """
    power_DS = _power(load_DS)
    others_DS = np.maximum(power_DS.sum(0) - power_DS, 0.0)
    overlap_D = (load_DS * load_S).mean(-1)
    cost_D = _cost(others_DS + _power(load_DS + load_S), load_DS.shape[0])
    return np.asarray(cost_D + _LEAST_GAIN * overlap_D)


def improve(copies: Copies, device_M: Ints) -> Ints:
    """[M]: the placement after exchanging pairs of copies for as long as that lowers the soft peak.

    Each copy in turn is exchanged with the partner that gains most, ties to the first; the number of copies per
    device stays, and no device gets two copies of an expert. Stops when a whole sweep gains under 0.01%.
    """
    search = _Search(copies, device_M)
    for _ in range(_MAX_SWEEPS):
        before = search.cost
        for item in np.flatnonzero(~copies.is_gap_M).tolist():
            search.exchange(item)
        if before - search.cost < _LEAST_SWEEP_GAIN * before:
            break
    return search.device_M


class _Search:
    """A placement of all copies, with the loads and powers that a step needs."""

    def __init__(self, copies: Copies, device_M: Ints) -> None:
        self.copies = copies
        self.device_M = device_M.copy()
        self.load_DS = copies.device_load(device_M)
        self.power_DS = _power(self.load_DS)
        self.cost = soft_peak(self.load_DS)
        self.holds_DE = np.zeros((copies.num_devices, copies.num_experts + 1), dtype=bool)
        self.holds_DE[device_M, copies.expert_M] = True

    def exchange(self, item: int) -> None:
        """Exchange `item` with its best partner, if that gains anything."""
        partner_N = self._partners(item)
        if not partner_N.size:
            return
        here, there_N = self.device_M[item], self.device_M[partner_N]
        rest_DS = np.maximum(self.power_DS.sum(0) - self.power_DS[here] - self.power_DS, 0.0)
        change_NS = self.copies.load_MS[partner_N] - self.copies.load_MS[item]
        power_NS = _power(self.load_DS[here] + change_NS)
        power_NS += _power(self.load_DS[there_N] - change_NS)
        power_NS += rest_DS[there_N]
        cost_N = _cost(power_NS, self.copies.num_devices)
        best = int(np.argmin(cost_N))
        if cost_N[best] < self.cost - _LEAST_GAIN:
            self._swap(item, int(partner_N[best]))

    def _partners(self, item: int) -> Ints:
        """Copies on other devices such that afterwards no device holds an expert twice."""
        expert_M = self.copies.expert_M
        here = self.device_M[item]
        elsewhere_M = ~self.holds_DE[self.device_M, expert_M[item]] & ~self.holds_DE[here, expert_M]
        return np.flatnonzero(elsewhere_M)

    def _swap(self, first: int, second: int) -> None:
        items = [first, second]
        pair = self.device_M[items]
        self.holds_DE[pair, self.copies.expert_M[items]] = False
        self.device_M[items] = pair[::-1]
        self.holds_DE[pair[::-1], self.copies.expert_M[items]] = True
        for device in pair:  # anew rather than by difference: errors would add up
            self.load_DS[device] = self.copies.load_MS[self.device_M == device].sum(0)
        self.power_DS[pair] = _power(self.load_DS[pair])
        self.cost = soft_peak(self.load_DS)


def _power(load: Floats) -> Floats:
    power = np.maximum(load, 0.0)  # a difference of equal loads may be a rounding error under 0
    for _ in range(_SQUARINGS):
        power = power * power
    return power


def _root(power: Floats) -> Floats:
    for _ in range(_SQUARINGS):
        power = np.sqrt(power)
    return power


def _cost(power_NS: Floats, num_devices: int) -> Floats:
    return np.asarray(_root(power_NS / num_devices).mean(-1))

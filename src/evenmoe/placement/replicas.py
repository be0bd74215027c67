"""Redundant experts for the hottest, packed over devices: the idea of DeepSeek's EPLB, also by groups and nodes.

Shape letters: E experts, M copies, D devices.
"""

from __future__ import annotations

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.placement.copies import Copies, Floats, Ints
from evenmoe.placement.packing import least_loaded, pack


def count_copies(load_E: Floats, replicas: int, num_devices: int) -> Ints:
    """[E]: copies of each expert, `replicas` more than experts: one after the other to the most load per copy.

    Ties go to the first expert. An expert has at most one copy per device. Raises ConfigError where `replicas` is
    negative or more than fits.
    """
    num_experts = len(load_E)
    most = num_experts * (num_devices - 1)
    if not 0 <= replicas <= most:
        raise ConfigError(
            "replicas",
            replicas,
            f"from 0 to {most}: {num_experts} experts with a copy on each of {num_devices} devices at most",
        )
    count_E = np.ones(num_experts, dtype=np.int64)
    for _ in range(replicas):
        count_E[np.argmax(np.where(count_E < num_devices, load_E / count_E, -1.0))] += 1
    return count_E


def hierarchical(
    load_E: Floats, *, num_copies: int, num_groups: int, num_nodes: int, num_devices: int
) -> list[list[int]]:
    """EPLB's hierarchical form, [D][M / D]: the experts on each device, in the order they were put there.

    Consecutive experts form groups; whole groups are packed over nodes, hot experts are copied within their node,
    and the copies are packed over the node's devices. One group and one node is its global form.
    Source: the README of deepseek-ai/EPLB. Raises ConfigError where something does not divide.
    """
    load_E = np.asarray(load_E, dtype=np.float64)
    _check_divides("num_groups", num_groups, "the experts", len(load_E))
    _check_divides("num_nodes", num_nodes, "the groups", num_groups)
    _check_divides("num_nodes", num_nodes, "the devices", num_devices)
    _check_divides("num_devices", num_devices, "the copies", num_copies)
    experts_GI = np.arange(len(load_E)).reshape(num_groups, -1)
    devices: list[list[int]] = []
    for groups in _packed(load_E[experts_GI].sum(-1), np.arange(num_groups), num_nodes):
        expert_I = experts_GI[groups].reshape(-1)
        extra = num_copies // num_nodes - len(expert_I)
        count_I = count_copies(load_E[expert_I], extra, num_devices // num_nodes)
        # the first copies, then the second ones: equal loads are packed in this order
        index_M = np.concatenate([np.flatnonzero(count_I > rank) for rank in range(count_I.max())])
        on_device = _packed((load_E[expert_I] / count_I)[index_M], index_M, num_devices // num_nodes)
        devices += [[int(expert_I[index]) for index in indices] for indices in on_device]
    return devices


def _packed(load_M: Floats, id_M: Ints, num_bins: int) -> list[list[int]]:
    """The ids in each bin, heaviest first."""
    copies = Copies(
        num_experts=int(id_M.max()) + 1, num_devices=num_bins, expert_M=id_M, load_MS=load_M[:, None]
    )
    device_M = pack(copies, least_loaded)
    order = np.argsort(-load_M, kind="stable")
    return [id_M[order[device_M[order] == device]].tolist() for device in range(num_bins)]


def _check_divides(field: str, value: int, whole: str, number: int) -> None:
    if value < 1 or number % value:
        raise ConfigError(field, value, f"at least 1, and a divisor of the number of {whole}, {number}")

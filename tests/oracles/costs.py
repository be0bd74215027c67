"""A layer's time the slow, obvious way: device by device, source by source, expert by expert. Lists and loops only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from evenmoe.costs import LayerShape, Machine


def expert_ms(knots: Sequence[tuple[float, float]], tokens: float) -> float:
    """Linear through (0, 0) and the knots, and on beyond the last with the last slope."""
    points = [(0.0, 0.0), *knots]
    for (left, left_ms), (right, right_ms) in pairwise(points):
        if tokens <= right:
            return left_ms + (tokens - left) * (right_ms - left_ms) / (right - left)
    (left, left_ms), (right, right_ms) = points[-2:]
    return right_ms + (tokens - right) * (right_ms - left_ms) / (right - left)


def layer_ms(
    machine: Machine,
    shape: LayerShape,
    load: Sequence[Sequence[float]],
    tokens: Sequence[float],
    holds: Sequence[Sequence[bool]],
    policy: str,
) -> float:
    """The time of one layer on a measured machine in float32, without barriers."""
    devices, experts = range(len(holds)), range(shape.num_experts)
    row_bytes = shape.hidden * 4
    curve = machine.experts[0]
    before, running, sent, received, after = [], [], [], [], []
    for d in devices:
        own_pairs = sum(load[d])
        gate = machine.gates[0]
        cost = machine.policies[policy]
        time_ms = gate.fixed_ms + gate.per_token_ms * tokens[d]
        time_ms += cost.fixed_ms + cost.per_pair_ms * tokens[d] * shape.top_k
        if shape.shared_intermediate:
            time_ms += expert_ms(machine.experts[1].knots, tokens[d])
        time_ms += machine.pack.fixed_ms + own_pairs * row_bytes / machine.pack.bytes_per_s * 1000
        before.append(time_ms)
        after.append(machine.unpack.fixed_ms + own_pairs * row_bytes / machine.unpack.bytes_per_s * 1000)
        total, any_load, away, here = 0.0, 0.0, 0.0, 0.0
        for e in experts:
            copies = sum(holds[other][e] for other in devices)
            for target in devices:  # what d sends to another device
                if holds[target][e] and target != d:
                    away += load[d][e] / copies
            if holds[d][e]:
                arriving = sum(load[source][e] / copies for source in devices)
                total += expert_ms(curve.knots, arriving)
                any_load += arriving
                here += sum(load[source][e] / copies for source in devices if source != d)
        running.append(total + machine.expert_call_ms * min(any_load, 1.0))
        sent.append(away)
        received.append(here)
    exchange = 0.0
    extra = 0.0
    if len(holds) > 1:
        most = max(max(sent), max(received))
        exchange = machine.link.fixed_ms + most * row_bytes / machine.link.bytes_per_s * 1000
        extra = machine.dispatch_exchanges_ms
    return max(before) + exchange + extra + max(running) + exchange + max(after)

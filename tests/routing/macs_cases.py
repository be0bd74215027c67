"""Random batches of image and text tokens with features' entropies, and what must hold of MACS on them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evenmoe.routing import Macs
from evenmoe.routing.visual_weight import UNIT
from tests.oracles.macs import competition
from tests.routing.routing_cases import Case, make_case


def macs_case(seed: int, **fixed: object) -> Case:
    """A batch of `make_case` with an entropy for each token and a label for each expert."""
    case = make_case(seed, **fixed)
    generator = torch.Generator().manual_seed(seed + 1)
    entropy = 3 + torch.rand(case.shape[0], generator=generator)
    modality = torch.randint(-1, 2, (case.shape[1],), generator=generator)
    return replace(case, ctx=replace(case.ctx, entropy_T=entropy, modality_E=modality))


def keep(policy: Macs, case: Case) -> Tensor:
    return policy.keep(case.scores, case.chosen, case.ctx)


def check_weighted_loads(policy: Macs, case: Case, kept: Tensor) -> None:
    """No bin's weight exceeds its capacity; with edge="across", by less than the token that crosses it."""
    found = competition(policy, case.scores, case.chosen, case.ctx)
    pairs = {(token, expert) for token, expert in kept.nonzero().tolist()}
    room: dict[tuple, int] = {}
    load: dict[tuple, int] = {}
    for group, bin in found.limits:
        place = (group[0] if policy.isolation == "request" else group, bin)
        room[place] = room.get(place, 0) + found.limits[group, bin]
        load[place] = load.get(place, 0) + found.load_of(pairs, (group, bin))
    slack = 0 if policy.edge == "within" else UNIT - 1
    for place, most in room.items():
        assert load[place] <= most + slack * (1 + len(found.groups)), (
            f"{policy}: weight {load[place] / UNIT} above the capacity {most / UNIT} at {place}"
        )

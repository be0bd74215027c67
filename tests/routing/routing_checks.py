"""What must hold of any policy's answer, as functions that raise AssertionError."""

from __future__ import annotations

from torch import Tensor

from evenmoe.routing import ExpandedDrop, Fill, Policy
from tests.oracles.routing import Batch, Competition
from tests.routing.routing_cases import Case


def check_loads(policy: Policy, case: Case, kept: Tensor) -> None:
    """No bin takes more than its limit; where requests lend, the limits of a source device's requests add up."""
    competition = Competition(Batch(case.scores, case.chosen, case.ctx), policy)
    pairs = {(token, expert) for token, expert in kept.nonzero().tolist()}
    room: dict[tuple, int] = {}
    load: dict[tuple, int] = {}
    for (group, bin), limit in competition.limits.items():
        place = (group[0] if policy.isolation == "request" else group, bin)
        room[place] = room.get(place, 0) + limit
        load[place] = load.get(place, 0) + competition.load(pairs, group, bin)
    for place, limit in room.items():
        assert load[place] <= limit, f"{policy}: load {load[place]} above the limit {limit} at {place}"


def check_candidates(policy: Policy, case: Case, kept: Tensor) -> None:
    """Nothing runs but the model's choice and, where the policy allows them, experts on the token's own device."""
    batch = Batch(case.scores, case.chosen, case.ctx)
    outsiders = isinstance(policy, ExpandedDrop | Fill)
    for token, expert in kept.nonzero().tolist():
        assert token in batch.position, f"{policy}: padding token {token} runs"
        allowed = batch.top_k(token) + (batch.local(token) if outsiders else [])
        assert expert in allowed, (
            f"{policy}: token {token} runs expert {expert}, its candidates are {allowed}"
        )

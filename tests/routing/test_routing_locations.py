"""Which device runs a pair."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.routing import RoutingContext, device_of_pair
from tests.oracles.routing import Batch
from tests.routing.routing_cases import make_case


@given(st.integers(0, 10**6), st.booleans())
def test_device_of_pair_is_the_oracles(seed: int, copies: bool) -> None:
    case = make_case(seed, padding=True, maps=True, copies=copies)
    batch = Batch(case.scores, case.chosen, case.ctx)
    token_P, expert_P = (case.chosen & case.real[:, None]).nonzero(as_tuple=True)
    device_P = device_of_pair(case.ctx, token_P, expert_P, *case.shape)
    expected = [batch.runs_on(int(t), int(e)) for t, e in zip(token_P, expert_P, strict=True)]
    assert device_P.tolist() == expected


def test_copies_take_turns() -> None:
    """Device 2 holds no copy of expert 0: its tokens go to devices 0 and 1 in turn; device 0 keeps its own."""
    holds_DE = torch.tensor([[True, False], [True, True], [False, True]])
    ctx = RoutingContext(num_devices=3, device_of_token_T=torch.tensor([2, 0, 2, 2]), holds_DE=holds_DE)
    token_P = torch.arange(4)
    assert device_of_pair(ctx, token_P, torch.zeros(4, dtype=torch.long), 4, 2).tolist() == [0, 0, 1, 0]
    assert device_of_pair(ctx, token_P, torch.ones(4, dtype=torch.long), 4, 2).tolist() == [2, 1, 2, 2]

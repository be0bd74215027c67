"""break_even: answers known by hand, decode with few tokens per expert, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evenmoe.costs import LayerShape, Machine, read_machine
from evenmoe.costs.break_even import break_even, expert_drop_limit, token_drop_limit
from evenmoe.costs.shape import SHAPES
from evenmoe.errors import ConfigError, ShapeError
from tests.costs.cost_cases import FREE, body, curve

TWO = LayerShape(name="two", hidden=8, intermediate=4, num_experts=2, top_k=1)
EIGHT = dataclasses.replace(TWO, num_experts=8, top_k=2)


def machine(policy_ms: float, *knots: tuple[float, float], **changes) -> Machine:
    """Nothing costs anything but the experts and the policies."""
    gate = {**body()["gates"][0], "fixed_ms": 0, "per_token_ms": 0}
    free = {"fixed_ms": 0.0, "per_pair_ms": 0.0}
    return Machine(
        **body(
            experts=(curve(4, *knots),),
            gates=({**gate, "num_experts": 2, "top_k": 1}, {**gate, "num_experts": 8, "top_k": 2}),
            policies={
                "baseline": free,
                "token_drop": {**free, "fixed_ms": policy_ms},
                "expert_drop": {**free, "fixed_ms": policy_ms},
            },
            expert_call_ms=0,
            dispatch_exchanges_ms=0,
            pack=FREE,
            unpack=FREE,
            link=FREE,
            **changes,
        )
    )


def test_known_by_hand():
    """One expert per device, 3/4 and 1/4 of the pairs, 1 ms a pair: 0.75 T against 0.5 T + 10, equal at T = 40."""
    found = break_even(
        machine(10.0, (1, 1.0), (2, 2.0)),
        TWO,
        policy="token_drop",
        limit=token_drop_limit(TWO, 1.0),
        share_E=[3, 1],
        placement_holds_DE=TWO.contiguous_holds(2),
        tokens=(44, 16, 36, 64),
        draws=0,
    )
    assert [row.tokens for row in found.rows] == [16, 36, 44, 64]
    assert [row.speedup for row in found.rows] == pytest.approx([12 / 18, 27 / 28, 33 / 32, 48 / 42])
    assert found.tokens == 44


def test_an_even_load_never_pays():
    found = break_even(
        machine(0.1, (1, 1.0), (2, 2.0)),
        TWO,
        policy="token_drop",
        limit=token_drop_limit(TWO, 1.0),
        share_E=[1, 1],
        placement_holds_DE=TWO.contiguous_holds(2),
        draws=0,
    )
    assert found.tokens is None
    assert all(row.speedup < 1 for row in found.rows)


def test_decode_touching_fewer_experts_beats_evening_them():
    """An expert costs 1 ms however few its tokens: 8 touched take 8 ms; Token Drop saves none, Expert Drop one."""
    flat = machine(0.25, (1, 1.0), (1000, 1.0))
    common = {
        "share_E": [0.4, 0.15, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05],
        "placement_holds_DE": EIGHT.contiguous_holds(1),
        "tokens": (16,),
        "draws": 0,
    }
    token = break_even(flat, EIGHT, policy="token_drop", limit=token_drop_limit(EIGHT, 1.0), **common)
    expert = break_even(flat, EIGHT, policy="expert_drop", limit=expert_drop_limit(EIGHT), **common)
    assert token.rows[0].experts_touched == token.rows[0].experts_touched_before == 8
    assert token.rows[0].speedup == pytest.approx(8 / 8.25)
    assert token.tokens is None
    assert expert.rows[0].experts_touched == 7
    assert expert.rows[0].speedup == pytest.approx(8 / 7.25)
    assert expert.tokens == 16


def test_decode_on_a_datasheet_gpu():
    """128 decoded tokens of OLMoE on one H100: skipping a quarter of the experts pays, evening their loads costs."""
    shape = SHAPES["olmoe"]
    share = np.linspace(3, 1, 64)
    speedup = {
        policy: break_even(
            read_machine("h100-node"),
            shape,
            policy=policy,
            limit=limit,
            share_E=share,
            placement_holds_DE=shape.contiguous_holds(1),
            dtype="bfloat16",
            tokens=(128,),
        )
        .rows[0]
        .speedup
        for policy, limit in (
            ("token_drop", token_drop_limit(shape, 1.0)),
            ("expert_drop", expert_drop_limit(shape, 0.25)),
        )
    }
    assert speedup["token_drop"] < 1 < speedup["expert_drop"]


def test_same_seed_same_loads_and_more_draws_near_the_expected():
    common = {
        "policy": "token_drop",
        "limit": token_drop_limit(TWO, 1.0),
        "share_E": [3, 1],
        "placement_holds_DE": TWO.contiguous_holds(2),
        "tokens": (400,),
    }
    straight = machine(10.0, (1, 1.0), (2, 2.0))
    first, again = (break_even(straight, TWO, **common, draws=500, seed=3) for _ in range(2))
    assert first == again
    assert first.rows[0].baseline_ms == pytest.approx(300, rel=0.01)


def test_limits_leave_what_the_policies_leave():
    load = np.array([[[9.0, 1, 4, 0], [2, 5, 4, 1]]])
    shape = dataclasses.replace(TWO, num_experts=4, top_k=2)
    tokens = np.array([7, 6])
    assert token_drop_limit(shape, 1.0)(load, tokens).tolist() == [[[4, 1, 4, 0], [2, 3, 3, 1]]]
    assert expert_drop_limit(shape, 0.5)(load, tokens).tolist() == [[[9, 0, 4, 0], [2, 0, 4, 0]]]


@pytest.mark.parametrize(
    ("share", "error"),
    [([1, 1, 1], ShapeError), ([1, np.nan] + [1] * 6, ConfigError), ([1] + [0] * 7, ConfigError)],
)
def test_refuses_shares_that_no_routing_has(share, error):
    with pytest.raises(error, match="share_E"):
        break_even(
            machine(0, (1, 1.0), (2, 2.0)),
            EIGHT,
            policy="token_drop",
            limit=token_drop_limit(EIGHT, 1.0),
            share_E=share,
            placement_holds_DE=EIGHT.contiguous_holds(1),
        )


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.9])
def test_refuses_a_fraction_that_leaves_no_expert(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        expert_drop_limit(dataclasses.replace(TWO, num_experts=2), fraction)

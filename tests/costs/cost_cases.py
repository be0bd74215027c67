"""Machines and loads that several tests of costs share."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from evenmoe.costs import LayerShape, Machine

SHAPE = LayerShape(
    name="small", hidden=8, intermediate=4, num_experts=6, top_k=2, shared_intermediate=16, num_devices=2
)


def curve(intermediate: int, *knots: tuple[float, float], hidden: int = 8) -> dict[str, Any]:
    return {
        "hidden": hidden,
        "intermediate": intermediate,
        "dtype": "float32",
        "implementation": "eager",
        "knots": knots,
        "fixed_ms": 1.0,
        "per_token_ms": 0.1,
        "fit_error": 0.2,
    }


def body(**changes: Any) -> dict[str, Any]:
    """A measured machine of round numbers, for SHAPE."""
    return {
        "name": "made up",
        "source": "measured",
        "date": "2026-01-02",
        "ranks": 2,
        "expert_call_ms": 0.5,
        "experts": (curve(4, (1, 2.0), (4, 3.0), (20, 9.0)), curve(16, (1, 1.0), (10, 4.0))),
        "gates": (
            {
                "hidden": 8,
                "num_experts": 6,
                "top_k": 2,
                "dtype": "float32",
                "fixed_ms": 0.25,
                "per_token_ms": 0.01,
            },
        ),
        "policies": {
            "baseline": {"fixed_ms": 0.1, "per_pair_ms": 0.001},
            "token_drop": {"fixed_ms": 0.2, "per_pair_ms": 0.004},
        },
        "pack": {"fixed_ms": 0.05, "bytes_per_s": 1e6},
        "unpack": {"fixed_ms": 0.07, "bytes_per_s": 2e6},
        "link": {"fixed_ms": 0.3, "bytes_per_s": 4e5},
        "dispatch_exchanges_ms": 0.4,
        "barrier_ms": 0.6,
        **changes,
    }


MACHINE = Machine(**body())

FREE = {"fixed_ms": 0.0, "bytes_per_s": 1e18}
"""A copy or link of no cost."""


def loads(num_devices: int, num_experts: int = SHAPE.num_experts) -> st.SearchStrategy[np.ndarray]:
    """[D, E] whole or fractional loads, many of them 0."""
    one = st.one_of(st.just(0.0), st.integers(0, 60).map(float), st.floats(0, 40))
    size = num_devices * num_experts
    return st.lists(one, min_size=size, max_size=size).map(
        lambda values: np.array(values).reshape(num_devices, num_experts)
    )


def holds(num_devices: int, num_experts: int = SHAPE.num_experts) -> st.SearchStrategy[np.ndarray]:
    """bool [D, E]: placements, with copies."""
    holders = st.sets(st.integers(0, num_devices - 1), min_size=1)
    return st.lists(holders, min_size=num_experts, max_size=num_experts).map(
        lambda sets: np.array([[d in of for of in sets] for d in range(num_devices)])
    )

"""Capacity: worked values, exact ceilings, bounds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.routing import RoutingContext, TokenDrop, capacity
from evenmoe.routing.capacity import limits


@pytest.mark.parametrize(
    ("gamma", "tokens", "top_k", "experts", "expected"),
    [
        (1.0, 512, 8, 64, 64),  # exactly N
        (1.0, 100, 2, 8, 25),
        (1.0, 101, 2, 8, 26),  # 25.25 is rounded up: the paper's pseudo-code floors, its code ceils
        (1.1, 100, 2, 20, 11),  # 1.1 * 10 is 11.000000000000002 in floats
        (1.2000000000000002, 100, 2, 20, 12),  # what np.arange(1, 2, 0.1) makes of 1.2
        (0.1, 30, 8, 8, 3),
        (2.3, 1000, 1, 100, 23),
        (0.001, 4, 1, 64, 1),  # at least 1
        (64, 4, 1, 64, 4),  # at most the tokens
        (1e300, 4, 1, 64, 4),
        (10**400, 4, 1, 64, 4),
        (5e-324, 4, 1, 64, 1),
        (math.inf, 4, 1, 64, 4),
        (1.0, 0, 8, 64, 0),
    ],
)
def test_worked_values(gamma: float, tokens: int, top_k: int, experts: int, expected: int) -> None:
    assert capacity(gamma, tokens, top_k, experts) == expected


@settings(derandomize=True)
@given(
    st.one_of(st.integers(1, 400).map(lambda n: n / 100), st.floats(1e-9, 1e9)),
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 16)), min_size=1, max_size=4),
    st.integers(16, 256),
)
def test_limits_of_groups_are_the_exact_ceiling(
    gamma: float, groups: list[tuple[int, int]], experts: int
) -> None:
    """One definition for a number on the host and for tensors, whichever arithmetic serves."""
    tokens = torch.tensor([tokens for tokens, _ in groups])
    pairs = torch.tensor([tokens * top_k for tokens, top_k in groups])
    expected = [capacity(gamma, num_tokens, top_k, experts) for num_tokens, top_k in groups]
    exact = Fraction(f"{gamma:.12g}")
    assert expected == [min(max(1, math.ceil(exact * t * k / experts)), t) for t, k in groups]
    one = torch.ones(1, dtype=torch.long)
    assert limits(gamma, pairs, tokens, one, experts, int(tokens.sum())).view(-1).tolist() == expected
    # The same again with so many tokens in all that 64 bits would not do.
    assert limits(gamma, pairs, tokens, one, experts, 2**62).view(-1).tolist() == expected


def test_device_level_limit_is_the_share_of_all_its_experts() -> None:
    # N = 10 * 2 / 8 = 2.5; three experts at gamma 1 take ceil(7.5) = 8, which is less than 3 * ceil(2.5) = 9.
    experts_of_device = torch.tensor([3, 5, 0])
    assert limits(1.0, torch.tensor([20]), torch.tensor([10]), experts_of_device, 8, 10).tolist() == [
        [8, 13, 0]
    ]


@pytest.mark.parametrize("gamma", [2, Fraction(2), np.float32(2), np.int64(2)])
def test_any_real_number_works_like_the_float(gamma: float) -> None:
    assert TokenDrop(gamma=gamma) == TokenDrop(gamma=2.0)
    assert type(TokenDrop(gamma=gamma).gamma) is float
    assert capacity(gamma, 100, 2, 10) == 40


@pytest.mark.parametrize(
    "gamma", [0, -1, 0.0, -0.5, math.nan, -math.inf, True, False, "1.0", None, 1j, [1.0]]
)
def test_other_gammas_are_refused(gamma: object) -> None:
    with pytest.raises(
        ConfigError, match=r"^gamma = .* is not allowed: a number above 0 \(inf means no limit\)$"
    ):
        capacity(gamma, 4, 1, 64)


@pytest.mark.parametrize(
    ("field", "counts"),
    [
        ("num_tokens", (-1, 1, 1)),
        ("top_k", (4, 0, 8)),
        ("num_experts", (4, 1, 0)),
        ("num_tokens", (1.5, 1, 1)),
    ],
)
def test_other_counts_are_refused(field: str, counts: tuple) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} = "):
        capacity(1.0, *counts)


def test_capacity_counts_the_pairs_where_tokens_differ_in_their_k() -> None:
    # Six pairs over two experts are N = 3 each, whatever tokens they belong to.
    chosen = torch.tensor([[True, True], [True, False], [True, False], [True, False], [True, False]])
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.1], [0.4, 0.1], [0.3, 0.1], [0.2, 0.1]])
    kept = TokenDrop(gamma=1.0).keep(scores, chosen, RoutingContext())
    assert kept.nonzero().tolist() == [[0, 1], [1, 0], [2, 0], [3, 0]]

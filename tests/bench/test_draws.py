"""Drawn routing has exactly the counts of its shares, K distinct experts per token, and is otherwise random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.bench.draws import draw_routing, expert_counts
from evenmoe.bench.shares import Shares, feasible, synthetic_shares
from evenmoe.errors import ConfigError, ShapeError
from tests.oracles.draws import counts_by_largest_remainder, top_k_of


@st.composite
def draws(draw):
    num_experts = draw(st.integers(2, 24))
    top_k = draw(st.integers(1, num_experts))
    weights = draw(st.lists(st.integers(0, 50), min_size=num_experts, max_size=num_experts))
    share_E = np.array(weights, dtype=np.float64) + (0.0 if sum(weights) else 1.0)
    share_E = feasible(Shares(share_E=share_E / share_E.sum(), source="test"), top_k).share_E
    return share_E, draw(st.integers(1, 80)), top_k, draw(st.integers(0, 1000))


@given(draws())
@settings(max_examples=150)
def test_counts_are_exact_and_experts_distinct(case):
    share_E, num_tokens, top_k, seed = case
    routing = draw_routing(share_E, num_tokens, top_k, seed)
    assert routing.index_TK.shape == (num_tokens, top_k)
    assert all(len(set(row)) == top_k for row in routing.index_TK.tolist())
    assert routing.count_E.tolist() == expert_counts(share_E, num_tokens, top_k).tolist()
    assert routing.chosen_TE.sum(0).tolist() == routing.count_E.tolist()


@given(draws())
@settings(max_examples=60)
def test_counts_are_those_of_the_largest_remainder(case):
    share_E, num_tokens, top_k, _ = case
    counts = expert_counts(share_E, num_tokens, top_k)
    assert counts.sum() == num_tokens * top_k
    assert counts.max() <= num_tokens
    assert counts.tolist() == counts_by_largest_remainder(share_E.tolist(), num_tokens, top_k)


@given(draws())
@settings(max_examples=60)
def test_the_chosen_are_the_top_k_of_the_logits_best_first(case):
    share_E, num_tokens, top_k, seed = case
    routing = draw_routing(share_E, num_tokens, top_k, seed)
    for index_K, logits_E in zip(routing.index_TK.tolist(), routing.logits_TE.tolist(), strict=True):
        assert set(index_K) == top_k_of(logits_E, top_k)
        ranked = [logits_E[expert] for expert in index_K]
        assert ranked == sorted(ranked, reverse=True)


def test_the_same_seed_draws_the_same_bytes_and_another_seed_does_not():
    share_E = synthetic_shares(32, 4, 3.0).share_E
    first, again, other = (draw_routing(share_E, 200, 4, seed) for seed in (5, 5, 6))
    assert first.index_TK.tobytes() == again.index_TK.tobytes()
    assert first.logits_TE.tobytes() == again.logits_TE.tobytes()
    assert first.index_TK.tobytes() != other.index_TK.tobytes()


def test_even_shares_give_even_counts():
    counts = draw_routing(np.full(10, 0.1), 64, 3, seed=0).count_E
    assert counts.max() - counts.min() <= 1


def test_tokens_are_not_alike_for_being_neighbours():
    """What two tokens share must not depend on how far apart they are, or contiguous devices would be uneven."""
    routing = draw_routing(synthetic_shares(32, 4, 3.0).share_E, 2048, 4, seed=1)
    chosen_TE = routing.chosen_TE.astype(float)
    apart = [(chosen_TE * np.roll(chosen_TE, shift, axis=0)).sum(1).mean() for shift in (1, 2, 4, 512, 1024)]
    assert max(apart) - min(apart) < 0.1 * np.mean(apart)


def test_experts_are_chosen_together_as_often_as_chance_has_it():
    routing = draw_routing(synthetic_shares(64, 8, 4.0).share_E, 8192, 8, seed=3)
    chosen_TE = routing.chosen_TE.astype(float)
    together_EE = chosen_TE.T @ chosen_TE / 8192
    rate_E = chosen_TE.mean(0)
    busy = np.argsort(-routing.count_E)[:5]
    # A little under the product of the rates: who has one expert has room for seven more, not eight.
    ratios = [together_EE[a, b] / (rate_E[a] * rate_E[b]) for a in busy for b in busy if a < b]
    assert 0.85 < min(ratios)
    assert max(ratios) < 1.1


@pytest.mark.parametrize(
    ("share_E", "top_k", "error", "message"),
    [
        ([0.6, 0.2, 0.2], 2, ConfigError, "at most 1 / 2"),
        ([0.5, -0.1, 0.6], 1, ConfigError, "finite numbers of at least 0"),
        ([0.0, 0.0, 0.0], 1, ConfigError, "not all 0"),
        ([0.5, float("nan"), 0.5], 1, ConfigError, "finite"),
        ([0.5, 0.5], 3, ShapeError, "3 distinct experts"),
    ],
)
def test_impossible_shares_are_refused(share_E, top_k, error, message):
    with pytest.raises(error, match=message):
        draw_routing(np.array(share_E), 16, top_k, seed=0)

"""Sampling: an argmax of noisy scores draws from the softmax, and depends on nobody else."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.serving.transformers.server.sampling import Sampling, drawn_scores

SCORES_V = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.0, -3.0])


def shares(sampling, num=1500):
    draws = [int(drawn_scores(SCORES_V, sampling, position).argmax()) for position in range(num)]
    return np.bincount(draws, minlength=len(SCORES_V)) / num


def slow_distribution(temperature, top_k, top_p):
    """By the definitions: the k likeliest (ties in), then the fewest likeliest with the share p together."""
    logits = SCORES_V.numpy() / temperature
    if top_k:
        least = sorted(logits, reverse=True)[top_k - 1]
        logits = np.where(logits < least, -math.inf, logits)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    kept, total = np.zeros(len(shares)), 0.0
    for index in sorted(range(len(shares)), key=lambda index: -shares[index]):
        if total >= top_p and total > 0:
            break
        kept[index], total = shares[index], total + shares[index]
    return kept / kept.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 3, 1.0), (1.0, 0, 0.7), (1.5, 4, 0.9)],
)
def test_draws_follow_the_distribution(temperature, top_k, top_p):
    expected = slow_distribution(temperature, top_k, top_p)
    observed = shares(Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=1))
    assert (observed[expected == 0] == 0).all()
    five_sigma = 5 * np.sqrt(expected * (1 - expected) / 1500)
    assert (abs(observed - expected) <= five_sigma + 1e-9).all()


def test_temperature_zero_leaves_the_scores():
    assert drawn_scores(SCORES_V, Sampling(), 3) is SCORES_V


@settings(max_examples=30)
@given(temperature=st.sampled_from([1e-300, 1e-9, 1e-3]), seed=st.integers(0, 2**62))
def test_a_temperature_near_zero_is_greedy(temperature, seed):
    assert int(drawn_scores(SCORES_V, Sampling(temperature=temperature, seed=seed), 5).argmax()) == 0


def test_a_draw_depends_on_seed_and_position_alone():
    def draws(seed):
        return [
            int(drawn_scores(SCORES_V, Sampling(temperature=2.0, seed=seed), at).argmax()) for at in range(40)
        ]

    first = draws(3)
    torch.manual_seed(0)
    torch.rand(100)
    assert draws(3) == first
    assert draws(4) != first
    assert len(set(first)) > 2

"""Noise keeps each layer's sum and each expert's bound, scatters as described, and is nothing where it is off."""

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.simulation.workloads.load_noise import LoadNoise, noise_of_cosine, pairs_per_token
from tests.oracles.workloads import capped_shares, sampled_counts

QUIET = LoadNoise(request=0, alike_tokens=0)
TOKENS = 300
SKEWED = pairs_per_token(np.array([[[18.0, 9, 8, 5, 4, 3, 3, 2, 2, 1, 1, 0.5]]]), 3)


def drawn(noise, expected_LE, number, tokens=TOKENS, seed=0, top_k=3):
    expected_NLE = np.broadcast_to(expected_LE, (number, *expected_LE.shape[-2:]))
    return noise.draw(expected_NLE, np.full(number, tokens), top_k, np.random.default_rng(seed))


# Shares to pairs ------------------------------------------------------------------------------------------------------


def test_by_hand():
    assert pairs_per_token(np.array([[1.0, 1, 2]]), 1).tolist() == [[0.25, 0.25, 0.5]]
    assert pairs_per_token(np.array([[6.0, 1, 1, 0]]), 2).tolist() == [[1, 0.5, 0.5, 0]]
    assert pairs_per_token(np.array([[100.0, 10, 1, 1]]), 3).tolist() == [[1, 1, 0.5, 0.5]]
    assert pairs_per_token(np.array([[1.0, 2, 0]]), 2).tolist() == [[1, 1, 0]]


@given(data=st.data(), num_experts=st.integers(1, 12))
def test_shares_are_those_of_the_oracle(data, num_experts):
    top_k = data.draw(st.integers(1, num_experts))
    weight = st.floats(1e-6, 1e6)
    weights = data.draw(st.lists(weight, min_size=num_experts, max_size=num_experts))
    pairs = pairs_per_token(np.array([weights]), top_k)[0]
    np.testing.assert_allclose(pairs, capped_shares(weights, top_k), rtol=1e-6, atol=1e-12)


# Requests -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    noise=st.builds(
        LoadNoise,
        request=st.floats(0, 3),
        alike_tokens=st.floats(0, 1e4),
        prediction=st.sampled_from(["exact", "expected"]),
        prediction_error=st.floats(0, 3),
    ),
    top_k=st.integers(1, 8),
    tokens=st.integers(1, 10**6),
)
def test_each_layer_sums_to_k_and_no_expert_is_over_one(seed, noise, top_k, tokens):
    weight_LE = np.random.default_rng(seed).dirichlet(np.full(8, 0.2), 3) + 1e-9
    weight_LE[1, -1] = 0.0 if top_k < 8 else 1.0
    expected_LE = pairs_per_token(weight_LE, top_k)
    load_NLE, predicted_NLE = drawn(noise, expected_LE, 7, tokens, seed, top_k)
    for vector_NLE in (load_NLE, predicted_NLE):
        np.testing.assert_allclose(vector_NLE.sum(-1), top_k)
        assert (vector_NLE >= 0).all()
        assert (vector_NLE <= 1 + 1e-9).all()
        assert (vector_NLE[:, expected_LE == 0] == 0).all(), "an unused expert stays unused"


def test_without_noise_the_load_is_what_is_expected():
    load_NLE, predicted_NLE = drawn(QUIET, SKEWED, 5)
    np.testing.assert_array_equal(load_NLE, np.broadcast_to(SKEWED, load_NLE.shape))
    assert predicted_NLE is load_NLE


def test_sampling_scatters_like_tokens_drawn_one_by_one():
    tokens, rng = 100, random.Random(1)
    load_NLE, _ = drawn(LoadNoise(request=0, alike_tokens=1), SKEWED, 40_000, tokens)
    slow = np.array([sampled_counts(SKEWED.ravel().tolist(), tokens, rng) for _ in range(2000)]) / tokens
    fast, expected = load_NLE[:, 0], SKEWED[0, 0]
    sigma = np.sqrt(expected * (1 - expected) / tokens)
    assert np.abs(fast.mean(0) - expected).max() < 0.1 * sigma.max()
    np.testing.assert_allclose(slow.std(0), sigma, rtol=0.08)
    np.testing.assert_allclose(fast.std(0), sigma, rtol=0.06)
    np.testing.assert_allclose(np.cov(fast.T), np.cov(slow.T), atol=0.12 * (sigma**2).max())


def test_more_alike_tokens_are_fewer_tokens():
    few, _ = drawn(LoadNoise(request=0, alike_tokens=1), SKEWED, 100, 500)
    alike, _ = drawn(LoadNoise(request=0, alike_tokens=4), SKEWED, 100, 2000)
    np.testing.assert_array_equal(few, alike)


def test_a_request_of_its_own_scatters_log_normally():
    even_LE = np.full((1, 400), 8 / 400)
    load_NLE, _ = drawn(LoadNoise(request=0.3, alike_tokens=0), even_LE, 500, top_k=8)
    assert np.log(load_NLE).std() == pytest.approx(0.3, rel=0.02)
    few, many = (
        drawn(LoadNoise(request=0.3), even_LE, 400, tokens, top_k=8)[0].std() for tokens in (200, 10**9)
    )
    assert many == pytest.approx(np.exp(0.045) * math.sqrt(math.expm1(0.09)) * 0.02, rel=0.1)
    assert few > 1.5 * many


# Predictions ----------------------------------------------------------------------------------------------------------


def test_a_prediction_is_the_load_or_what_was_expected_and_moves_nothing_else():
    exact = LoadNoise(request=0.4)
    told = dataclasses.replace(exact, prediction="expected")
    erring = dataclasses.replace(exact, prediction_error=0.5)
    loads = [drawn(noise, SKEWED, 50) for noise in (exact, told, erring)]
    for load_NLE, _ in loads[1:]:
        np.testing.assert_array_equal(load_NLE, loads[0][0])
    np.testing.assert_array_equal(loads[1][1], np.broadcast_to(SKEWED, (50, *SKEWED.shape[1:])))
    assert not np.allclose(loads[2][1], loads[2][0])


@pytest.mark.parametrize("cosine", [0.99, 0.93, 0.8])
def test_the_noise_of_a_cosine_gives_that_cosine(cosine):
    noise = dataclasses.replace(QUIET, prediction_error=noise_of_cosine(cosine))
    expected_LE = pairs_per_token(np.random.default_rng(3).dirichlet(np.full(500, 2.0), 1), 4)
    load_NLE, predicted_NLE = drawn(noise, expected_LE, 200, top_k=4)
    load_NE, predicted_NE = load_NLE[:, 0], predicted_NLE[:, 0]
    lengths = np.linalg.norm(load_NE, axis=1) * np.linalg.norm(predicted_NE, axis=1)
    assert ((load_NE * predicted_NE).sum(1) / lengths).mean() == pytest.approx(cosine, abs=0.01)
    assert noise_of_cosine(1.0) == 0


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: LoadNoise(request=-0.1), "request"),
        (lambda: LoadNoise(alike_tokens=float("nan")), "alike_tokens"),
        (lambda: LoadNoise(prediction="oracle"), "prediction"),
        (lambda: LoadNoise(prediction_error=float("inf")), "prediction_error"),
        (lambda: noise_of_cosine(0.0), "cosine"),
        (lambda: noise_of_cosine(1.1), "cosine"),
    ],
)
def test_wrong_settings_are_refused(make, field):
    with pytest.raises(ConfigError) as refused:
        make()
    assert refused.value.field == field

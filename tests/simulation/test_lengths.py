"""Lengths are whole numbers of at least 1 with the distribution that was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.simulation.workloads.lengths import MOST_TOKENS, Fixed, Geometric, LogNormal, Uniform


def drawn(lengths, number=200_000, seed=0):
    return lengths.draw(number, np.random.default_rng(seed))


def test_fixed_and_uniform():
    assert set(drawn(Fixed(7), 5).tolist()) == {7}
    values, counts = np.unique(drawn(Uniform(3, 6)), return_counts=True)
    assert values.tolist() == [3, 4, 5, 6]
    assert (counts / 200_000).tolist() == pytest.approx([0.25] * 4, abs=0.005)
    assert set(drawn(Uniform(4, 4), 5).tolist()) == {4}


@pytest.mark.parametrize(("mean", "sigma"), [(512.0, 0.8), (100.0, 0.0), (2000.0, 1.2)])
def test_log_normal_has_its_mean_and_sigma(mean, sigma):
    lengths = drawn(LogNormal(mean, sigma))
    assert lengths.mean() == pytest.approx(mean, rel=0.02)
    assert np.log(lengths).std() == pytest.approx(sigma, rel=0.01, abs=1e-9)


def test_log_normal_is_cut_at_both_ends():
    lengths = drawn(LogNormal(3.0, 2.0, most=64))
    assert (lengths.min(), lengths.max()) == (1, 64)
    assert drawn(LogNormal(1e9, 2.0)).max() == MOST_TOKENS
    assert (np.log(drawn(LogNormal(500.0, 1.0))) - np.log(500.0 / np.exp(0.5)) < 1).mean() == pytest.approx(
        0.8413, abs=0.005
    )


@pytest.mark.parametrize("mean", [1.0, 1.5, 64.0])
def test_geometric_has_its_mean_and_forgets(mean):
    lengths = drawn(Geometric(mean))
    assert lengths.mean() == pytest.approx(mean, rel=0.01)
    assert (lengths == 1).mean() == pytest.approx(1 / mean, abs=0.005)


@settings(max_examples=60)
@given(
    lengths=st.one_of(
        st.builds(Fixed, st.integers(1, MOST_TOKENS)),
        st.integers(1, MOST_TOKENS).flatmap(
            lambda most: st.builds(Uniform, st.integers(1, most), st.just(most))
        ),
        st.builds(LogNormal, st.floats(1, 1e300), st.floats(0, 100), st.integers(1, MOST_TOKENS)),
        st.builds(Geometric, st.floats(1, 1e300)),
    ),
    seed=st.integers(0, 2**32),
)
def test_every_length_is_a_whole_number_in_range(lengths, seed):
    tokens = drawn(lengths, 50, seed)
    assert tokens.dtype == np.int64
    assert tokens.shape == (50,)
    assert tokens.min() >= 1
    assert tokens.max() <= MOST_TOKENS
    assert tokens.tobytes() == drawn(lengths, 50, seed).tobytes()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Fixed(0), "tokens"),
        (lambda: Fixed(2.0), "tokens"),
        (lambda: Fixed(True), "tokens"),
        (lambda: Fixed(MOST_TOKENS + 1), "tokens"),
        (lambda: Uniform(0, 4), "least"),
        (lambda: Uniform(5, 4), "most"),
        (lambda: LogNormal(0.5, 1.0), "mean"),
        (lambda: LogNormal(float("nan"), 1.0), "mean"),
        (lambda: LogNormal(5.0, -1.0), "sigma"),
        (lambda: LogNormal(5.0, 1.0, most=0), "most"),
        (lambda: Geometric(0.99), "mean"),
        (lambda: Geometric(float("inf")), "mean"),
    ],
)
def test_what_is_no_length_is_refused(make, field):
    with pytest.raises(ConfigError) as refused:
        make()
    assert refused.value.field == field

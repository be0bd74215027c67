"""Means and intervals over seeds: tabled values, worked examples, and gains that are paired."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.simulation.studies.intervals import paired_gain, spread, student_t

TABLED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("freedom", "t"), TABLED.items())
def test_student_t_is_as_tabled(freedom, t):
    assert student_t(freedom) == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 6])
def test_student_t_by_integrating_its_density(freedom):
    t = np.linspace(0.0, student_t(freedom), 200_001)
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    density = scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    assert 2 * np.trapezoid(density, t) == pytest.approx(0.95, abs=1e-6)


def test_a_worked_example():
    # mean 3, squares 4 + 1 + 1 + 4 = 10, std sqrt(10 / 3); half width 3.1824 * std / 2
    found = spread([1.0, 2.0, 4.0, 5.0])
    assert (found.mean, found.std) == (3.0, pytest.approx(math.sqrt(10 / 3)))
    assert found.low == pytest.approx(3 - 3.18245 * math.sqrt(10 / 3) / 2, abs=1e-4)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


def test_one_seed_has_no_interval():
    found = spread([2.5])
    assert (found.mean, found.std, found.low, found.high) == (2.5, 0.0, None, None)


def test_gains_are_paired_and_signed():
    assert paired_gain([0.9, 1.8], [1.0, 2.0]).mean == pytest.approx(0.1)
    found = paired_gain([110.0, 220.0], [100.0, 200.0], higher_is_better=True)
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-12), "seeds that differ alike are no spread"


@pytest.mark.parametrize("arguments", [([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([], [])])
def test_what_cannot_be_compared_is_refused(arguments):
    with pytest.raises(ConfigError):
        paired_gain(*arguments)


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_the_interval_is_around_the_mean_and_scales(number, seed):
    values = np.random.default_rng(seed).normal(5, 2, number).tolist()
    found, twice = spread(values), spread([2 * value for value in values])
    assert found.low <= found.mean <= found.high
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert twice.high - twice.low == pytest.approx(2 * (found.high - found.low))


def test_nineteen_of_twenty_intervals_hold_the_mean():
    rng = np.random.default_rng(3)
    found = [spread(rng.normal(1.0, 1.0, 4).tolist()) for _ in range(4000)]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert covered == pytest.approx(0.95, abs=0.015)

"""Each metric against a hand-worked value, its bounds, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe import loads
from evenmoe.errors import ConfigError, ShapeError

load_vectors = st.lists(st.integers(0, 10_000), min_size=1, max_size=40)


def test_hand_worked_values():
    load = [8, 2, 2, 4]
    assert loads.peak_to_mean(load) == 2.0
    assert loads.coefficient_of_variation(load) == pytest.approx(np.sqrt(6.0) / 4.0)
    assert loads.gini(load) == pytest.approx(0.3125)
    assert loads.device_load(load, [0, 0, 1, 1], 2).tolist() == [10.0, 6.0]
    assert loads.straggler_factor([[10, 6], [8, 8]]) == pytest.approx(18 / 16)
    assert loads.straggler_factor([[5, 4]], even=[8.0]) == pytest.approx(5 / 8)
    assert loads.drop_rate([8, 2], [5, 2]) == pytest.approx(0.3)
    assert loads.gate_mass_kept(4.0, 3.0) == 0.75
    assert loads.relative_work([8, 8], [8, 4]) == 0.75


@given(load_vectors)
def test_bounds_and_oracles(load):
    num_entries, total = len(load), sum(load)
    peak = loads.peak_to_mean(load)
    assert 1.0 <= peak <= num_entries + 1e-9
    differences = sum(abs(a - b) for a in load for b in load)
    slow_gini = differences / (2 * num_entries * total) if total else 0.0
    assert loads.gini(load) == pytest.approx(slow_gini, abs=1e-9)
    assert 0.0 <= loads.gini(load) <= (num_entries - 1) / num_entries + 1e-9
    if total:
        assert peak == pytest.approx(max(load) * num_entries / total)


@given(load_vectors, st.integers(1, 50))
def test_scale_and_order_do_not_matter(load, scale):
    for metric in (loads.peak_to_mean, loads.coefficient_of_variation, loads.gini):
        assert metric([scale * x for x in reversed(load)]) == pytest.approx(metric(load), abs=1e-9)


def test_an_empty_step_is_even():
    assert loads.peak_to_mean([0, 0]) == 1.0
    assert loads.coefficient_of_variation([0, 0]) == loads.gini([0, 0]) == 0.0
    assert loads.straggler_factor([[0, 0]]) == 1.0


def test_metrics_reduce_the_last_axis_and_nothing_else():
    stack = np.array([[[4, 0], [2, 2]], [[1, 3], [0, 0]]])
    assert np.asarray(loads.peak_to_mean(stack)).tolist() == [[2.0, 1.0], [1.5, 1.0]]
    assert isinstance(loads.peak_to_mean([1, 2]), float)


@pytest.mark.parametrize("bad", [[-1, 2], [np.nan, 1], [np.inf, 1]])
def test_impossible_loads_are_refused(bad):
    with pytest.raises(ConfigError, match="finite numbers of at least 0"):
        loads.peak_to_mean(bad)


def test_disagreeing_shapes_are_refused():
    with pytest.raises(ShapeError, match="at least one axis"):
        loads.gini(3)
    with pytest.raises(ShapeError, match=r"needs \(2,\)"):
        loads.straggler_factor([[1, 2], [3, 4]], even=[1.0])
    with pytest.raises(ShapeError, match="3 experts need"):
        loads.device_load([1, 2, 3], [0, 1], 2)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        loads.device_load([1, 2], [0, 2], 2)


def test_substitutes_are_not_survivors():
    with pytest.raises(ConfigError, match="at most the 4 top-k assignments"):
        loads.drop_rate([4], [5])

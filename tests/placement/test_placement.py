"""Placement: what it answers, by hand and against a slow version, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads import device_load
from evenmoe.placement import Placement
from tests.oracles import placement as slow


@st.composite
def holders(draw):
    """(devices, holders [E]) with one to all devices for each expert."""
    num_devices = draw(st.integers(1, 6))
    some = st.sets(st.integers(0, num_devices - 1), min_size=1).map(sorted)
    return num_devices, draw(st.lists(some, min_size=1, max_size=12))


def test_hand_worked():
    placement = Placement.of([[0, [1, 0], 1], [1, 1, 0]], 2, layers=["a", "b"])
    assert (placement.num_layers, placement.num_experts(0), placement.num_copies(0)) == (2, 3, 4)
    assert placement.is_replicated
    assert placement.holders_LE[0] == ((0,), (0, 1), (1,)), "holders are ascending"
    assert placement.holds(0).tolist() == [[True, True, False], [False, True, True]]
    assert placement.device_of_expert(1).tolist() == [1, 1, 0]
    assert placement.device_load([2, 4, 8], 0).tolist() == [4.0, 10.0], "the copies of expert 1 take 2 each"
    assert placement.device_load([[2, 4, 8], [1, 1, 1]], 1).tolist() == [[8.0, 6.0], [1.0, 2.0]]


def test_equal_placements_are_equal_however_they_are_written():
    plain = Placement.of([0, 1, 0, 1], 2)
    for rows in (np.array([0, 1, 0, 1]), np.array([[0, 1, 0, 1]]), [[[0], [1], [0], [1]]], ((0, 1, 0, 1),)):
        assert Placement.of(rows, 2) == plain
    assert Placement.of([0, [0, 1]], 2) == Placement.of([[0, [1, 0]]], 2)
    assert hash(plain) == hash(Placement.of([0, 1, 0, 1], 2))


@given(holders(), st.data())
def test_device_load_against_the_slow_version(case, data):
    num_devices, holders_E = case
    load_E = data.draw(st.lists(st.integers(0, 999), min_size=len(holders_E), max_size=len(holders_E)))
    placement = Placement.of([holders_E], num_devices)
    load_D = placement.device_load(load_E, 0)
    np.testing.assert_allclose(load_D, slow.device_load(load_E, holders_E, num_devices))
    assert load_D.sum() == pytest.approx(sum(load_E)), "nothing is lost or counted twice"
    if not placement.is_replicated:
        np.testing.assert_array_equal(load_D, device_load(load_E, placement.device_of_expert(0), num_devices))


def test_one_layer_serves_all_layers_of_a_model():
    assert Placement.of([0, 1], 2).for_layers([2, 2, 2]).holders_LE == (((0,), (1,)),) * 3
    two = Placement.of([[0, 1], [1, 0, 0]], 2)
    assert two.for_layers([2, 3]) == two
    with pytest.raises(ShapeError, match="2 layers, the model has 3"):
        two.for_layers([2, 3, 3])
    with pytest.raises(ShapeError, match=r"layer '1' of the placement has 3 experts, the model's has 2"):
        two.for_layers([2, 2])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 2], "from 0 to 1"),
        ([0, -1], "from 0 to 1"),
        ([[[0, 0]]], "different devices"),
        ([[0, []]], "a list of different device numbers"),
        ([[0.5, 0]], "a device number"),
        ([["0", 0]], "a device number"),
        ([[True, 0]], "a device number"),
        ([[]], "at least one expert"),
        ([], "a device for each expert"),
        ("01", "a device for each expert"),
        ([[0], "0"], "rows of one kind"),
        ([[0], None], "rows of one kind"),
    ],
)
def test_impossible_placements_are_refused(rows, message):
    with pytest.raises(ConfigError, match=message):
        Placement.of(rows, 2)


@pytest.mark.parametrize("num_devices", [0, -1, True, 1.0, "2"])
def test_impossible_numbers_of_devices_are_refused(num_devices):
    with pytest.raises(ConfigError, match="num_devices"):
        Placement.of([0], num_devices)


def test_names_must_fit_and_copies_have_no_single_device():
    with pytest.raises(ShapeError, match="1 layer names for 2 layers"):
        Placement.of([[0], [0]], 1, layers=["a"])
    with pytest.raises(ConfigError, match=r"expert 1 in layer '0'.*one device"):
        Placement.of([0, [0, 1]], 2).device_of_expert(0)


def test_loads_of_other_sizes_are_refused():
    with pytest.raises(ShapeError, match="3 experts need"):
        Placement.of([0, 1], 2).device_load([1, 2, 3], 0)
    with pytest.raises(ConfigError, match="experts on no device"):
        device_load([1, 2], np.array([[True, False], [True, False]]), 2)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        device_load([1, 2], [0, 0.5], 2)
